// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/disk.h"

#include <algorithm>
#include <utility>

#include "replica/core/agreed_clock.h"

namespace allezon::sim {

SimDisk::SimDisk(World& world, const Knobs& knobs, int node, bool joined, Observer observer)
    : world_(world),
      knobs_(knobs),
      node_(node),
      observer_(std::move(observer)),
      store_(NewStore()),
      joined_(knobs.shards, joined),
      damaged_(knobs.shards) {}

SimStore SimDisk::NewStore() const {
  return {knobs_.shards, static_cast<uint32_t>(replica::RaiseSlackS(knobs_.core.retention_s))};
}

Time SimDisk::Latency() {
  if (healed_) return knobs_.commit_min_us;
  if (world_.random.Chance(knobs_.stall)) {
    return world_.random.Between(knobs_.commit_min_us, knobs_.stall_max_us);
  }
  return world_.random.Between(knobs_.commit_min_us, knobs_.commit_max_us);
}

void SimDisk::Begin(Commit commit) {
  under_way_.push_back(std::move(commit));
  busy_until_ = std::max(busy_until_, world_.now() + Latency());
  world_.At(busy_until_, [this, generation = generation_] {
    if (generation == generation_) EndOldest();
  });
}

void SimDisk::EndOldest() {
  const Commit commit = std::move(under_way_.front());
  under_way_.pop_front();
  if (world_.now() >= full_until_) {
    Keep(commit);
    commit.done(absl::OkStatus(), {});
    return;
  }
  // The committers of different shards may fare differently.
  std::vector<bool> refused;
  if (commit.events.size() > 1 && world_.random.Chance(0.5)) {
    const size_t kept = world_.random.Below(commit.events.size());
    KeepEvents(commit, kept);
    refused.assign(commit.events.size(), true);
    std::fill(refused.begin(), refused.begin() + static_cast<std::ptrdiff_t>(kept), false);
  }
  world_.Note("disk refused a commit", node_);
  commit.done(absl::ResourceExhaustedError("the disk is full"), refused);
}

void SimDisk::Keep(const Commit& commit) {
  KeepEvents(commit, commit.events.size());
  for (const ShardId shard : commit.joined) {
    joined_[shard] = true;
    damaged_[shard] = false;
  }
  if (!commit.expire.ranges.empty()) {
    observer_.expires(commit.expire);
    store_.Expire(commit.expire, observer_.dropped);
  }
  store_.PutRows(commit.rows);
}

void SimDisk::KeepEvents(const Commit& commit, size_t events) {
  for (size_t i = 0; i < events; ++i) {
    store_.Put(commit.events[i]);
    observer_.has(commit.events[i]);
  }
}

void SimDisk::Crash() {
  ++generation_;
  size_t kept = under_way_.empty() ? 0 : world_.random.Below(under_way_.size() + 1);
  for (const Commit& commit : under_way_) {
    if (kept == 0) {
      KeepEvents(commit, world_.random.Below(commit.events.size() + 1));
      break;
    }
    --kept;
    Keep(commit);
  }
  under_way_.clear();
  busy_until_ = world_.now();
}

void SimDisk::Wipe(bool joined) {
  store_ = NewStore();
  earlier_.reset();
  complete_s_ = 0;
  joined_.assign(knobs_.shards, joined);
  damaged_.assign(knobs_.shards, false);
}

void SimDisk::Damage() {
  // What comes after a damage in the log, or everything.
  const bool keeps_some = earlier_.has_value() && world_.random.Chance(0.7);
  store_ = keeps_some ? *std::exchange(earlier_, std::nullopt) : NewStore();
  complete_s_ = 0;
  joined_.assign(knobs_.shards, false);
  damaged_.assign(knobs_.shards, true);
}

void SimDisk::Heal() {
  healed_ = true;
  full_until_ = 0;
}

}  // namespace allezon::sim
