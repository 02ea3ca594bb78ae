// SPDX-License-Identifier: Apache-2.0
//
// What goes wrong, when. Stays within what is promised: see README.md.
#pragma once

#include <functional>

#include "tests/sim/client.h"
#include "tests/sim/node.h"

namespace allezon::sim {

class Faults {
 public:
  Faults(Cluster& cluster, SimClients& clients);

  // Faults happen from now on, until Heal.
  void Start();
  // Everything is up and works from now on.
  void Heal();

 private:
  void Repeat(Time every, std::function<void()> fault);
  void Cut();
  void Clog();
  void Crash();
  void CrashOne(int node);
  void Pause();
  void JumpClock();
  void FillDisk();
  void SyncNow();
  void Stray();
  void SetWall();
  bool MayWipe(int node) const;
  int RandomNode() { return static_cast<int>(world_.random.Below(cluster_.knobs.nodes)); }
  // A duration: mostly short.
  Time Until(Time most) { return world_.now() + world_.random.Skewed(most / 50 + 1, most); }

  Cluster& cluster_;
  SimClients& clients_;
  World& world_;
  const Knobs& knobs_;
  bool on_ = false;
};

}  // namespace allezon::sim
