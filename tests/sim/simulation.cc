// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/simulation.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/sim/client.h"
#include "tests/sim/faults.h"
#include "tests/sim/knobs.h"
#include "tests/sim/network.h"
#include "tests/sim/node.h"

namespace allezon::sim {
namespace {

// In a healed cluster; besides the period of syncs, by which what failed half-way is found.
constexpr Time kHealingMax = 45 * kSecond;
constexpr Time kSyncPeriodWaitedForMax = 60 * kSecond;
// What was sent or begun before healing has arrived or ended after it.
constexpr Time kLateMax = 20 * kSecond;
constexpr int kLastWrites = 50;
constexpr Time kQueryEvery = 300 * kMs;
constexpr size_t kTraceEntriesShown = 150;

router::Placement MakePlacement(const Knobs& knobs) {
  std::vector<router::Instance> instances;
  for (int i = 0; i < knobs.nodes; ++i) {
    instances.push_back({absl::StrCat("n", i), absl::StrCat("sim:", i + 1), ""});
  }
  return *router::MakePlacement(std::move(instances), knobs.shards, knobs.rf, knobs.write_quorum);
}

class Simulation {
 public:
  Simulation(uint64_t seed, bool print_trace)
      : seed_(seed),
        world_(seed, print_trace),
        knobs_(DrawKnobs(world_.random)),
        placement_(MakePlacement(knobs_)),
        network_(world_, knobs_),
        oracle_(world_, knobs_, placement_),
        cluster_{world_, knobs_, placement_, network_, oracle_, {}},
        clients_(cluster_),
        faults_(cluster_, clients_) {
    if (print_trace) std::printf("seed %" PRIu64 ": %s\n", seed, knobs_.ToString().c_str());
    for (int i = 0; i < knobs_.nodes; ++i) {
      cluster_.nodes.push_back(std::make_unique<SimNode>(cluster_, i));
    }
  }

  Outcome Run() {
    for (const auto& node : cluster_.nodes) {
      world_.After(world_.random.Below(static_cast<uint64_t>(knobs_.start_spread_us) + 1),
                   [&node] { node->Start(); });
    }
    clients_.Start();
    faults_.Start();
    Query();
    world_.RunUntil(knobs_.faults_us);
    clients_.Stop();
    if (!world_.violated()) Heal();
    if (!world_.violated()) WriteLast();
    if (!world_.violated()) oracle_.CheckSettled(cluster_);
    return End();
  }

 private:
  void Query() {
    world_.After(kQueryEvery, [this] {
      oracle_.CheckQuery(cluster_);
      Query();
    });
  }

  bool IsSettled() const {
    if (clients_.unfinished() > 0) return false;
    for (const auto& node : cluster_.nodes) {
      if (!node->core()->Quiet()) return false;
      for (const ShardId shard : node->core()->shards()) {
        const auto first = placement_.replicas[shard].front().instance;
        const SimStore& here = node->disk().store();
        const SimStore& there = cluster_.nodes[first]->disk().store();
        if (!node->core()->CheckServing(shard, node->Clock()).ok() ||
            here.ShardDigest(shard) != there.ShardDigest(shard) ||
            here.ExpiredHash(shard) != there.ExpiredHash(shard)) {
          return false;
        }
      }
    }
    return true;
  }

  void Settle(Time within, const char* after_what) {
    const Time end = world_.now() + within;
    while (!IsSettled()) {
      if (world_.violated()) return;
      if (world_.now() >= end) return TellUnsettled(after_what, within);
      world_.RunUntil(world_.now() + 100 * kMs);
    }
  }

  void TellUnsettled(const char* after_what, Time within) {
    std::string what = absl::StrCat("not at rest ", within / kSecond, " s after ", after_what);
    int64_t about = -1;
    if (clients_.unfinished() > 0) {
      absl::StrAppend(&what, "; ", clients_.unfinished(), " writes are not answered");
    }
    for (const auto& node : cluster_.nodes) {
      const auto index = &node - cluster_.nodes.data();
      if (!node->core()->Quiet()) absl::StrAppend(&what, "; node ", index, " is not quiet");
      for (const ShardId shard : node->core()->shards()) {
        const auto first = placement_.replicas[shard].front().instance;
        const absl::Status serving = node->core()->CheckServing(shard, node->Clock());
        if (!serving.ok()) {
          absl::StrAppend(&what, "; node ", index, " shard ", shard, ": ", serving.message());
          about = shard;
        }
        if (node->disk().store().ShardDigest(shard) !=
            cluster_.nodes[first]->disk().store().ShardDigest(shard)) {
          absl::StrAppend(&what, "; nodes ", first, " and ", index, " differ in shard ", shard);
          about = shard;
        }
        if (node->disk().store().ExpiredHash(shard) !=
            cluster_.nodes[first]->disk().store().ExpiredHash(shard)) {
          absl::StrAppend(&what, "; nodes ", first, " and ", index,
                          " have not expired the same of shard ", shard);
          about = shard;
        }
      }
    }
    world_.Violate(std::move(what), about);
  }

  void Heal() {
    faults_.Heal();
    const Time healed = world_.now();
    Time within = kHealingMax;
    if (knobs_.core.sync_period_us <= kSyncPeriodWaitedForMax) {
      within += knobs_.core.sync_period_us;
    } else {
      // What failed half-way is found by a sync that begins after all of it has arrived.
      within += kLateMax;
      world_.After(kLateMax, [this] {
        for (const auto& node : cluster_.nodes) node->SyncNow();
      });
    }
    // Disks go on being stalled by what they have begun.
    world_.RunUntil(world_.now() + knobs_.stall_max_us);
    Settle(within, "healing");
    Totals& totals = oracle_.totals();
    totals.healed_us = totals.healed_most_us = world_.now() - healed;
  }

  // A healed cluster takes every write, and they are read at once unless messages and disks are so
  // slow that a peer is late without a fault.
  void WriteLast() {
    // What a node holds of its peers' lanes is as of its last tick.
    world_.RunUntil(world_.now() + 2 * knobs_.tick_us);
    const Time slowest = 2 * knobs_.delay_max_us + 3 * knobs_.commit_max_us + knobs_.read_max_us;
    if (slowest < knobs_.core.late_min_us / 2) oracle_.ExpectReadable();
    const uint64_t failed = clients_.failed();
    for (int i = 0; i < kLastWrites; ++i) {
      world_.After(world_.random.Between(0, kSecond), [this] { clients_.WriteOne(); });
    }
    world_.RunUntil(world_.now() + kSecond);
    Settle(kHealingMax, "the last writes");
    if (!world_.violated() && clients_.failed() > failed) {
      world_.Violate("a write failed in a healed cluster");
    }
  }

  Outcome End() {
    Totals totals = oracle_.totals();
    totals.runs = 1;
    for (const auto& node : cluster_.nodes) {
      if (!node->up()) continue;
      const replica::CoreStats stats = node->core()->stats(node->Clock());
      totals.lanes_dropped += stats.lanes_dropped;
      totals.sessions += stats.sessions_started;
      totals.synced_events += stats.sync_events;
    }
    if (world_.violated()) {
      std::printf("seed %" PRIu64 ": VIOLATION: %s\n  %s\n", seed_, world_.violation().c_str(),
                  knobs_.ToString().c_str());
      world_.trace().PrintAbout(world_.violation_shard(), world_.violation_tag(),
                                kTraceEntriesShown, stdout);
      if (world_.violation_tag() >= 0) {
        oracle_.PrintTag(world_.violation_tag(), cluster_, stdout);
      }
      std::printf("seed %" PRIu64 ": VIOLATION: %s\n", seed_, world_.violation().c_str());
      std::fflush(stdout);
    }
    return {world_.violation(), world_.trace().hash(), totals};
  }

  const uint64_t seed_;
  World world_;
  const Knobs knobs_;
  const router::Placement placement_;
  Network network_;
  Oracle oracle_;
  Cluster cluster_;
  SimClients clients_;
  Faults faults_;
};

}  // namespace

Outcome RunSeed(uint64_t seed, bool print_trace) {
  return std::make_unique<Simulation>(seed, print_trace)->Run();
}

}  // namespace allezon::sim
