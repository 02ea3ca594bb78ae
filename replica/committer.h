// SPDX-License-Identifier: Apache-2.0
//
// Group commit: one thread owns the store's writes, takes what has queued up, commits it with one
// WAL sync, and answers all of it. Idle, it commits at once; busy, it gathers. Other work that only
// the store's single writer may do runs on the same thread, between commits.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "replica/store.h"
#include "router/gathering.h"

namespace allezon::replica {

// Entries that are stored together and answered together.
class Submission {
 public:
  virtual ~Submission() = default;
  // The same each time; what they borrow lives as long as the submission.
  virtual absl::Span<const LogEntry> entries() const = 0;
  // Called once, on the committer's thread, unless Submit failed.
  virtual void Done(const absl::Status& status) = 0;
};

struct CommitterOptions {
  // Entries that may wait; beyond, Submit refuses.
  size_t queue_events_max = 50'000;
  // Entries that one WriteBatch takes, but for one submission that is larger by itself.
  size_t batch_events_max = 2'000;
  // Since a sync costs the same for one as for a hundred.
  router::GatheringOptions gathering{.times_last = 2};
  // Tasks that may wait; beyond, Run refuses.
  size_t tasks_max = 1'000;
  // How often Maintain and `tick` run.
  absl::Duration maintain_period = absl::Seconds(1);
  // While Maintain has more to do it rests for so many times as it took, but for no longer than
  // after it has done all, so that commits get most of the thread.
  double maintain_rest_times = 9;
};

class Committer {
 public:
  // `store` must outlive it. `tick` is called every maintain_period by a thread of its own, for
  // what must not hold commits up.
  Committer(Store& store, CommitterOptions options, std::function<void()> tick);
  // Stops.
  ~Committer();

  // kResourceExhausted where the queue is full, kUnavailable after Stop: the submission is dropped
  // without a call to Done. Thread-safe.
  absl::Status Submit(std::unique_ptr<Submission> submission);
  // Has the committer's thread run the task, which may call the store's single-writer functions:
  // between commits, at most one after each, in the order in which tasks came. There is no order
  // between tasks and submissions. kResourceExhausted where too many tasks wait, kUnavailable after
  // Stop: the task is dropped without being run. Thread-safe.
  absl::Status Run(std::function<void()> task);
  // Commits what is queued and runs the tasks that wait, then ends the thread. Idempotent.
  void Stop();

  size_t queued_events() const;

 private:
  using Batch = std::vector<std::unique_ptr<Submission>>;

  // What the thread does at a time; either may be empty.
  struct Work {
    Batch batch;
    std::function<void()> task;
  };

  void RunWork();
  void RunTicks();
  // Waits for work until `deadline`; both are empty where there was none.
  Work TakeWork(absl::Time deadline);
  Batch TakeBatch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // How many events it held.
  size_t CommitBatch(Batch batch);

  Store& store_;
  const CommitterOptions options_;
  const std::function<void()> tick_;
  mutable absl::Mutex mutex_;
  std::deque<std::unique_ptr<Submission>> queue_ ABSL_GUARDED_BY(mutex_);
  size_t queued_events_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  router::Gathering gathering_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;       // joined by Stop
  std::thread tick_thread_;  // joined by Stop
};

}  // namespace allezon::replica
