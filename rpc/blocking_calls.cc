// SPDX-License-Identifier: Apache-2.0
#include "rpc/blocking_calls.h"

#include <utility>

namespace allezon::rpc {

BlockingCalls::BlockingCalls(int threads, size_t calls_queued_max)
    : calls_queued_max_(calls_queued_max) {
  threads_.reserve(threads);
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Work(); });
}

BlockingCalls::~BlockingCalls() { Stop(); }

void BlockingCalls::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

bool BlockingCalls::Run(std::function<void()> call) {
  absl::MutexLock lock(&mutex_);
  if (stopping_ || queue_.size() >= calls_queued_max_) return false;
  queue_.push_back(std::move(call));
  return true;
}

void BlockingCalls::Work() {
  const auto ready = +[](BlockingCalls* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
    return self->stopping_ || !self->queue_.empty();
  };
  while (true) {
    std::function<void()> call;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(ready, this));
      if (queue_.empty()) return;
      call = std::move(queue_.front());
      queue_.pop_front();
    }
    call();
  }
}

}  // namespace allezon::rpc
