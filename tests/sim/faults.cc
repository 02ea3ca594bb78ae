// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/faults.h"

#include <utility>

namespace allezon::sim {

Faults::Faults(Cluster& cluster, SimClients& clients)
    : cluster_(cluster), clients_(clients), world_(cluster.world), knobs_(cluster.knobs) {}

void Faults::Start() {
  on_ = true;
  Repeat(knobs_.cut_every_us, [this] { Cut(); });
  Repeat(knobs_.clog_every_us, [this] { Clog(); });
  Repeat(knobs_.crash_every_us, [this] { Crash(); });
  Repeat(knobs_.pause_every_us, [this] { Pause(); });
  Repeat(knobs_.jump_every_us, [this] { JumpClock(); });
  Repeat(knobs_.full_every_us, [this] { FillDisk(); });
  Repeat(knobs_.sync_now_every_us, [this] { SyncNow(); });
  Repeat(knobs_.stray_every_us, [this] { Stray(); });
  Repeat(knobs_.wall_every_us, [this] { SetWall(); });
}

void Faults::Repeat(Time every, std::function<void()> fault) {
  if (every == 0) return;
  world_.After(world_.random.Between(0, 2 * every), [this, every, fault = std::move(fault)] {
    if (!on_) return;
    fault();
    Repeat(every, fault);
  });
}

void Faults::Cut() {
  const int endpoints = cluster_.network.endpoints();
  const Time until = Until(knobs_.cut_max_us);
  const uint64_t shape = world_.random.Below(4);
  if (shape < 2) {  // one link, in one direction or in both
    const auto from = static_cast<int>(world_.random.Below(endpoints));
    const auto to = static_cast<int>(world_.random.Below(endpoints));
    cluster_.network.Cut(from, to, until);
    if (shape == 1) cluster_.network.Cut(to, from, until);
    return;
  }
  // Some nodes apart from the others, in one direction or in both.
  const uint64_t group = shape == 2 ? 1u << RandomNode() : world_.random.Next();
  const bool inward = world_.random.Chance(0.7);
  const bool outward = !inward || world_.random.Chance(0.7);
  for (int a = 0; a < endpoints; ++a) {
    for (int b = 0; b < endpoints; ++b) {
      if ((group >> a & 1) == 0 || (group >> b & 1) != 0) continue;
      if (outward) cluster_.network.Cut(a, b, until);
      if (inward) cluster_.network.Cut(b, a, until);
    }
  }
}

void Faults::Clog() {
  const Time until = Until(knobs_.clog_max_us);
  const int node = RandomNode();
  const auto other = static_cast<int>(world_.random.Below(cluster_.network.endpoints()));
  if (world_.random.Chance(0.7)) {
    if (world_.random.Chance(0.5)) return cluster_.network.Clog(node, other, until);
    return cluster_.network.Clog(other, node, until);
  }
  for (int peer = 0; peer < cluster_.network.endpoints(); ++peer) {
    cluster_.network.Clog(node, peer, until);
    cluster_.network.Clog(peer, node, until);
  }
}

void Faults::Crash() {
  if (!world_.random.Chance(knobs_.crash_all)) return CrashOne(RandomNode());
  for (int node = 0; node < knobs_.nodes; ++node) CrashOne(node);
}

void Faults::CrashOne(int index) {
  SimNode& node = *cluster_.nodes[index];
  if (!node.up()) return;
  node.Crash();
  ++cluster_.oracle.totals().crashes;
  if (world_.random.Chance(knobs_.wipe) && MayWipe(index)) {
    if (world_.random.Chance(knobs_.damage)) {
      node.Damage();
      ++cluster_.oracle.totals().damages;
    } else {
      node.Wipe();
      ++cluster_.oracle.totals().wipes;
    }
  }
  world_.At(Until(knobs_.down_max_us), [&node] {
    if (!node.up()) node.Start();
  });
}

// A tag that was acknowledged is on W replicas. As long as fewer than W of them have lost it and
// not got it back, it is there.
bool Faults::MayWipe(int node) const {
  for (const auto& replicas : cluster_.placement.replicas) {
    bool holds = false;
    uint32_t lost = 1;
    for (ShardId shard = static_cast<ShardId>(&replicas - cluster_.placement.replicas.data());
         const router::Replica& replica : replicas) {
      const auto other = static_cast<int>(replica.instance);
      if (other == node) {
        holds = true;
      } else if (!cluster_.nodes[other]->disk().joined()[shard]) {
        ++lost;
      }
    }
    if (holds && lost >= knobs_.write_quorum) return false;
  }
  return true;
}

void Faults::Pause() {
  SimNode& node = *cluster_.nodes[RandomNode()];
  if (node.up() && !node.paused()) node.Pause(Until(knobs_.pause_max_us));
}

void Faults::JumpClock() {
  SimNode& node = *cluster_.nodes[RandomNode()];
  node.JumpClock(world_.random.Skewed(10 * kMs, knobs_.jump_max_us));
}

void Faults::FillDisk() {
  const int node = RandomNode();
  const Time until = Until(knobs_.full_max_us);
  world_.Note("disk is full", node, -1, -1, -1, until - world_.now());
  cluster_.nodes[node]->disk().Fill(until);
}

void Faults::SyncNow() {
  SimNode& node = *cluster_.nodes[RandomNode()];
  if (node.up() && !node.paused()) node.SyncNow();
}

void Faults::Stray() {
  cluster_.network.Stray(RandomNode(), RandomNode(), Until(knobs_.stray_max_us));
}

// The one clock that may be wrong is set, or put right.
void Faults::SetWall() {
  Time ahead = world_.random.Between(-knobs_.wall_skew_us, knobs_.wall_skew_us);
  if (world_.random.Chance(0.7)) {
    ahead = world_.random.Skewed(100 * kMs, knobs_.wall_wrong_max_us);
    if (world_.random.Chance(0.5)) ahead = -ahead;
  }
  if (knobs_.wrong_node >= 0) {
    cluster_.nodes[knobs_.wrong_node]->SetWall(ahead);
  } else {
    clients_.SetWall(ahead);
  }
}

void Faults::Heal() {
  on_ = false;
  world_.Note("all is healed");
  cluster_.network.Heal();
  for (const auto& node : cluster_.nodes) {
    node->disk().Heal();
    if (!node->up()) node->Start();
    if (node->paused()) node->Resume();
    // With two nodes retention rests for as long as one clock is behind.
    const bool is_wrong = &node - cluster_.nodes.data() == knobs_.wrong_node;
    if (is_wrong && (knobs_.nodes == 2 || world_.random.Chance(0.5))) node->SetWall(0);
  }
}

}  // namespace allezon::sim
