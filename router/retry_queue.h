// SPDX-License-Identifier: Apache-2.0
//
// Writes that wait for their next round of attempts, and the thread that starts it. Thread-safe.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "router/lane.h"

namespace allezon::router {

class RetryQueue {
 public:
  // `retry` is called when a write is due, without a lock held.
  RetryQueue(size_t writes_max, std::function<void(PendingWrite)> retry)
      : writes_max_(writes_max), retry_(std::move(retry)), thread_([this] { Run(); }) {}
  ~RetryQueue() { Stop(); }

  // kCancelled after Stop, kResourceExhausted where `writes_max` wait already, with `write`
  // untouched.
  absl::Status Add(absl::Time when, PendingWrite& write) {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return absl::CancelledError("shutting down");
    if (waiting_.size() >= writes_max_) {
      return absl::ResourceExhaustedError("too many tags wait for another attempt already");
    }
    waiting_.emplace(when, std::move(write));
    return absl::OkStatus();
  }

  // Ends the thread; what still waited comes back. Idempotent.
  std::vector<PendingWrite> Stop() {
    std::vector<PendingWrite> left;
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
      for (auto& [when, write] : waiting_) left.push_back(std::move(write));
      waiting_.clear();
    }
    if (thread_.joinable()) thread_.join();
    return left;
  }

 private:
  void Run() {
    while (true) {
      std::vector<PendingWrite> due;
      {
        absl::MutexLock lock(&mutex_);
        const absl::Time next = waiting_.empty() ? absl::InfiniteFuture() : waiting_.begin()->first;
        known_next_ = next;
        mutex_.AwaitWithDeadline(
            absl::Condition(
                +[](RetryQueue* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
                  return self->stopping_ || (!self->waiting_.empty() &&
                                             self->waiting_.begin()->first < self->known_next_);
                },
                this),
            next);
        if (stopping_) return;
        const absl::Time now = absl::Now();
        while (!waiting_.empty() && waiting_.begin()->first <= now) {
          due.push_back(std::move(waiting_.begin()->second));
          waiting_.erase(waiting_.begin());
        }
      }
      for (PendingWrite& write : due) retry_(std::move(write));
    }
  }

  const size_t writes_max_;
  const std::function<void(PendingWrite)> retry_;
  absl::Mutex mutex_;
  std::multimap<absl::Time, PendingWrite> waiting_ ABSL_GUARDED_BY(mutex_);
  absl::Time known_next_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // joined by Stop
};

}  // namespace allezon::router
