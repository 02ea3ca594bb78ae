// SPDX-License-Identifier: Apache-2.0
//
// What must hold, told by the simplest means: a list of what was asked for and when it was
// acknowledged.
#pragma once

#include <cstdint>
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
  uint64_t lanes_dropped = 0;
  uint64_t sessions = 0;
  uint64_t synced_events = 0;
  uint64_t checks_served = 0;   // (node, shard) looked at while it served
  uint64_t checks_refused = 0;  // while it did not
  Time healed_us = 0;           // the sum, and the longest
  Time healed_most_us = 0;

  void Add(const Totals& other);
};

class Oracle {
 public:
  Oracle(World& world, const Knobs& knobs, const router::Placement& placement);

  // A client asks for a new tag; its index is in its content.
  void Asked(const EventRef& event);
  uint32_t asked() const { return static_cast<uint32_t>(tags_.size()); }
  bool acknowledged(uint32_t tag) const { return tags_[tag].acknowledged_us >= 0; }

  // A disk holds the event from now on.
  void Stored(int node, const EventRef& event);
  // A coordinator says so. It must be on W joined disks, and, where that is expected, on the first
  // replica of its shard.
  void Acknowledged(int node, const EventRef& event, const Cluster& cluster);
  // From now on nothing fails and nobody is slow: who reads one replica finds what was
  // acknowledged.
  void ExpectReadable() { expect_readable_ = true; }
  // The process is gone, and what its disk holds is to be looked at again.
  void Restarted(int node);
  // What was on a disk that is being wiped keeps its vote.
  void Wiped(int node, ShardId shard, bool joined, const SimStore& store);

  // `node` serves the shard, so it holds all that was acknowledged longer ago than is allowed.
  void CheckFresh(int node, ShardId shard, const SimStore& store);
  // Everything has come to rest: all replicas hold and answer the same, and nothing is lost.
  void CheckSettled(const Cluster& cluster);
  // Who has the tag, for a person to read.
  void PrintTag(int64_t tag, const Cluster& cluster, std::FILE* out) const;

  Totals& totals() { return totals_; }

 private:
  struct Tag {
    EventRef event;
    Time acknowledged_us = -1;
    uint32_t was_on = 0;  // joined disks that had it when they were wiped, as bits
  };

  void CheckReplica(int node, ShardId shard, const SimStore& store);
  void CheckViews(int node, ShardId shard, const SimStore& store);

  World& world_;
  const Knobs& knobs_;
  const router::Placement& placement_;
  std::vector<Tag> tags_;
  // By shard: what was acknowledged, in that order; and by node, how many of them from the first
  // its disk is known to hold.
  std::vector<std::vector<uint32_t>> acknowledged_;
  std::vector<std::vector<size_t>> held_;
  bool expect_readable_ = false;
  Totals totals_;
};

}  // namespace allezon::sim
