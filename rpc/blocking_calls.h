// SPDX-License-Identifier: Apache-2.0
//
// Threads for calls that wait (for a disk, for another node), so that gRPC's own threads, of which
// there are few, never do.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace allezon::rpc {

// Thread-safe.
class BlockingCalls {
 public:
  // At most `calls_queued_max` calls wait for one of `threads` threads.
  BlockingCalls(int threads, size_t calls_queued_max);
  // Stops.
  ~BlockingCalls();

  // Runs what is queued, then joins. Not to be called by one of the calls. Idempotent.
  void Stop();
  // False, and `call` is dropped, where the queue is full, or after Stop.
  bool Run(std::function<void()> call);

 private:
  void Work();

  const size_t calls_queued_max_;
  absl::Mutex mutex_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;  // joined by Stop
};

}  // namespace allezon::rpc
