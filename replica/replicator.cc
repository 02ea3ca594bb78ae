// SPDX-License-Identifier: Apache-2.0
#include "replica/replicator.h"

#include <ctime>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "replica/background.h"
#include "replica/replicator_metrics.h"
#include "rpc/log.h"

namespace allezon::replica {
namespace {

// A write waits no longer for its quorum, whatever its caller says.
constexpr absl::Duration kWriteTimeoutMax = absl::Seconds(10);
constexpr int kLookUpThreads = 1;
constexpr size_t kLookUpsQueuedMax = 100;
// Looks for what retention may expire, and plans of syncs and of this node itself.
constexpr int kExpiryThreads = 1;
constexpr size_t kExpiriesQueuedMax = 100;
// How often it is noted on disk that this node has all there is, so that a start knows for how long
// it was away.
constexpr Instant kNotePeriodUs = 30'000'000;
// How often it is said what a damaged disk still waits for.
constexpr Instant kTendingPeriodUs = 5'000'000;
constexpr Instant kMetricsPeriodUs = 1'000'000;
// A node that could serve says so once its peers have called it where it is now, or after so long:
// one that cannot call it may be cut off itself.
constexpr Instant kReachedWaitMaxUs = 10'000'000;

Instant Now() {
  // Unlike the steady clock it goes on while the machine is suspended.
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return Instant{now.tv_sec} * 1'000'000 + now.tv_nsec / 1'000;
}

CoreOptions OptionsOf(const router::Placement& placement, uint32_t self, absl::Duration retention,
                      uint64_t incarnation, uint64_t owed_bytes_max) {
  CoreOptions options;
  options.lane_owed_bytes_max = owed_bytes_max;
  options.retention_s = absl::ToInt64Seconds(retention);
  options.self = self;
  options.write_quorum = placement.write_quorum;
  options.lane_large_batch_events =
      static_cast<uint32_t>(router::LargeEvents(placement.replication_factor));
  options.incarnation = incarnation;
  return options;
}

class WriteSubmission final : public Submission {
 public:
  WriteSubmission(std::shared_ptr<const Incoming> incoming,
                  std::function<void(const absl::Status&)> done)
      : incoming_(std::move(incoming)), done_(std::move(done)) {}
  absl::Span<const LogEntry> entries() const override { return incoming_->entries; }
  void Done(const absl::Status& status) override { done_(status); }

 private:
  const std::shared_ptr<const Incoming> incoming_;
  const std::function<void(const absl::Status&)> done_;
};

std::vector<ShardId> ShardsOf(const Incoming& incoming) {
  std::vector<ShardId> shards;
  for (const LogEntry& entry : incoming.entries) {
    if (shards.empty() || shards.back() != entry.shard) shards.push_back(entry.shard);
  }
  return shards;
}

}  // namespace

Replicator::Replicator(router::Channels& channels, uint32_t self, Identities& identities,
                       class Store& store, Committer& committer, absl::Duration retention,
                       uint64_t owed_bytes_max)
    : placement_(channels.placement()),
      identities_(identities),
      store_(store),
      committer_(committer),
      holds_(placement_.shards()),
      core_(OptionsOf(placement_, self, retention, identities.own().incarnation(), owed_bytes_max),
            placement_, store, store.record(), Now()),
      calls_(
          channels, identities,
          [this](uint32_t peer, BatchId batch, const absl::Status& status,
                 const v1::ReplicateResponse& response) {
            Feed([&](Core& core, Instant now, Actions& actions) {
              core.Replicated(peer, batch, status, response, now, actions);
            });
          },
          [this](CallId id, const absl::Status& status, PeerResponse response) {
            Feed([&](Core& core, Instant now, Actions& actions) {
              core.CallEnded(id, status, std::move(response), now, actions);
            });
          }),
      look_ups_(kLookUpThreads, kLookUpsQueuedMax),
      expiries_(kExpiryThreads, kExpiriesQueuedMax) {
  absl::MutexLock lock(&mutex_);
  for (const ShardId shard : core_.shards()) holds_[shard] = true;
}

Replicator::~Replicator() { Stop(); }

void Replicator::Start(std::function<void(bool serving)> serving_changed) {
  serving_changed_ = std::move(serving_changed);
  ticks_ = std::thread([this] { RunTicks(); });
}

void Replicator::Stop() {
  absl::flat_hash_map<WriteId, Outcome> waiting;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    waiting.swap(waiting_);
  }
  if (ticks_.joinable()) ticks_.join();
  for (const auto& [id, done] : waiting) {
    done(absl::UnavailableError("the node is shutting down"), {});
  }
  calls_.Stop();
  // They read the store, which is closed next.
  look_ups_.Stop();
  expiries_.Stop();
}

void Replicator::RunTicks() {
  bool first = true;
  bool serving = false;
  while (true) {
    // Not on the mutex, which waits by the wall clock: set back, that would stop the ticks.
    absl::SleepFor(absl::Microseconds(kTickUs));
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
    }
    bool serves = false;
    Feed([&](Core& core, Instant now, Actions& actions) {
      core.Tick(now, absl::GetCurrentTimeNanos() / 1'000, actions);
      serves = core.ServesAll(now);
    });
    if (serves) NoteComplete(Now());
    serves = serves && IsReached(Now());
    if (first || serves != serving) serving_changed_(serves);
    first = false;
    serving = serves;
    LookForExpirable(Now());
    UpdateMetrics(Now());
    TendDamage(Now());
  }
}

// Once it was so, whoever restarts later is told where this node is as this one is told of it.
bool Replicator::IsReached(Instant now) {
  if (is_reached_) return true;
  if (could_serve_at_ == kNever) could_serve_at_ = now;
  is_reached_ = identities_.IsReachedByAll();
  if (!is_reached_ && now - could_serve_at_ >= kReachedWaitMaxUs) {
    rpc::LogWarn("serving, though a peer that answers has not called this node yet");
    is_reached_ = true;
  }
  return is_reached_;
}

void Replicator::NoteComplete(Instant now) {
  if (now < next_note_) return;
  next_note_ = now + kNotePeriodUs;
  std::optional<WallS> complete_s;
  {
    absl::MutexLock lock(&mutex_);
    complete_s = core_.CompleteS(now);
  }
  if (!complete_s) return;
  const auto wall_s = static_cast<uint32_t>(*complete_s);
  const absl::Status queued = committer_.Run([this, wall_s] {
    if (const absl::Status status = store_.NoteComplete(wall_s); !status.ok()) {
      rpc::LogWarn("not noted that this node is complete",
                   {{"detail", std::string(status.message())}});
    }
  });
  // The next period tries again.
  if (!queued.ok())
    rpc::LogDebug("a note has to wait", {{"detail", std::string(queued.message())}});
}

void Replicator::TendDamage(Instant now) {
  // A shard that has joined stays so in this process.
  if (is_tidy_ || now < next_tending_) return;
  next_tending_ = now + kTendingPeriodUs;
  std::vector<ShardId> damaged;
  std::set<std::string> awaited;
  std::vector<ShardId> held;
  bool is_whole = true;
  {
    absl::MutexLock lock(&mutex_);
    held = core_.shards();
    for (const ShardId shard : held) {
      is_whole = is_whole && core_.joined(shard);
      if (!core_.damaged(shard)) continue;
      damaged.push_back(shard);
      for (std::string& id : core_.AwaitedFor(shard)) awaited.insert(std::move(id));
    }
  }
  if (!damaged.empty()) {
    rpc::LogWarn(
        "what a damaged disk lost is not back yet",
        {{"shards", absl::StrJoin(damaged, ",")}, {"waits_for", absl::StrJoin(awaited, ",")}});
    was_damaged_ = true;
    return;
  }
  if (std::exchange(was_damaged_, false)) rpc::LogInfo("what a damaged disk lost is back");
  if (!is_whole) return;
  is_tidy_ = expiries_.Run([this, held = std::move(held)] { store_.RemoveWhatIsBack(held); });
}

// --- the core ---

void Replicator::Feed(absl::FunctionRef<void(Core&, Instant, Actions&)> input) {
  Actions actions;
  {
    absl::MutexLock lock(&mutex_);
    input(core_, Now(), actions);
  }
  Perform(std::move(actions));
}

void Replicator::Perform(Actions actions) {
  for (const Actions::Replicate& batch : actions.replicate) calls_.Send(batch);
  Answer(actions.outcomes);
  for (Actions::Call& call : actions.calls) calls_.Send(std::move(call));
  for (Actions::Storage& operation : actions.storage) Perform(std::move(operation));
}

void Replicator::Answer(const std::vector<WriteOutcome>& outcomes) {
  for (const WriteOutcome& outcome : outcomes) {
    Outcome done;
    {
      absl::MutexLock lock(&mutex_);
      const auto found = waiting_.find(outcome.id);
      if (found == waiting_.end()) continue;
      done = std::move(found->second);
      waiting_.erase(found);
    }
    done(absl::OkStatus(), outcome.failures);
  }
}

void Replicator::Ended(StorageId id, const absl::Status& status, std::string missing) {
  Feed([&](Core& core, Instant now, Actions& actions) {
    core.StorageEnded(id, status, std::move(missing), now, actions);
  });
}

// --- storage ---

void Replicator::RunOnCommitter(StorageId id, std::function<absl::Status()> work) {
  const absl::Status queued =
      committer_.Run([this, id, work = std::move(work)] { Ended(id, work()); });
  if (!queued.ok()) Ended(id, queued);
}

void Replicator::StoreSynced(StorageId id, const StoreEvents& request) {
  const CallEvents events(request.events.begin(), request.events.end());
  absl::Status refused;
  auto incoming =
      TakeEvents(events, holds_, {}, {}, [&](uint32_t, const absl::Status& why) { refused = why; });
  if (!refused.ok()) {
    rpc::LogError("a peer's event breaks the rules", {{"detail", std::string(refused.message())}});
    return Ended(id, refused);
  }
  if (incoming->entries.empty()) return Ended(id, absl::OkStatus());
  const absl::Status queued = committer_.Submit(std::make_unique<WriteSubmission>(
      std::move(incoming), [this, id](const absl::Status& status) { Ended(id, status); }));
  if (!queued.ok()) Ended(id, queued);
}

void Replicator::Perform(Actions::Storage operation) {
  const StorageId id = operation.id;
  if (auto* find = std::get_if<FindMissing>(&operation.request)) {
    const bool queued = look_ups_.Run([this, id, find = std::move(*find)] {
      GiveWay(Share::kThird);
      absl::StatusOr<std::string> missing = store_.FindMissing(find);
      Ended(id, missing.status(), missing.ok() ? *std::move(missing) : "");
    });
    if (!queued) Ended(id, absl::ResourceExhaustedError("too many look-ups wait already"));
  } else if (auto* events = std::get_if<StoreEvents>(&operation.request)) {
    StoreSynced(id, *events);
  } else if (auto* expire = std::get_if<ExpireRanges>(&operation.request)) {
    const bool queued = expiries_.Run([this, id, expire = std::move(*expire)] {
      GiveWay(Share::kThird);
      ExpireNext(id, std::make_shared<ExpiryPlan>(store_, expire));
    });
    if (!queued) Ended(id, absl::ResourceExhaustedError("too much waits to be expired already"));
  } else if (auto* rows = std::get_if<StoreRows>(&operation.request)) {
    RunOnCommitter(
        id, [this, rows = std::move(*rows)] { return store_.PutRows(rows.shard, rows.rows); });
  } else if (auto* joined = std::get_if<RecordJoined>(&operation.request)) {
    RunOnCommitter(
        id, [this, joined = std::move(*joined)] { return store_.RecordJoined(joined.shards); });
  }
}

// --- what others ask ---

Acceptance Replicator::AcceptanceOfWrites() {
  Acceptance acceptance;
  acceptance.find_by_key = [this](ShardId shard, const EventId& id) {
    return store_.FindByKey(shard, id);
  };
  absl::MutexLock lock(&mutex_);
  acceptance.stamps = core_.RuleOfWrites(Now());
  return acceptance;
}

Acceptance Replicator::AcceptanceOfReplicates(uint32_t coordinator,
                                              const v1::ReplicateRequest& request) {
  absl::MutexLock lock(&mutex_);
  return {core_.RuleOfReplicates(coordinator, static_cast<Instant>(request.oldest_age_us()),
                                 request.sent_wall_us(), Now()),
          nullptr};
}

absl::Status Replicator::Write(std::shared_ptr<const Incoming> incoming, absl::Time deadline,
                               Outcome done) {
  const absl::Duration left = std::min(deadline - absl::Now(), kWriteTimeoutMax);
  Actions actions;
  WriteId id = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return absl::UnavailableError("the node is shutting down");
    const Instant now = Now();
    id = next_write_++;
    absl::Status status =
        core_.Write(id, incoming->events, now + absl::ToInt64Microseconds(left), now, actions);
    if (!status.ok()) return status;
    waiting_[id] = std::move(done);
  }
  const auto stored = [this, id](const absl::Status& status) {
    Feed([&](Core& core, Instant now, Actions& more) { core.Stored(id, status, now, more); });
  };
  // The disk works while the peers' batches are made.
  const absl::Status queued =
      committer_.Submit(std::make_unique<WriteSubmission>(std::move(incoming), stored));
  Perform(std::move(actions));
  if (!queued.ok()) stored(queued);
  return absl::OkStatus();
}

absl::Status Replicator::Store(uint32_t from, std::shared_ptr<const Incoming> incoming,
                               Stored done) {
  if (from >= placement_.instances.size()) {
    return absl::InvalidArgumentError(absl::StrCat("there is no instance ", from));
  }
  const Incoming* events = incoming.get();
  return committer_.Submit(std::make_unique<WriteSubmission>(
      std::move(incoming),
      [this, from, events, done = std::move(done)](const absl::Status& status) {
        v1::ReplicateResponse response;
        if (status.ok()) {
          absl::MutexLock lock(&mutex_);
          core_.PeerStored(from, ShardsOf(*events), response);
        }
        done(status, response);
      }));
}

void Replicator::Poll(uint32_t from, v1::PollResponse& response) {
  absl::MutexLock lock(&mutex_);
  core_.Polled(from, Now(), response);
  core_.HeardFrom(from, Now());
}

absl::Status Replicator::ReadDigests(const v1::ReadDigestsRequest& request,
                                     v1::ReadDigestsResponse& response) {
  {
    absl::MutexLock lock(&mutex_);
    core_.AnswerDigests(response);
  }
  return store_.ReadDigests(request, response);
}

absl::Status Replicator::ReadNewest(const v1::ReadNewestRequest& request,
                                    v1::ReadNewestResponse& response) {
  const absl::StatusOr<std::vector<uint32_t>> newest = store_.ReadNewest(request);
  if (!newest.ok()) return newest.status();
  absl::MutexLock lock(&mutex_);
  for (int i = 0; i < request.shards_size(); ++i) {
    response.add_newest_accepted_s(
        core_.NewestToTell(request.shards(i), (*newest)[static_cast<size_t>(i)]));
  }
  return absl::OkStatus();
}

void Replicator::SyncNow(absl::Span<const ShardId> shards) {
  absl::MutexLock lock(&mutex_);
  core_.SyncNow(shards);
}

absl::Status Replicator::CheckReadable(ShardId shard, bool for_quorum) {
  // A copy of an old folder lacks what it vouches for. Other reads wait for peers anyway; and where
  // one replica makes a quorum, no other may be there to ask.
  if (for_quorum && placement_.read_quorum() > 1 && !identities_.WasAccepted()) {
    return absl::UnavailableError("no peer has yet taken this process for the node that it is");
  }
  absl::MutexLock lock(&mutex_);
  return for_quorum ? core_.CheckJoined(shard) : core_.CheckServing(shard, Now());
}

void Replicator::UpdateMetrics(Instant now) {
  if (now < next_metrics_) return;
  next_metrics_ = now + kMetricsPeriodUs;
  CoreStats stats;
  {
    absl::MutexLock lock(&mutex_);
    stats = core_.stats(now);
  }
  SetReplicatorMetrics(stats);
}

}  // namespace allezon::replica
