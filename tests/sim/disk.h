// SPDX-License-Identifier: Apache-2.0
//
// A disk: what survives a crash of the process, and the commits that are on their way to it.
#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "tests/sim/knobs.h"
#include "tests/sim/store.h"
#include "tests/sim/world.h"

namespace allezon::sim {

// Commits end in the order in which they were begun, as those of one log do. Until a commit has
// ended nobody sees it; after it has ended nothing but a wipe takes it away. In between a crash
// may keep it, drop it, or tear it.
class SimDisk {
 public:
  struct Commit {
    std::vector<EventRef> events;
    std::vector<ShardId> joined;
    replica::ExpireRanges expire;
    replica::StoreRows rows;
    // Called unless the process dies before. `refused`: which of the events are not stored, where
    // the status is not OK; empty: none is stored.
    std::function<void(const absl::Status&, const std::vector<bool>& refused)> done;
  };
  // Told of what becomes durable.
  struct Observer {
    std::function<void(const EventRef&)> has;  // an event, or what the rules leave of it
    std::function<void(const replica::ExpireRanges&)> expires;  // before anything goes
    std::function<void(const EventRef&)> dropped;               // by retention
  };

  SimDisk(World& world, const Knobs& knobs, int node, bool joined, Observer observer);

  void Begin(Commit commit);
  // The process died: of what was under way any prefix is kept, the last of it perhaps in part.
  void Crash();
  // All is lost.
  void Wipe(bool joined);
  // All is lost that came after the last Remember, or everything; the next process finds that out.
  void Damage();
  void Remember() { earlier_ = store_; }
  // Commits are refused, all or some of their events, until then.
  void Fill(Time until) { full_until_ = until; }
  // Up to which acceptance all was here at some time; a crash keeps it, a wipe does not.
  void NoteComplete(replica::WallS complete_s) { complete_s_ = complete_s; }
  // No faults from now on.
  void Heal();

  const SimStore& store() const { return store_; }
  const std::vector<bool>& joined() const { return joined_; }
  replica::DiskRecord record() const { return {joined_, damaged_, complete_s_}; }

 private:
  void EndOldest();
  void Keep(const Commit& commit);
  void KeepEvents(const Commit& commit, size_t events);
  SimStore NewStore() const;
  Time Latency();

  World& world_;
  const Knobs& knobs_;
  const int node_;
  const Observer observer_;
  SimStore store_;
  std::optional<SimStore> earlier_;
  std::vector<bool> joined_;   // by shard
  std::vector<bool> damaged_;  // by shard
  replica::WallS complete_s_ = 0;
  std::deque<Commit> under_way_;
  uint64_t generation_ = 0;  // crashes so far; what an older one began never ends
  Time busy_until_ = 0;
  Time full_until_ = 0;
  bool healed_ = false;
};

}  // namespace allezon::sim
