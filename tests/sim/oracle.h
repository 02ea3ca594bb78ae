// SPDX-License-Identifier: Apache-2.0
//
// What must hold, told by the simplest means: a list of what was asked for, when it was
// acknowledged, and what retention was decided to expire when.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "replica/core/types.h"
#include "router/placement.h"
#include "tests/sim/knobs.h"
#include "tests/sim/store.h"
#include "tests/sim/world.h"

namespace allezon::sim {

struct Cluster;

// How much happened, so that a run that tests nothing is seen.
struct Totals {
  uint64_t runs = 0;
  uint64_t asked = 0;
  uint64_t acknowledged = 0;
  uint64_t crashes = 0;
  uint64_t wipes = 0;
  uint64_t damages = 0;
  uint64_t lanes_dropped = 0;
  uint64_t sessions = 0;
  uint64_t synced_events = 0;
  uint64_t expired_events = 0;  // on all disks
  uint64_t decisions = 0;       // buckets that were decided to expire
  uint64_t other_bodies = 0;    // of keys that were asked for before
  uint64_t syncs_checked = 0;
  uint64_t queries_full = 0;
  uint64_t queries_gone = 0;
  uint64_t checks_served = 0;   // (node, shard) looked at while it served
  uint64_t checks_refused = 0;  // while it did not
  Time healed_us = 0;           // the sum, and the longest
  Time healed_most_us = 0;

  void Add(const Totals& other);
};

// What a peer holds of some shards: its log, and the rows that are not of its log.
struct Holdings {
  std::vector<EventRef> log;
  std::vector<EventRef> rows;
  std::vector<bool> joined;  // by shard: what its disk had joined
};

// Tags with one idempotency key are bodies of one tag: an answer to any of them is one to all, and
// whichever body is kept stands for them.
class Oracle {
 public:
  Oracle(World& world, const Knobs& knobs, const router::Placement& placement);

  // A client asks for a new tag, or for another body of one; its index is in its content.
  void Asked(const EventRef& event);
  // A client asks for it again; `event` has the key, and perhaps another stamp.
  void AskedAgain(const EventRef& event);
  uint32_t asked() const { return static_cast<uint32_t>(tags_.size()); }
  bool acknowledged(uint32_t tag) const { return tags_[tag].acknowledged; }

  // A disk holds the event from now on, or what the rules leave of it.
  void Stored(int node, const EventRef& event, const SimStore& store);
  // A coordinator says so of what it took at `taken_us`; `stored` is what it stored for that. It
  // must be on W joined disks, and, where that is expected, on the first replica of its shard.
  void Acknowledged(int node, const EventRef& asked, const EventRef& stored, Time taken_us,
                    const Cluster& cluster);
  // A coordinator takes it, and is about to store `stored` for it. One that knows the key stores
  // nothing anew.
  void Accepted(int node, const EventRef& asked, const EventRef& stored, const SimStore& store);
  // A node's core decides to expire buckets.
  void Decided(int node, const replica::ExpireRanges& request);
  // A disk records that, by its own node's decision or by another's.
  void Expires(int node, const replica::ExpireRanges& request);
  // And drops an event by it. None may go early, whoever decided it.
  void Dropped(int node, const EventRef& event, const Cluster& cluster);
  // A node holds all that the peer held of the shard when a session began, and, if `joined`, the
  // peer's disk had joined the shard: or so it says.
  void CheckSynced(int node, int peer, ShardId shard, const Holdings& held, bool joined,
                   const Cluster& cluster);
  // From now on nothing fails and nobody is slow: who reads one replica finds what was asked for
  // since, once it is acknowledged.
  void ExpectReadable() { expect_readable_since_ = world_.now(); }
  // The process is gone, and what its disk holds is to be looked at again.
  void Restarted(int node);
  // What was on a disk that is being wiped keeps its vote.
  void Wiped(int node, ShardId shard, bool joined, const SimStore& store);

  // `node` serves the shard, so it holds all that was acknowledged longer ago than is allowed.
  void CheckFresh(int node, ShardId shard, const SimStore& store);
  // Reads a random minute at replicas that serve: the answer is whole, or none.
  void CheckQuery(const Cluster& cluster);
  // Everything has come to rest: all replicas hold and answer the same, and nothing is lost.
  void CheckSettled(const Cluster& cluster);
  // Who has the tag, for a person to read.
  void PrintTag(int64_t tag, const Cluster& cluster, std::FILE* out) const;

  Totals& totals() { return totals_; }

 private:
  struct Tag {
    EventRef event;
    uint32_t first = 0;            // of its key
    std::vector<uint32_t> bodies;  // at the first: all with its key, where there are several
    Time asked_us = 0;
    bool acknowledged = false;
    // At the first, of any body.
    Time taken_us = -1;              // by a coordinator, the last time
    std::vector<Time> requested_us;  // when clients began to ask for it
    Time acknowledged_us = -1;       // the last time
    // Of what was acknowledged: when the last client of it began to ask, and the stamp then.
    Time accepted_us = -1;
    uint32_t accepted_s = 0;
    // The earliest stamp that any disk has stored it with: a client's tries may differ in it.
    uint32_t lowest_s = UINT32_MAX;
    uint32_t was_on = 0;  // joined disks that had it when they were wiped, as bits
  };
  struct Acknowledgement {
    uint32_t tag = 0;
    Time time_us = 0;
    Time accepted_us = 0;
  };
  struct Decision {
    uint32_t through_s = 0;
    uint32_t expired_at_s = 0;
    Time time_us = 0;
  };
  using Bucket = std::pair<ShardId, int64_t>;
  // A disk dropped copies by a record that was decided long ago, so that they may have been
  // accepted again elsewhere: whom it has pulled from since.
  struct Adopted {
    Time time_us = 0;
    Time decided_us = 0;
    std::set<int> pulled_from;  // of those that had joined
  };

  template <typename Predicate>
  bool AnyBody(uint32_t tag, Predicate predicate) const;
  bool InLog(uint32_t tag, const SimStore& store) const;
  bool HasRow(uint32_t tag, const SimStore& store) const;
  // Whether the contract owes it no more, and retention has expired its minute here. Whoever
  // decided that may not have been told of the last acceptance: others had expired it already.
  bool IsExpired(uint32_t tag, Time accepted_us, const SimStore& store) const;
  // Whether the store has what was acknowledged then, or retention rightly took it.
  bool Holds(const Acknowledgement& acknowledgement, const SimStore& store) const;
  Time StalenessMax() const;
  // How much the stamp of an event may be behind the true time, and the clocks of nodes apart.
  Time StampErrorMax() const;

  // Whether so long after a decision nothing can be lacking that is older than a replica may be
  // behind.
  bool IsLongAgo(Time decided_us) const;
  void CheckMinute(const Cluster& cluster, int64_t minute);
  void CheckReplica(int node, ShardId shard, const SimStore& store);
  void CheckBodies(int node, ShardId shard, const SimStore& store);
  void CheckViews(int node, ShardId shard, const SimStore& store);

  World& world_;
  const Knobs& knobs_;
  const router::Placement& placement_;
  std::vector<Tag> tags_;
  std::map<EventId, uint32_t, SimStore::ById> keys_;  // to the first tag
  std::map<int64_t, std::vector<uint32_t>> tags_of_;  // by minute
  std::map<Bucket, std::vector<uint32_t>> tags_in_;
  int64_t newest_asked_ms_ = INT64_MIN;
  std::map<Bucket, std::vector<Decision>> decisions_;
  std::map<ShardId, Time> adopting_;  // of what a disk is about to drop: the oldest decision
  std::vector<std::map<ShardId, Adopted>> adopted_;  // by node
  // By shard: what was acknowledged, in that order; and by node, how many of them from the first
  // its disk is known to hold.
  std::vector<std::vector<Acknowledgement>> acknowledged_;
  std::vector<std::vector<size_t>> held_;
  Time expect_readable_since_ = std::numeric_limits<Time>::max();
  Totals totals_;
};

}  // namespace allezon::sim
