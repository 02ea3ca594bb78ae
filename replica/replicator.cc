// SPDX-License-Identifier: Apache-2.0
#include "replica/replicator.h"

#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "replica/replicator_metrics.h"
#include "rpc/log.h"

namespace allezon::replica {
namespace {

// A write waits no longer for its quorum, whatever its caller says.
constexpr absl::Duration kWriteTimeoutMax = absl::Seconds(10);
constexpr int kLookUpThreads = 1;
constexpr size_t kLookUpsQueuedMax = 100;
// How often it is noted on disk that this node has all there is, so that a start knows for how long
// it was away.
constexpr Instant kNotePeriodUs = 30'000'000;
constexpr Instant kMetricsPeriodUs = 1'000'000;

Instant Now() {
  // Unlike the steady clock it goes on while the machine is suspended.
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return Instant{now.tv_sec} * 1'000'000 + now.tv_nsec / 1'000;
}

CoreOptions OptionsOf(const router::Placement& placement, uint32_t self) {
  CoreOptions options;
  options.self = self;
  options.write_quorum = placement.write_quorum;
  options.lane_large_batch_events =
      static_cast<uint32_t>(router::LargeEvents(placement.replication_factor));
  options.incarnation = static_cast<uint64_t>(absl::GetCurrentTimeNanos());
  return options;
}

// Away for longer than logs reach back, with a margin for clocks: what was acknowledged meanwhile
// may be in views only.
bool NeedsRows(const Store& store, absl::Duration retention) {
  const uint32_t complete_s = store.complete_as_of_s();
  return complete_s == 0 || absl::Now() - absl::FromUnixSeconds(complete_s) > retention * 0.75;
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

Replicator::Replicator(router::Channels& channels, uint32_t self, class Store& store,
                       Committer& committer, absl::Duration retention)
    : placement_(channels.placement()),
      retention_(retention),
      store_(store),
      committer_(committer),
      holds_(placement_.shards()),
      core_(OptionsOf(placement_, self), placement_, store, store.joined(),
            NeedsRows(store, retention), Now()),
      calls_(
          channels, self,
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
      look_ups_(kLookUpThreads, kLookUpsQueuedMax) {
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
      // It may have been cut off, or stopped, for as long.
      if (NeedsRows(store_, retention_) && !core.ServesAll(now)) core.NeedRows();
      core.Tick(now, actions);
      serves = core.ServesAll(now);
    });
    if (first || serves != serving) serving_changed_(serves);
    first = false;
    serving = serves;
    if (serves) NoteComplete(Now());
    UpdateMetrics(Now());
  }
}

void Replicator::NoteComplete(Instant now) {
  if (now < next_note_) return;
  next_note_ = now + kNotePeriodUs;
  // What is acknowledged this very moment may be a few seconds away yet.
  const auto wall_s = static_cast<uint32_t>(absl::ToUnixSeconds(absl::Now() - absl::Seconds(10)));
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
      TakeEvents(events, holds_, [&](uint32_t, const absl::Status& why) { refused = why; });
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
      absl::StatusOr<std::string> missing =
          store_.FindMissing(find.shard, find.minute, find.ids, find.accepted_s);
      Ended(id, missing.status(), missing.ok() ? *std::move(missing) : "");
    });
    if (!queued) Ended(id, absl::ResourceExhaustedError("too many look-ups wait already"));
  } else if (auto* events = std::get_if<StoreEvents>(&operation.request)) {
    StoreSynced(id, *events);
  } else if (auto* taken = std::get_if<AdoptTaken>(&operation.request)) {
    RunOnCommitter(id,
                   [this, taken = std::move(*taken)] { return store_.AdoptTaken(taken.minutes); });
  } else if (auto* rows = std::get_if<StoreRows>(&operation.request)) {
    RunOnCommitter(
        id, [this, rows = std::move(*rows)] { return store_.PutRows(rows.shard, rows.rows); });
  } else if (auto* joined = std::get_if<RecordJoined>(&operation.request)) {
    RunOnCommitter(
        id, [this, joined = std::move(*joined)] { return store_.RecordJoined(joined.shards); });
  }
}

// --- what others ask ---

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
}

absl::Status Replicator::ReadDigests(const v1::ReadDigestsRequest& request,
                                     v1::ReadDigestsResponse& response) {
  {
    absl::MutexLock lock(&mutex_);
    core_.AnswerDigests(response);
  }
  return store_.ReadDigests(request, response);
}

void Replicator::SyncNow(absl::Span<const ShardId> shards) {
  absl::MutexLock lock(&mutex_);
  core_.SyncNow(shards);
}

absl::Status Replicator::CheckReadable(ShardId shard, bool for_quorum) {
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
