// SPDX-License-Identifier: Apache-2.0
//
// The words of the core: times, names, and what it wants done.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "allezon/v1/replica.pb.h"
#include "replica/digest.h"
#include "router/shard.h"
#include "router/writer.h"

namespace allezon::replica {

using router::EventId;
using router::EventRef;
using router::ShardId;

// Microseconds of a clock of this process that never goes back and goes on while it is stopped.
using Instant = int64_t;
inline constexpr Instant kNever = std::numeric_limits<Instant>::min();

// Seconds and microseconds since 1970 by a wall clock: this machine's, or what several agree on.
using WallS = int64_t;
using WallUs = int64_t;

using WriteId = uint64_t;    // the caller's
using BatchId = uint64_t;    // of a peer's lane
using CallId = uint64_t;     // of polls and sync
using StorageId = uint64_t;  // of operations that the core asked for

inline constexpr Instant kTickUs = 20'000;

struct CoreOptions {
  uint32_t self = 0;          // index into the placement's instances
  uint32_t write_quorum = 1;  // replicas that must have a tag before it is acknowledged
  uint64_t incarnation = 1;   // new each time the node starts

  // Reads are answered while all that was acknowledged up to so long ago is surely here. Below the
  // 10 s after which every acknowledged tag must be visible.
  Instant staleness_max_us = 5'000'000;
  Instant poll_period_us = 500'000;
  Instant poll_period_hasty_us = 100'000;   // while not every shard may be served
  Instant poll_period_idle_us = 5'000'000;  // of a peer that shares no shard, while it answers
  Instant poll_timeout_us = 1'000'000;
  // A peer that vouched for nothing newer counts as silent, and what it coordinated is looked for
  // at the others.
  Instant silent_after_us = 2'000'000;
  // Every pair of replicas compares everything this often.
  Instant sync_period_us = 600'000'000;
  // Between two sessions about the same shard; doubles up to the second while a silent replica's
  // writes keep coming in elsewhere.
  Instant sync_pause_min_us = 200'000;
  Instant sync_pause_max_us = 2'000'000;
  Instant sync_timeout_us = 5'000'000;  // of one call
  // What sessions may bring in a second, all together, so that they leave room for what comes in.
  uint64_t sync_bytes_per_second = 64 << 20;
  uint32_t sync_sessions_max = 2;
  uint32_t sync_shards_max = 16;  // of one session

  // What was accepted longer ago may be expired, once its minute is as much older than the newest.
  WallS retention_s = 86'400;

  // No write waits longer for its quorum.
  Instant write_timeout_max_us = 1'000'000;
  // A new disk is whole only after syncs that began so long after the start: by then no vote counts
  // any more that was given by the disk that was there before. Above the last one, for clocks.
  Instant join_after_us = 1'250'000;
  // Events that wait for their quorum; more is refused.
  uint32_t events_pending_max = 100'000;
  // Of a peer's lane.
  uint32_t lane_batches_in_flight_max = 2;
  // So many do not wait for the answer to the batch before.
  uint32_t lane_large_batch_events = 64;
  uint32_t lane_batch_events_max = 1'000;
  uint64_t lane_batch_bytes_max = 1 << 20;
  // What a peer is owed after its writers were answered; beyond, it is forgotten and left to a
  // sync.
  uint64_t lane_owed_events_max = 200'000;
  uint64_t lane_owed_bytes_max = 64 << 20;
  Instant lane_retry_min_us = 20'000;
  Instant lane_retry_max_us = 500'000;
  Instant lane_timeout_us = 1'000'000;  // of one batch
  // A peer that owes a vote for so long, and for some times as long as the fastest one takes
  // lately, is late: no write with a quorum waits for it any more. With a tick on top that is about
  // what routers wait before they hold the coordinator for overdue, at least 60 ms.
  Instant late_min_us = 30'000;
  Instant late_max_us = 500'000;
};

// Hours whose minutes a peer is asked about at once: they fit a page of digests (replica.proto).
inline constexpr int kDigestHoursMax = 32;
// Minutes beyond the first whose events a peer is asked for at once, all of them.
inline constexpr int kMoreMinutesMax = 1'000;

// What this node's own set is, as of now; what was committed is in it.
class DigestSource {
 public:
  virtual ~DigestSource() = default;
  virtual Digest ShardDigest(ShardId shard) const = 0;
  virtual Digest HourDigest(ShardId shard, int64_t hour) const = 0;
  virtual Digest MinuteDigest(ShardId shard, int64_t minute) const = 0;
  // When the newest of the bucket's events was accepted, or later; 0 where it is empty.
  virtual uint32_t NewestAcceptedS(ShardId shard, int64_t minute) const = 0;
  // Up to which acceptance retention has expired the bucket; 0 where it never did.
  virtual uint32_t ExpiredThroughS(ShardId shard, int64_t minute) const = 0;
  // Whether the records of this node say all that already.
  virtual bool HasExpired(const v1::ExpiredRange& range) const = 0;
  // Of all that retention has expired of the shard: equal where the records are.
  virtual uint64_t ExpiredHash(ShardId shard) const = 0;
  // Counts the events with idempotency keys that retention has removed of the shard since the
  // process started.
  virtual uint64_t ExpiredKeyed(ShardId shard) const = 0;
};

// A bucket: the events of one shard in one minute.
struct BucketRef {
  ShardId shard = 0;
  int64_t minute = 0;

  friend auto operator<=>(const BucketRef&, const BucketRef&) = default;
};
// One that retention may expire by what is known here.
struct ExpiryCandidate {
  BucketRef bucket;
  uint32_t newest_accepted_s = 0;
};

// The outcome of one event of a write: OK, or why not. An event that failed may be stored.
struct WriteOutcome {
  WriteId id = 0;
  // Empty: every event is durable on a write quorum. Else by event.
  std::vector<absl::Status> failures;
};

using PeerRequest =
    std::variant<v1::PollRequest, v1::ReadDigestsRequest, v1::ReadIdsRequest, v1::ReadEventsRequest,
                 v1::ReadExpiredRequest, v1::ReadRowsRequest, v1::ReadNewestRequest>;
using PeerResponse = std::variant<v1::PollResponse, v1::ReadDigestsResponse, v1::ReadIdsResponse,
                                  v1::ReadEventsResponse, v1::ReadExpiredResponse,
                                  v1::ReadRowsResponse, v1::ReadNewestResponse>;

// Which of `ids` (16 bytes each) the log of the shard's minute lacks, or has with a tag that makes
// way for the peer's: an id that came from an idempotency key, whose content hash here is larger
// than in `keyed_hashes` (one for each such id). With `raised`, also such ids that were accepted
// again at the peer: later than here by more than RaiseSlackS. What retention expired is not
// missing: ids whose accepted_s is not after ExpiredThroughS of the bucket.
struct FindMissing {
  ShardId shard = 0;
  int64_t minute = 0;
  std::string ids;
  std::vector<uint32_t> accepted_s;
  std::vector<uint64_t> keyed_hashes;
  bool raised = false;
};
// Commit events that a peer had.
struct StoreEvents {
  std::vector<v1::Event> events;
};
// Expire what the ranges say, and record it. With `only_whole`, minutes of a range that hold
// anything newer meanwhile are left as they are, and left out of the record.
struct ExpireRanges {
  std::vector<v1::ExpiredRange> ranges;
  bool only_whole = false;
};
// Put rows that a peer's view keeps.
struct StoreRows {
  ShardId shard = 0;
  std::vector<v1::ViewRow> rows;
};
// Record on disk that this node is a full replica of the shards.
struct RecordJoined {
  std::vector<ShardId> shards;
};
using StorageRequest =
    std::variant<FindMissing, StoreEvents, ExpireRanges, StoreRows, RecordJoined>;

// What the core wants done; each call adds to it, and the caller does it in order.
struct Actions {
  struct Replicate {
    uint32_t peer = 0;
    BatchId batch = 0;
    Instant timeout_us = 0;
    Instant oldest_age_us = 0;  // how long the oldest event has waited here
    std::vector<EventRef> events;
  };
  struct Call {
    uint32_t peer = 0;
    CallId id = 0;
    Instant timeout_us = 0;
    PeerRequest request;
  };
  struct Storage {
    StorageId id = 0;
    StorageRequest request;
  };

  std::vector<WriteOutcome> outcomes;
  std::vector<Replicate> replicate;
  std::vector<Call> calls;
  std::vector<Storage> storage;

  bool empty() const {
    return outcomes.empty() && replicate.empty() && calls.empty() && storage.empty();
  }
};

// What a disk says of itself when a process begins on it.
struct DiskRecord {
  std::vector<bool> joined;  // by shard: it holds all that a replica of the shard under this name
                             // ever acknowledged
  // By shard: it was found damaged, and is not whole again. What it lacks may have been on no other
  // disk but one that is damaged or new as well; a new disk in its place would say less than that.
  std::vector<bool> damaged;
  WallS complete_s = 0;  // all that was accepted up to then was here, as CompleteS said once; 0:
                         // never
};

// Staleness of a shard about which nothing is known.
inline constexpr Instant kStalenessUnknownUs = 3'600'000'000;

struct CoreStats {
  uint64_t events_pending = 0;  // that wait for their quorum
  uint64_t owed_events = 0;     // to all peers, in flight included
  uint64_t owed_bytes = 0;
  uint64_t owed_events_most = 0;  // the peer that is owed most
  uint64_t lanes_dropped = 0;     // times that a lane forgot what it owed
  uint64_t sessions_started = 0;
  uint64_t sessions_ended = 0;
  uint64_t sessions_failed = 0;
  uint64_t sync_events = 0;  // pulled
  uint64_t sync_bytes = 0;
  uint64_t expired_buckets = 0;  // that this node decided about
  uint32_t shards_serving = 0;
  uint32_t shards_unjoined = 0;  // those that are damaged among them
  uint32_t shards_damaged = 0;
  Instant staleness_us = 0;  // of the shard that is furthest behind
};

}  // namespace allezon::replica
