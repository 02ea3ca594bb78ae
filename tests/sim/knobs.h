// SPDX-License-Identifier: Apache-2.0
//
// What a seed makes of a run: each draws which faults there are and how hard they are, how large
// the cluster is, and how tight its bounds are (swarm testing: Groce et al., ISSTA 2012).
#pragma once

#include <cstdint>
#include <string>

#include "replica/core/types.h"
#include "tests/sim/store.h"
#include "tests/sim/world.h"

namespace allezon::sim {

// The true time, in seconds since 1970, when a run begins; and the minute of the newest tags then.
inline constexpr int64_t kStartMinute = 27'000'000;  // in 2021
inline constexpr int64_t kStartS = kStartMinute * 60;
// Of one run, true time of the wall.
constexpr replica::WallUs TrueWallUs(Time now) { return kStartS * kSecond + now; }

// Times between two faults are means; 0: never.
struct Knobs {
  int nodes = 1;
  uint32_t shards = 1;
  uint32_t rf = 1;
  uint32_t write_quorum = 1;
  // The disks are those of a cluster that was stopped; else they are new.
  bool disks_joined = false;
  // Nodes start within so much of each other.
  Time start_spread_us = 0;
  Time faults_us = 30 * kSecond;  // how long the phase of load and faults lasts

  // Load.
  Time write_every_us = 50 * kMs;
  int group_events_max = 1;  // events of one write
  int minutes = 2;
  double late = 0;        // of tags: far behind the newest
  double ahead = 0;       // of tags: some minutes ahead of the newest
  int late_minutes = 60;  // how far behind
  double keyed = 0.3;
  double race = 0;  // of keys: another body at the same time by another coordinator
  int cookies = 10;
  Time write_deadline_us = 5 * kSecond;
  Time attempt_timeout_us = kSecond;
  double wrong_coordinator = 0;
  double hedge = 0;
  double repeat = 0;      // of an event with an idempotency key, long after
  double other_body = 0;  // of those

  // Network. A message takes delay_min to delay_max, or, with `straggle`, up to straggle_max.
  Time delay_min_us = 200;
  Time delay_max_us = 2 * kMs;
  double loss = 0;
  double duplicate = 0;
  double straggle = 0;
  Time straggle_max_us = kSecond;
  Time cut_every_us = 0;
  Time cut_max_us = 10 * kSecond;
  Time clog_every_us = 0;
  Time clog_max_us = 5 * kSecond;

  // Disks.
  Time commit_min_us = 200;
  Time commit_max_us = 2 * kMs;
  double stall = 0;  // of a commit
  Time stall_max_us = kSecond;
  Time full_every_us = 0;
  Time full_max_us = 5 * kSecond;
  Time read_max_us = kMs;
  Pages pages;

  // Processes and clocks.
  Time crash_every_us = 0;
  Time down_max_us = 5 * kSecond;
  double wipe = 0;       // of crashes
  double damage = 0;     // of wipes: they leave a part instead
  double crash_all = 0;  // of crashes: of all nodes at once
  Time pause_every_us = 0;
  Time pause_max_us = 8 * kSecond;
  Time jump_every_us = 0;
  Time jump_max_us = 20 * kSecond;
  double drift = 0;  // a clock's rate is 1 +- drift
  Time sync_now_every_us = 0;
  // Addresses: calls to one node come to another one.
  Time stray_every_us = 0;
  Time stray_max_us = 5 * kSecond;

  // Wall clocks: all are right within skew, but for one of a node or of a gateway.
  Time wall_skew_us = 50 * kMs;
  int wrong_node = -1;
  bool wrong_gateway = false;
  Time wall_every_us = 0;  // that one is set
  Time wall_wrong_max_us = kSecond;

  bool expires = false;  // retention is short enough to be seen

  Time tick_us = replica::kTickUs;
  replica::CoreOptions core;  // self and incarnation are each node's own

  std::string ToString() const;
};

Knobs DrawKnobs(Random& random);

}  // namespace allezon::sim
