// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/knobs.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace allezon::sim {
namespace {

void DrawCluster(Random& random, Knobs& knobs) {
  // More nodes than replicas is what people run.
  knobs.nodes = static_cast<int>(random.Chance(0.8) ? random.Between(3, 6) : random.Between(1, 5));
  knobs.shards = static_cast<uint32_t>(random.Between(1, random.Chance(0.8) ? 4 : 12));
  const int rf_max = std::min(random.Chance(0.75) ? 3 : 5, knobs.nodes);
  knobs.rf = static_cast<uint32_t>(random.Chance(0.8) ? rf_max : random.Between(1, rf_max));
  knobs.write_quorum =
      random.Chance(0.8) ? knobs.rf / 2 + 1 : static_cast<uint32_t>(random.Between(1, knobs.rf));
  knobs.disks_joined = random.Chance(0.6);
  knobs.start_spread_us = random.Chance(0.5) ? 0 : random.Skewed(10 * kMs, 5 * kSecond);
  knobs.faults_us = random.Between(15, 45) * kSecond;
  knobs.tick_us = random.Chance(0.7) ? replica::kTickUs : random.Between(5, 60) * kMs;
}

void DrawLoad(Random& random, Knobs& knobs) {
  knobs.write_every_us = random.Skewed(15 * kMs, 400 * kMs);
  knobs.group_events_max = random.Chance(0.5) ? 1 : static_cast<int>(random.Between(2, 8));
  knobs.minutes = static_cast<int>(random.Chance(0.8) ? random.Between(1, 4) : 150);
  knobs.cookies = static_cast<int>(random.Chance(0.2) ? 1 : random.Between(2, 40));
  knobs.write_deadline_us = random.Skewed(kSecond, 10 * kSecond);
  knobs.attempt_timeout_us = random.Skewed(200 * kMs, 3 * kSecond);
  knobs.wrong_coordinator = random.Chance(0.3) ? 0 : random.Unit();
  knobs.hedge = random.Chance(0.6) ? 0 : random.Unit() * 0.3;
  knobs.repeat = random.Chance(0.4) ? 0 : random.Unit() * 0.3;
  knobs.other_body = random.Chance(0.4) ? 0 : random.Unit() * 0.8;
  knobs.keyed = random.Chance(0.5) ? 0.3 : random.Unit();
  knobs.race = random.Chance(0.6) ? 0 : random.Unit() * 0.3;
}

void DrawRetention(Random& random, Knobs& knobs) {
  // Beyond every run.
  knobs.core.retention_s = 10'000'000;
  if (random.Chance(0.4)) return;
  knobs.expires = true;
  knobs.core.retention_s = random.Between(10, 40);
  knobs.faults_us = random.Between(40, 90) * kSecond;
  knobs.write_every_us = random.Skewed(40 * kMs, 400 * kMs);
  knobs.minutes = static_cast<int>(random.Between(1, 6));
  knobs.late = random.Chance(0.3) ? 0 : random.Unit() * (random.Chance(0.5) ? 0.05 : 0.4);
  knobs.late_minutes = static_cast<int>(random.Skewed(5, 120));
  knobs.ahead = random.Chance(0.7) ? 0 : random.Unit() * 0.05;
  // A process's clock, by which the walls of others are told between two answers, may be wrong by a
  // little, but not jump.
  knobs.jump_every_us = 0;
  knobs.drift = std::min(knobs.drift, 0.005);
}

void DrawWalls(Random& random, Knobs& knobs) {
  knobs.wall_skew_us = random.Skewed(kMs, 50 * kMs);
  // With a W of 1 a node coordinates while it hears no other clock than its own.
  if (knobs.write_quorum == 1 || random.Chance(0.4)) return;
  // Two nodes are enough to tell which clocks not to go by, but one is not.
  if (knobs.nodes > 1 && random.Chance(0.7)) {
    knobs.wrong_node = static_cast<int>(random.Below(static_cast<uint64_t>(knobs.nodes)));
  } else {
    knobs.wrong_gateway = true;
  }
  knobs.wall_every_us = random.Skewed(kSecond, 30 * kSecond);
  knobs.wall_wrong_max_us = random.Skewed(2 * kSecond, 5 * 86'400 * kSecond);
}

void DrawNetwork(Random& random, Knobs& knobs) {
  knobs.delay_min_us = random.Skewed(50, 5 * kMs);
  knobs.delay_max_us = knobs.delay_min_us + random.Skewed(100, 50 * kMs);
  knobs.loss = random.Chance(0.6) ? 0 : random.Unit() * (random.Chance(0.2) ? 0.3 : 0.05);
  knobs.duplicate = random.Chance(0.6) ? 0 : random.Unit() * 0.1;
  knobs.straggle = random.Chance(0.5) ? 0 : random.Unit() * 0.1;
  knobs.straggle_max_us = random.Skewed(100 * kMs, 6 * kSecond);
  knobs.cut_every_us = random.Chance(0.4) ? 0 : random.Skewed(2 * kSecond, 30 * kSecond);
  knobs.cut_max_us = random.Skewed(2 * kSecond, 25 * kSecond);
  knobs.clog_every_us = random.Chance(0.5) ? 0 : random.Skewed(kSecond, 20 * kSecond);
  knobs.clog_max_us = random.Skewed(300 * kMs, 8 * kSecond);
  knobs.stray_every_us = random.Chance(0.7) ? 0 : random.Skewed(2 * kSecond, 30 * kSecond);
  knobs.stray_max_us = random.Skewed(kSecond, 20 * kSecond);
}

void DrawDisks(Random& random, Knobs& knobs) {
  knobs.commit_min_us = random.Skewed(50, 2 * kMs);
  knobs.commit_max_us = knobs.commit_min_us + random.Skewed(100, 30 * kMs);
  knobs.stall = random.Chance(0.5) ? 0 : random.Unit() * (random.Chance(0.4) ? 0.4 : 0.03);
  knobs.stall_max_us = random.Skewed(100 * kMs, 4 * kSecond);
  knobs.full_every_us = random.Chance(0.6) ? 0 : random.Skewed(4 * kSecond, 30 * kSecond);
  knobs.full_max_us = random.Skewed(500 * kMs, 10 * kSecond);
  knobs.read_max_us = random.Skewed(50, 20 * kMs);
  // With pages of one the ids of a minute alone take longer than a cluster is given to come to
  // rest.
  const auto page = [&](int low, int high) {
    return static_cast<int>(random.Chance(0.5) ? 1'000 : random.Between(low, high));
  };
  knobs.pages.hours = page(1, 3);
  knobs.pages.minutes = page(10, 40);
  knobs.pages.ids = page(20, 100);
  knobs.pages.events = page(10, 100);
  knobs.pages.rows = page(100, 300);
  knobs.pages.rows_looked_at = random.Chance(0.5) ? 5 * knobs.pages.rows : page(200, 400);
  knobs.pages.expired = page(3, 20);
}

void DrawProcesses(Random& random, Knobs& knobs) {
  knobs.crash_every_us = random.Chance(0.4) ? 0 : random.Skewed(2 * kSecond, 20 * kSecond);
  knobs.down_max_us = random.Skewed(300 * kMs, 15 * kSecond);
  knobs.wipe = random.Chance(0.5) ? 0 : random.Unit() * 0.8;
  knobs.damage = knobs.wipe == 0 || random.Chance(0.5) ? 0 : random.Unit();
  knobs.crash_all = random.Chance(0.7) ? 0 : random.Unit() * 0.3;
  knobs.pause_every_us = random.Chance(0.6) ? 0 : random.Skewed(2 * kSecond, 20 * kSecond);
  knobs.pause_max_us = random.Skewed(300 * kMs, 12 * kSecond);
  knobs.jump_every_us = random.Chance(0.7) ? 0 : random.Skewed(2 * kSecond, 20 * kSecond);
  knobs.jump_max_us = random.Skewed(500 * kMs, 60 * kSecond);
  knobs.drift = random.Chance(0.5) ? 0 : random.Unit() * 0.03;
  knobs.sync_now_every_us = random.Chance(0.7) ? 0 : random.Skewed(kSecond, 20 * kSecond);
}

void DrawCore(Random& random, Knobs& knobs) {
  replica::CoreOptions& core = knobs.core;
  core.write_quorum = knobs.write_quorum;
  if (random.Chance(0.2)) core.staleness_max_us = random.Between(2, 8) * kSecond;
  if (random.Chance(0.3)) core.poll_period_us = random.Skewed(100 * kMs, kSecond);
  core.sync_period_us = random.Chance(0.5) ? 600 * kSecond : random.Between(5, 30) * kSecond;
  if (random.Chance(0.3)) core.sync_timeout_us = random.Skewed(300 * kMs, 5 * kSecond);
  if (random.Chance(0.3)) core.sync_bytes_per_second = random.Skewed(200'000, 64 << 20);
  core.sync_sessions_max = static_cast<uint32_t>(random.Between(1, 3));
  core.sync_shards_max = static_cast<uint32_t>(random.Chance(0.5) ? 16 : random.Between(1, 4));
  // A few events in a run stand for many in life, so the bounds must be near for drops to happen.
  if (random.Chance(0.6)) core.lane_owed_events_max = random.Skewed(5, 500);
  if (random.Chance(0.2)) core.lane_owed_bytes_max = random.Skewed(500, 50'000);
  // What retries pile up must drain within the time to rest, so batches have a few events.
  if (random.Chance(0.4)) core.lane_batch_events_max = random.Between(4, 20);
  if (random.Chance(0.2)) core.lane_batch_bytes_max = random.Skewed(1'000, 5'000);
  core.lane_large_batch_events = random.Between(1, 64);
  core.lane_batches_in_flight_max = static_cast<uint32_t>(random.Between(1, 3));
  if (random.Chance(0.3)) core.lane_timeout_us = random.Skewed(100 * kMs, 3 * kSecond);
}

std::string Part(const char* name, int64_t us) {
  return us == 0 ? "" : absl::StrCat(" ", name, "=", static_cast<double>(us) / 1e6, "s");
}

std::string Part(const char* name, double share) {
  return share == 0 ? "" : absl::StrCat(" ", name, "=", share);
}

}  // namespace

Knobs DrawKnobs(Random& random) {
  Knobs knobs;
  DrawCluster(random, knobs);
  DrawLoad(random, knobs);
  DrawNetwork(random, knobs);
  DrawDisks(random, knobs);
  DrawProcesses(random, knobs);
  DrawCore(random, knobs);
  DrawRetention(random, knobs);
  DrawWalls(random, knobs);
  return knobs;
}

std::string Knobs::ToString() const {
  return absl::StrCat(
      "nodes=", nodes, " shards=", shards, " rf=", rf, " w=", write_quorum,
      disks_joined ? " old-disks" : " new-disks", Part("faults", faults_us),
      Part("write-every", write_every_us), " group=", group_events_max, " minutes=", minutes,
      " cookies=", cookies, Part("late", late), Part("ahead", ahead), Part("keyed", keyed),
      Part("race", race), Part("hedge", hedge), Part("repeat", repeat),
      Part("other-body", other_body), Part("loss", loss), Part("duplicate", duplicate),
      Part("straggle", straggle), Part("cut-every", cut_every_us),
      Part("clog-every", clog_every_us), Part("stray-every", stray_every_us), Part("stall", stall),
      Part("full-every", full_every_us), Part("crash-every", crash_every_us), Part("wipe", wipe),
      Part("damage", damage), Part("crash-all", crash_all), Part("pause-every", pause_every_us),
      Part("jump-every", jump_every_us), Part("drift", drift),
      Part("sync-now-every", sync_now_every_us), " lane-max=", core.lane_owed_events_max,
      expires ? absl::StrCat(" retention=", core.retention_s, "s") : "",
      wrong_node >= 0 ? absl::StrCat(" wrong-clock=n", wrong_node) : "",
      wrong_gateway ? " wrong-clock=gateway" : "", Part("wall-every", wall_every_us),
      Part("sync-period", core.sync_period_us), Part("staleness-max", core.staleness_max_us));
}

}  // namespace allezon::sim
