// SPDX-License-Identifier: Apache-2.0
//
// One pull of some shards from one peer: afterwards this node holds all that the peer held when the
// session began, and knows what the peer had expired by then.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "allezon/v1/replica.pb.h"
#include "replica/core/freshness.h"
#include "replica/core/types.h"

namespace allezon::replica {

// Digests from coarse to fine, then ids, then events, one operation at a time, each bounded. It
// leaves nothing behind but what was committed: one that breaks off is begun anew and finds what is
// still missing. Retention is no fault: events that either side expires meanwhile are missing to
// nobody.
//
// What the peer has expired is asked for last: whatever its log did not hold any more when its
// events were read is among the rows that were read after them, and what it expires after that was
// read as events. The log is looked at twice, the second time after the rows: meanwhile the tag of
// a key may have moved to a minute that was passed already, or a tag that had expired may have been
// accepted again, and be an event by then. Not thread-safe.
class SyncSession {
 public:
  // What is to be done next; monostate: nothing, it has ended.
  using Next = std::variant<std::monostate, PeerRequest, StorageRequest>;

  struct Scope {
    std::vector<ShardId> shards;
    // Those of them of which also the rows are pulled, that views keep of what retention expired.
    absl::flat_hash_set<ShardId> with_rows;
    // Nothing but what the peer has expired.
    bool only_expired = false;
    // With it: only what was expired then or later. What is older and missing here shows in the
    // hashes that digests are compared with, and then everything is asked for.
    uint32_t expired_since_s = 0;
  };

  // `digests` must outlive it.
  SyncSession(uint64_t placement_version, Scope scope, const DigestSource& digests);

  // `now` is when the returned request is sent.
  Next Begin(Instant now);
  // The operation of the last Next succeeded. kInternal: the peer answers what was not asked.
  absl::StatusOr<Next> Answered(PeerResponse response);
  Next Stored(std::string missing);

  // The shard that is being pulled; none before the first and after the last.
  std::optional<ShardId> pulling() const {
    return shards_.empty() ? std::nullopt : std::optional<ShardId>(shards_.front());
  }
  // Shards that have been pulled whole, each returned once.
  std::vector<ShardId> TakePulled();
  // From the first answer about digests; all that was pulled, the peer held at `begun`.
  Instant begun() const { return begun_; }
  uint64_t incarnation() const { return incarnation_; }
  const Received& received() const { return received_; }

  uint64_t events() const { return events_; }  // that were pulled
  // Of answers since the last call.
  uint64_t TakeBytes();
  bool has_rows_of(ShardId shard) const { return scope_.with_rows.contains(shard); }
  // Whether its log was found to differ, and is not known to be here yet.
  bool is_bringing(ShardId shard) const;
  bool only_expired() const { return scope_.only_expired; }

 private:
  enum class Step {
    kShards,
    kHours,
    kMinutes,
    kIds,
    kEventsById,
    kAllEvents,
    kRows,
    kExpired,
    kConfirm
  };

  // Whether the peer may know of a later acceptance of what is here too.
  bool looks_for_raised() const { return has_rows_of(shards_.front()) && !looks_again_; }
  Next AskExpired();
  v1::ReadDigestsRequest DigestsOf(v1::DigestLevel level, absl::Span<const ShardId> shards) const;
  Next AskDigests(Step step, v1::ReadDigestsRequest request);
  Next AskShards(Instant now);
  Next AskHours();
  Next AskMinutes();
  Next AskIds();
  Next AskEvents();
  Next AskRows();
  // Asks for ids or events of the first minute; where there is none, goes on.
  Next AskInMinute();
  // Goes on with the next minute; page of minutes or hours, rows or shard.
  Next NextMinute();
  Next NextHours();
  Next LookAgain();
  Next EndShard();
  Next NextShard();
  Next AskConfirm();

  absl::StatusOr<Next> TookDigests(const v1::ReadDigestsResponse& response);
  absl::StatusOr<Next> TookShardDigests(const v1::ReadDigestsResponse& response);
  absl::StatusOr<Next> TookHourDigests(const v1::ReadDigestsResponse& response);
  absl::StatusOr<Next> TookMinuteDigests(const v1::ReadDigestsResponse& response);
  absl::StatusOr<Next> TookExpired(v1::ReadExpiredResponse& response);
  Next TookIds(v1::ReadIdsResponse& response);
  absl::StatusOr<Next> TookEvents(v1::ReadEventsResponse& response);
  absl::Status TookWholeMinutes(const v1::ReadEventsResponse& response);
  absl::StatusOr<Next> TookRows(v1::ReadRowsResponse& response);

  const uint64_t placement_version_;
  const Scope scope_;
  const DigestSource& digests_;

  Step step_ = Step::kShards;
  Instant begun_ = kNever;
  uint64_t incarnation_ = 0;
  Received received_;
  // Digests of the shard under way, a page at a time: what differs in a page is pulled before the
  // next one is asked for. So a session holds no more than a page, however many there are; and
  // whatever the peer held at `begun` is in a page still to come or was looked at.
  struct Page {
    std::optional<int64_t> after;  // the start of the last digest that was looked at
    bool has_more = false;

    // Notes an answer; kInternal where it does not go on behind the last one.
    absl::Status Took(const v1::ReadDigestsResponse& response);
  };
  std::deque<ShardId> shards_;  // still to be looked into, the first one is under way
  bool looks_again_ = false;    // at the log of that one
  std::deque<int64_t> hours_;   // of the page, that differ and were not asked about
  Page hour_page_;
  std::vector<int64_t> asked_hours_;  // whose minutes are asked for
  Page minute_page_;
  struct Minute {
    int64_t minute = 0;
    bool whole = false;  // little of it is here: events are pulled without a look at ids
  };
  std::deque<Minute> minutes_;  // of the page, that differ
  size_t asked_minutes_ = 0;    // how many of them were asked for at once, with all events
  std::string after_;           // the last id, event id or row key that was looked at
  std::string missing_;         // ids of events to ask for
  bool has_more_ = false;
  bool has_more_ids_ = false;
  std::string ids_end_;              // the last id of the page that missing_ is of
  std::vector<ShardId> expired_of_;  // whose records are asked for
  std::optional<v1::ExpiredRange> expired_after_;

  std::vector<ShardId> pulled_;
  // The same, but for whether all answers were of one incarnation of the peer: one that lost its
  // disk in between had less to give.
  std::vector<ShardId> unconfirmed_;
  uint64_t events_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace allezon::replica
