// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/node.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace allezon::sim {

using replica::Actions;
using replica::Instant;

SimNode::SimNode(Cluster& cluster, int index)
    : cluster_(cluster),
      world_(cluster.world),
      index_(index),
      disk_(world_, cluster.knobs, index, cluster.knobs.disks_joined,
            [this](const EventRef& event) {
              const uint32_t tag = IndexOf(event);
              world_.Note("has", index_, -1, event->shard, tag);
              cluster_.oracle.Stored(index_, event);
            }) {}

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
  core_ =
      std::make_unique<replica::Core>(options, cluster_.placement, disk_.store(), disk_.joined(),
                                      world_.random.Chance(knobs.needs_rows), Clock());
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

void SimNode::Wipe() {
  world_.Note("disk wiped", index_);
  for (uint32_t shard = 0; shard < cluster_.knobs.shards; ++shard) {
    cluster_.oracle.Wiped(index_, shard, disk_.joined()[shard], disk_.store());
  }
  disk_.Wipe(false);
}

Instant SimNode::Clock() const {
  return clock_ + static_cast<Instant>(static_cast<double>(world_.now() - clock_set_) * rate_);
}

void SimNode::JumpClock(Time by) {
  world_.Note("clock jumps", index_, -1, -1, -1, by);
  clock_ = Clock() + by;
  clock_set_ = world_.now();
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
    core_->Tick(Clock(), actions);
    Execute(actions);
    Check();
  }
  world_.After(cluster_.knobs.tick_us, [this, process] { Tick(process); });
}

void SimNode::Execute(const Actions& actions) {
  for (const replica::WriteOutcome& outcome : actions.outcomes) Answer(outcome);
  for (const Actions::Replicate& replicate : actions.replicate) SendReplicate(replicate);
  for (const Actions::Call& call : actions.calls) SendCall(call);
  for (const Actions::Storage& storage : actions.storage) Operate(storage);
}

// --- writes that it coordinates ---

void SimNode::OnWrite(const std::vector<EventRef>& events, Time deadline_in, WriteReply reply) {
  const replica::WriteId id = next_write_++;
  Actions actions;
  const absl::Status taken = core_->Write(id, events, Clock() + deadline_in, Clock(), actions);
  for (const EventRef& event : events) {
    world_.Note(taken.ok() ? "coordinates" : "declines", index_, -1, event->shard, IndexOf(event));
  }
  if (!taken.ok()) {
    reply(taken, {});
    return Execute(actions);
  }
  events_pending_ += events.size();
  writes_.emplace(id, PendingWrite{events, std::move(reply)});
  disk_.Begin({events, {}, [this, process = process_, id](const absl::Status& status, const auto&) {
                 Input(process, [this, id, status] {
                   Actions then;
                   core_->Stored(id, status, Clock(), then);
                   Execute(then);
                 });
               }});
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
  for (size_t i = 0; i < statuses.size(); ++i) {
    const EventRef& event = write.events[i];
    if (statuses[i].ok()) {
      cluster_.oracle.Acknowledged(index_, event, cluster_);
    } else {
      world_.Note("fails", index_, -1, event->shard, IndexOf(event),
                  static_cast<int64_t>(statuses[i].code()));
    }
  }
  write.reply(absl::OkStatus(), statuses);
}

void SimNode::SendReplicate(const Actions::Replicate& replicate) {
  const auto events = std::make_shared<const std::vector<EventRef>>(replicate.events);
  world_.Note("sends a batch to", index_, static_cast<int>(replicate.peer), -1, -1,
              static_cast<int64_t>(events->size()));
  CallNode<v1::ReplicateResponse>(
      cluster_, index_, static_cast<int>(replicate.peer), replicate.timeout_us, true,
      [from = static_cast<uint32_t>(index_), events](SimNode& peer, ReplicateReply reply) {
        peer.OnReplicate(from, events, std::move(reply));
      },
      [this, peer = replicate.peer, batch = replicate.batch](
          const absl::Status& status, const v1::ReplicateResponse& response) {
        world_.Note("'s batch ended at", index_, static_cast<int>(peer), -1, -1,
                    static_cast<int64_t>(status.code()));
        Actions actions;
        core_->Replicated(peer, batch, status, response, Clock(), actions);
        Execute(actions);
      });
}

// --- what peers ask of it ---

void SimNode::OnReplicate(uint32_t from, std::shared_ptr<const std::vector<EventRef>> events,
                          ReplicateReply reply) {
  disk_.Begin({*events,
               {},
               [this, process = process_, from, events, reply = std::move(reply)](
                   const absl::Status& status, const std::vector<bool>& refused) {
                 const auto end = [this, from, events, reply, status, refused] {
                   EndReplicate(from, *events, status, refused, reply);
                 };
                 // What is committed may be seen a little before it is counted.
                 if (world_.random.Chance(0.9)) return Input(process, end);
                 world_.After(ReadDelay(), [this, process, end] { Input(process, end); });
               }});
}

void SimNode::EndReplicate(uint32_t from, const std::vector<EventRef>& events,
                           const absl::Status& status, const std::vector<bool>& refused,
                           const ReplicateReply& reply) {
  if (!status.ok() && refused.empty()) return reply(status, {});
  v1::ReplicateResponse response;
  std::vector<ShardId> shards;
  for (size_t i = 0; i < events.size(); ++i) {
    shards.push_back(events[i]->shard);
    if (refused.empty() || !refused[i]) continue;
    v1::WriteFailure& failure = *response.add_failures();
    failure.set_index(static_cast<uint32_t>(i));
    failure.set_code(static_cast<int>(status.code()));
  }
  std::sort(shards.begin(), shards.end());
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  core_->PeerStored(from, shards, response);
  reply(absl::OkStatus(), response);
}

void SimNode::OnCall(uint32_t from, std::shared_ptr<const replica::PeerRequest> request,
                     CallReply reply) {
  if (std::holds_alternative<v1::PollRequest>(*request)) {
    v1::PollResponse response;
    core_->Polled(from, Clock(), response);
    return reply(absl::OkStatus(), response);
  }
  if (const auto* digests = std::get_if<v1::ReadDigestsRequest>(request.get())) {
    auto response = std::make_shared<v1::ReadDigestsResponse>();
    core_->AnswerDigests(*response);
    // The digests are read a little later; commits go on meanwhile.
    return world_.After(ReadDelay(), [this, process = process_, request, digests, response,
                                      reply = std::move(reply)] {
      Input(process, [this, request, digests, response, reply] {
        ReadDigests(disk_.store(), *digests, *response);
        reply(absl::OkStatus(), *response);
      });
    });
  }
  world_.After(ReadDelay(), [this, process = process_, request, reply = std::move(reply)] {
    Input(process, [this, request, reply] { AnswerRead(*request, reply); });
  });
}

void SimNode::AnswerRead(const replica::PeerRequest& request, const CallReply& reply) {
  const int page = cluster_.knobs.page_entries;
  if (const auto* ids = std::get_if<v1::ReadIdsRequest>(&request)) {
    reply(absl::OkStatus(), ReadIds(disk_.store(), *ids, page));
  } else if (const auto* events = std::get_if<v1::ReadEventsRequest>(&request)) {
    reply(absl::OkStatus(), ReadEvents(disk_.store(), *events, page));
  } else if (std::holds_alternative<v1::ReadTakenRequest>(request)) {
    reply(absl::OkStatus(), v1::ReadTakenResponse());
  } else {
    reply(absl::OkStatus(), v1::ReadRowsResponse());
  }
}

Time SimNode::ReadDelay() { return world_.random.Between(1, cluster_.knobs.read_max_us); }

// --- what its core wants ---

void SimNode::SendCall(const Actions::Call& call) {
  static constexpr const char* kNames[] = {"polls",           "reads digests of", "reads ids of",
                                           "reads events of", "reads taken of",   "reads rows of"};
  const char* const name = kNames[call.request.index()];
  if (call.request.index() != 0) world_.Note(name, index_, static_cast<int>(call.peer));
  const auto request = std::make_shared<const replica::PeerRequest>(call.request);
  CallNode<replica::PeerResponse>(
      cluster_, index_, static_cast<int>(call.peer), call.timeout_us, false,
      [from = static_cast<uint32_t>(index_), request](SimNode& peer, CallReply reply) {
        peer.OnCall(from, request, std::move(reply));
      },
      [this, id = call.id, name, peer = static_cast<int>(call.peer)](
          const absl::Status& status, const replica::PeerResponse& response) {
        if (!status.ok()) {
          world_.Note(name, index_, peer, -1, -1, static_cast<int64_t>(status.code()));
        }
        Actions actions;
        core_->CallEnded(id, status, response, Clock(), actions);
        Execute(actions);
      });
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
  if (const auto* store = std::get_if<replica::StoreEvents>(&storage.request)) {
    std::vector<EventRef> events;
    for (const v1::Event& event : store->events) events.push_back(FromProto(event));
    return Store(storage.id, std::move(events), {});
  }
  if (const auto* join = std::get_if<replica::RecordJoined>(&storage.request)) {
    return Store(storage.id, {}, join->shards);
  }
  Store(storage.id, {}, {});
}

void SimNode::Store(replica::StorageId id, std::vector<EventRef> events,
                    std::vector<ShardId> joined) {
  for (const ShardId shard : joined) world_.Note("records itself joined", index_, -1, shard);
  disk_.Begin({std::move(events), std::move(joined),
               [this, process = process_, id](const absl::Status& status, const auto&) {
                 Input(process, [this, id, status] { EndStorage(id, status, ""); });
               }});
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
