// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/node.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace allezon::sim {

using replica::Actions;
using replica::Instant;

v1::NodeIdentity NameOf(const router::Placement& placement, int node) {
  v1::NodeIdentity name;
  name.set_cluster("allezon");
  name.set_service("profile");
  name.set_instance(placement.instances[node].id);
  name.set_version("simulated");
  return name;
}

SimNode::SimNode(Cluster& cluster, int index)
    : cluster_(cluster),
      world_(cluster.world),
      index_(index),
      disk_(world_, cluster.knobs, index, cluster.knobs.disks_joined,
            {.has =
                 [this](const EventRef& event) {
                   world_.Note("has", index_, -1, event->shard, IndexOf(event), event->accepted_s);
                   cluster_.oracle.Stored(index_, event, disk_.store());
                 },
             .expires =
                 [this](const replica::ExpireRanges& request) {
                   cluster_.oracle.Expires(index_, request);
                 },
             .dropped =
                 [this](const EventRef& event) {
                   world_.Note("expires", index_, -1, event->shard, IndexOf(event),
                               event->accepted_s);
                   cluster_.oracle.Dropped(index_, event, cluster_);
                 }}),
      wall_ahead_(world_.random.Between(-cluster.knobs.wall_skew_us, cluster.knobs.wall_skew_us)) {}

void SimNode::Start() {
  const Knobs& knobs = cluster_.knobs;
  process_ += 1 + world_.random.Below(3);
  clock_ = world_.random.Between(1, 1'000'000) * kSecond;
  clock_set_ = world_.now();
  rate_ = 1 + knobs.drift * (2 * world_.random.Unit() - 1);
  served_.assign(knobs.shards, false);
  replica::CoreOptions options = knobs.core;
  options.self = static_cast<uint32_t>(index_);
  options.incarnation = process_;
  core_ = std::make_unique<replica::Core>(options, cluster_.placement, disk_.store(),
                                          disk_.record(), Clock());
  core_->ObserveSyncs([this](uint32_t peer, ShardId shard, Instant begun, bool joined) {
    CheckSynced(peer, shard, begun, joined);
  });
  peers_held_.clear();
  v1::NodeIdentity own = NameOf(cluster_.placement, index_);
  own.set_disk(absl::StrCat("disk-", index_, "-", disks_));
  own.set_incarnation(process_);
  std::vector<std::string> instances;
  for (const router::Instance& instance : cluster_.placement.instances) {
    instances.push_back(instance.id);
  }
  identities_ = std::make_unique<replica::Identities>(
      own, std::exchange(disk_incarnation_, process_), std::move(instances));
  world_.Note("started", index_, -1, -1, -1, static_cast<int64_t>(process_));
  world_.After(world_.random.Between(0, knobs.tick_us),
               [this, process = process_] { Tick(process); });
}

void SimNode::Crash() {
  world_.Note("crashed", index_);
  disk_.Crash();
  cluster_.oracle.Restarted(index_);
  core_.reset();
  writes_.clear();
  events_pending_ = 0;
  inputs_.clear();
  paused_until_ = 0;
}

void SimNode::TellOfLoss() {
  for (uint32_t shard = 0; shard < cluster_.knobs.shards; ++shard) {
    cluster_.oracle.Wiped(index_, shard, disk_.joined()[shard], disk_.store());
  }
}

void SimNode::Damage() {
  world_.Note("disk damaged", index_);
  TellOfLoss();
  disk_.Damage();
}

void SimNode::Wipe() {
  world_.Note("disk wiped", index_);
  TellOfLoss();
  disk_.Wipe(false);
  disk_incarnation_ = 0;
  ++disks_;
}

Instant SimNode::Clock() const {
  return clock_ + static_cast<Instant>(static_cast<double>(world_.now() - clock_set_) * rate_);
}

void SimNode::JumpClock(Time by) {
  world_.Note("clock jumps", index_, -1, -1, -1, by);
  clock_ = Clock() + by;
  clock_set_ = world_.now();
}

void SimNode::SetWall(Time ahead) {
  world_.Note(ahead < 0 ? "wall clock is behind" : "wall clock is ahead", index_, -1, -1, -1,
              std::abs(ahead));
  wall_ahead_ = ahead;
}

void SimNode::Pause(Time until) {
  world_.Note("paused", index_, -1, -1, -1, until - world_.now());
  paused_until_ = until;
  world_.At(until, [this, process = process_, until] {
    if (process == process_ && paused_until_ == until) Resume();
  });
}

void SimNode::Resume() {
  world_.Note("goes on", index_);
  paused_until_ = 0;
  while (!inputs_.empty() && !paused()) {
    const Task task = std::move(inputs_.front());
    inputs_.pop_front();
    task();
  }
}

void SimNode::SyncNow() {
  world_.Note("is told to sync", index_);
  core_->SyncNow(core_->shards());
}

void SimNode::Input(uint64_t process, Task task) {
  if (!up() || process != process_) return;
  if (paused()) {
    inputs_.push_back(std::move(task));
  } else {
    task();
  }
}

void SimNode::Tick(uint64_t process) {
  if (process != process_ || !up()) return;
  if (!paused()) {
    Actions actions;
    core_->Tick(Clock(), Wall(), actions);
    Maintain(actions);
    Execute(actions);
    Check();
  }
  world_.After(cluster_.knobs.tick_us, [this, process] { Tick(process); });
}

void SimNode::Maintain(Actions& actions) {
  if (world_.now() < maintained_ + kSecond) return;
  maintained_ = world_.now();
  if (cluster_.knobs.damage > 0 && world_.random.Chance(0.2)) disk_.Remember();
  if (const auto complete_s = core_->CompleteS(Clock())) disk_.NoteComplete(*complete_s);
  const auto horizon_s = core_->ExpiryHorizonS(Clock());
  if (horizon_s) core_->Expire(Candidates(*horizon_s), Clock(), actions);
}

std::vector<replica::ExpiryCandidate> SimNode::Candidates(replica::WallS horizon_s) const {
  int64_t newest = std::numeric_limits<int64_t>::min();
  for (const ShardId shard : core_->shards()) {
    const SimStore::Minutes& minutes = disk_.store().minutes(shard);
    if (!minutes.empty()) newest = std::max(newest, minutes.rbegin()->first);
  }
  std::vector<replica::ExpiryCandidate> candidates;
  for (const ShardId shard : core_->shards()) {
    for (const auto& [start, minute] : disk_.store().minutes(shard)) {
      if ((newest - start - 1) * 60 < cluster_.knobs.core.retention_s) break;
      if (minute.newest_accepted_s > horizon_s) continue;
      candidates.push_back({{shard, start}, minute.newest_accepted_s});
    }
  }
  return candidates;
}

void SimNode::Execute(const Actions& actions) {
  for (const replica::WriteOutcome& outcome : actions.outcomes) Answer(outcome);
  for (const Actions::Replicate& replicate : actions.replicate) SendReplicate(replicate);
  for (const Actions::Call& call : actions.calls) SendCall(call);
  for (const Actions::Storage& storage : actions.storage) Operate(storage);
}

// --- writes that it coordinates ---

void SimNode::OnWrite(const std::vector<EventRef>& asked, Time deadline_in, WriteReply reply) {
  const replica::WriteId id = next_write_++;
  const replica::StampRule rule = core_->RuleOfWrites(Clock());
  std::vector<EventRef> events;
  for (const EventRef& event : asked) {
    EventRef stored = WithStamp(event, rule.Apply(event->accepted_s));
    // A key that is known is the same tag again, whatever the body says.
    if (const EventRef known = disk_.store().Keyed(event->shard, event->id)) {
      stored = WithStamp(known, std::max(known->accepted_s, stored->accepted_s));
    }
    events.push_back(std::move(stored));
  }
  Actions actions;
  const replica::Instant deadline = Clock() + deadline_in;
  const absl::Status taken = core_->Write(id, events, deadline, Clock(), actions);
  for (const EventRef& event : events) {
    world_.Note(taken.ok() ? "coordinates" : "declines", index_, -1, event->shard, IndexOf(event),
                event->accepted_s);
  }
  if (!taken.ok()) {
    reply(taken, {});
    return Execute(actions);
  }
  for (size_t i = 0; i < asked.size(); ++i) {
    cluster_.oracle.Accepted(index_, asked[i], events[i], disk_.store());
  }
  events_pending_ += events.size();
  writes_.emplace(id, PendingWrite{asked, events, world_.now(), deadline, std::move(reply)});
  SimDisk::Commit commit;
  commit.events = std::move(events);
  commit.done = [this, process = process_, id](const absl::Status& status, const auto&) {
    Input(process, [this, id, status] {
      Actions then;
      core_->Stored(id, status, Clock(), then);
      Execute(then);
    });
  };
  disk_.Begin(std::move(commit));
  Execute(actions);
}

void SimNode::Answer(const replica::WriteOutcome& outcome) {
  const auto found = writes_.find(outcome.id);
  if (found == writes_.end()) {
    return world_.Violate(absl::StrCat("node ", index_, " answers a write twice"));
  }
  const PendingWrite write = std::move(found->second);
  writes_.erase(found);
  events_pending_ -= write.events.size();
  std::vector<absl::Status> statuses = outcome.failures;
  statuses.resize(write.events.size());
  // Joining and retention go by how long a decision may take. Where an event failed, that may have
  // been the deadline's doing, and the others had their quorum before.
  if (outcome.failures.empty() && Clock() >= write.deadline) {
    world_.Violate(absl::StrCat("node ", index_, " acknowledges a write after its deadline"),
                   write.events.front()->shard, IndexOf(write.events.front()));
  }
  for (size_t i = 0; i < statuses.size(); ++i) {
    const EventRef& event = write.events[i];
    if (statuses[i].ok()) {
      cluster_.oracle.Acknowledged(index_, write.asked[i], event, write.begun, cluster_);
    } else {
      world_.Note("fails", index_, -1, event->shard, IndexOf(event),
                  static_cast<int64_t>(statuses[i].code()));
    }
  }
  write.reply(absl::OkStatus(), statuses);
}

// --- what syncs are held to, and what is stored ---

std::shared_ptr<Holdings> SimNode::ExpectHoldings(const Actions::Call& call) {
  const auto* digests = std::get_if<v1::ReadDigestsRequest>(&call.request);
  if (digests == nullptr || digests->level() != v1::DIGEST_LEVEL_SHARD ||
      digests->shards().empty()) {
    return nullptr;
  }
  return peers_held_[call.peer][Clock()] = std::make_shared<Holdings>();
}

Holdings SimNode::Held(const v1::ReadDigestsRequest& asked) const {
  Holdings held;
  held.joined = disk_.joined();
  for (const ShardId shard : asked.shards()) {
    for (const auto& [start, minute] : disk_.store().minutes(shard)) {
      for (const auto& [id, event] : minute.events) held.log.push_back(event);
    }
    if (disk_.store().expired(shard).ranges().empty()) continue;
    for (const auto& [key, event] : disk_.store().rows(shard)) {
      // A disk that has just got the row may not have the record yet.
      const int64_t minute = router::MinuteOf(event->time_ms);
      if (disk_.store().ExpiredOf(shard, minute).empty()) continue;
      if (!disk_.store().Has(IndexOf(event))) held.rows.push_back(event);
    }
  }
  return held;
}

void SimNode::CheckSynced(uint32_t peer, ShardId shard, Instant begun, bool joined) {
  std::map<Instant, std::shared_ptr<Holdings>>& held = peers_held_[peer];
  const auto found = held.find(begun);
  if (found == held.end()) {
    return world_.Violate(absl::StrCat("node ", index_, " notes a sync that it never began"),
                          shard);
  }
  cluster_.oracle.CheckSynced(index_, static_cast<int>(peer), shard, *found->second, joined,
                              cluster_);
  held.erase(held.begin(), found);
}

void SimNode::Operate(const Actions::Storage& storage) {
  if (const auto* find = std::get_if<replica::FindMissing>(&storage.request)) {
    const auto request = std::make_shared<const replica::FindMissing>(*find);
    return world_.After(ReadDelay(), [this, process = process_, id = storage.id, request] {
      Input(process, [this, id, request] {
        EndStorage(id, absl::OkStatus(), MissingOf(disk_.store(), *request));
      });
    });
  }
  SimDisk::Commit commit;
  if (const auto* store = std::get_if<replica::StoreEvents>(&storage.request)) {
    for (const v1::Event& event : store->events) commit.events.push_back(FromProto(event));
  } else if (const auto* join = std::get_if<replica::RecordJoined>(&storage.request)) {
    for (const ShardId shard : join->shards) {
      world_.Note("records itself joined", index_, -1, shard);
    }
    commit.joined = join->shards;
  } else if (const auto* expire = std::get_if<replica::ExpireRanges>(&storage.request)) {
    if (expire->only_whole) cluster_.oracle.Decided(index_, *expire);
    commit.expire = *expire;
  } else {
    commit.rows = std::get<replica::StoreRows>(storage.request);
  }
  const bool expires = !commit.expire.ranges.empty();
  commit.done = [this, process = process_, id = storage.id, expires](const absl::Status& status,
                                                                     const auto&) {
    Input(process, [this, id, status, expires] {
      EndStorage(id, status, "");
      if (expires) Check();
    });
  };
  disk_.Begin(std::move(commit));
}

void SimNode::EndStorage(replica::StorageId id, const absl::Status& status, std::string missing) {
  Actions actions;
  core_->StorageEnded(id, status, std::move(missing), Clock(), actions);
  Execute(actions);
}

// --- checks ---

void SimNode::Check() {
  for (const ShardId shard : core_->shards()) {
    const bool serves = core_->CheckServing(shard, Clock()).ok();
    if (serves != served_[shard]) {
      served_[shard] = serves;
      world_.Note(serves ? "serves" : "stops serving", index_, -1, shard);
    }
    if (!serves) {
      ++cluster_.oracle.totals().checks_refused;
      continue;
    }
    if (!disk_.joined()[shard]) {
      world_.Violate(absl::StrCat("node ", index_, " serves shard ", shard, " without joining it"),
                     shard);
    }
    cluster_.oracle.CheckFresh(index_, shard, disk_.store());
  }
  CheckBounds();
}

void SimNode::CheckBounds() {
  const replica::CoreOptions& options = cluster_.knobs.core;
  const replica::CoreStats stats = core_->stats(Clock());
  // What waits for its quorum stays owed, and one batch may be in the answer of each flight.
  const uint64_t owed_max =
      options.lane_owed_events_max + events_pending_ +
      static_cast<uint64_t>(options.lane_batches_in_flight_max) * options.lane_batch_events_max;
  if (stats.owed_events_most > owed_max) {
    world_.Violate(absl::StrCat("node ", index_, " owes a peer ", stats.owed_events_most,
                                " events; the bound is ", owed_max));
  }
  if (stats.events_pending > options.events_pending_max) {
    world_.Violate(absl::StrCat("node ", index_, " has ", stats.events_pending, " events pending"));
  }
}

}  // namespace allezon::sim
