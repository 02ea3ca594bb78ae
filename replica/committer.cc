// SPDX-License-Identifier: Apache-2.0
#include "replica/committer.h"

#include "absl/strings/str_cat.h"
#include "rpc/metrics.h"

namespace allezon::replica {
namespace {

struct Meters {
  prometheus::Histogram& batch_events = rpc::MakeHistogram(
      "allezon_committer_batch_events", "Events in one commit.", {}, rpc::SizeBuckets());
  prometheus::Histogram& commit_seconds =
      rpc::MakeHistogram("allezon_committer_commit_seconds",
                         "Time of one commit, its WAL sync included.", {}, rpc::LatencyBuckets());
  prometheus::Gauge& queue_events =
      rpc::MakeGauge("allezon_committer_queue_events", "Events that wait for a commit.");
  prometheus::Counter& failures =
      rpc::MakeCounter("allezon_committer_failures_total", "Commits that the store refused.");
};

Meters& TheMeters() {
  static Meters meters;
  return meters;
}

}  // namespace

Committer::Committer(Store& store, CommitterOptions options, std::function<void()> tick)
    : store_(store), options_(options), tick_(std::move(tick)), gathering_(options.gathering) {
  TheMeters();
  thread_ = std::thread([this] { RunWork(); });
  tick_thread_ = std::thread([this] { RunTicks(); });
}

Committer::~Committer() { Stop(); }

absl::Status Committer::Submit(std::unique_ptr<Submission> submission) {
  const size_t events = submission->entries().size();
  absl::MutexLock lock(&mutex_);
  if (stopping_) return absl::UnavailableError("the node is shutting down");
  if (queued_events_ > 0 && queued_events_ + events > options_.queue_events_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat(queued_events_, " events wait for the disk already"));
  }
  queued_events_ += events;
  queue_.push_back(std::move(submission));
  return absl::OkStatus();
}

absl::Status Committer::Run(std::function<void()> task) {
  absl::MutexLock lock(&mutex_);
  if (stopping_) return absl::UnavailableError("the node is shutting down");
  if (tasks_.size() >= options_.tasks_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat(tasks_.size(), " tasks wait for the store already"));
  }
  tasks_.push_back(std::move(task));
  return absl::OkStatus();
}

void Committer::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
  if (tick_thread_.joinable()) tick_thread_.join();
}

size_t Committer::queued_events() const {
  absl::MutexLock lock(&mutex_);
  return queued_events_;
}

Committer::Work Committer::TakeWork(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithDeadline(absl::Condition(
                               +[](Committer* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
                                 return !self->queue_.empty() || !self->tasks_.empty() ||
                                        self->stopping_;
                               },
                               this),
                           deadline);
  if (!queue_.empty()) {
    mutex_.AwaitWithDeadline(absl::Condition(
                                 +[](Committer* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
                                   return self->gathering_.IsEnough(self->queued_events_) ||
                                          self->stopping_;
                                 },
                                 this),
                             gathering_.until(absl::Now()));
  }
  Work work;
  work.batch = TakeBatch();
  if (!tasks_.empty()) {
    work.task = std::move(tasks_.front());
    tasks_.pop_front();
  }
  return work;
}

Committer::Batch Committer::TakeBatch() {
  Batch batch;
  size_t events = 0;
  while (!queue_.empty()) {
    const size_t next = queue_.front()->entries().size();
    if (!batch.empty() && events + next > options_.batch_events_max) break;
    events += next;
    batch.push_back(std::move(queue_.front()));
    queue_.pop_front();
  }
  queued_events_ -= events;
  TheMeters().queue_events.Set(static_cast<double>(queued_events_));
  return batch;
}

size_t Committer::CommitBatch(Batch batch) {
  absl::Status status;
  const absl::Time start = absl::Now();
  size_t events = batch.front()->entries().size();
  if (batch.size() == 1) {
    status = store_.Commit(batch.front()->entries());
  } else {
    std::vector<LogEntry> entries;
    for (const auto& submission : batch) {
      const absl::Span<const LogEntry> more = submission->entries();
      entries.insert(entries.end(), more.begin(), more.end());
    }
    events = entries.size();
    status = store_.Commit(entries);
  }
  TheMeters().commit_seconds.Observe(absl::ToDoubleSeconds(absl::Now() - start));
  TheMeters().batch_events.Observe(static_cast<double>(events));
  if (!status.ok()) TheMeters().failures.Increment();
  for (const auto& submission : batch) submission->Done(status);
  return events;
}

void Committer::RunWork() {
  absl::Time next_maintain = absl::Now() + options_.maintain_period;
  while (true) {
    Work work = TakeWork(next_maintain);
    if (!work.batch.empty()) {
      const absl::Time began = absl::Now();
      const size_t events = CommitBatch(std::move(work.batch));
      const absl::Time now = absl::Now();
      absl::MutexLock lock(&mutex_);
      // Not those that wait already: they come from several lanes, each with its own rhythm.
      gathering_.Ended(events, 0, now - began, now);
    }
    if (work.task) work.task();
    if (const absl::Time began = absl::Now(); began >= next_maintain) {
      const bool more = store_.Maintain();
      const absl::Time now = absl::Now();
      const absl::Duration rest = options_.maintain_rest_times * (now - began);
      next_maintain =
          now + (more ? std::min(rest, options_.maintain_period) : options_.maintain_period);
    }
    absl::MutexLock lock(&mutex_);
    if (stopping_ && queue_.empty() && tasks_.empty()) return;
  }
}

void Committer::RunTicks() {
  const auto stopping =
      +[](Committer* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) { return self->stopping_; };
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(stopping, this), options_.maintain_period)) {
        return;
      }
    }
    tick_();
  }
}

}  // namespace allezon::replica
