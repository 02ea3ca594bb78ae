// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gateway/connection.h"

namespace allezon::gateway {

// Connections that were refused, for the moment that their clients take to send what they are about
// to send, and to read why: closing a connection with unread bytes would destroy the answer.
// Thread-safe.
class Refusals {
 public:
  Refusals();
  // Closes them all.
  ~Refusals();

  // Ends sending, and closes the connection once its client has, or after a moment; the oldest one
  // at once where there are too many.
  void Add(std::unique_ptr<Connection> connection);

 private:
  struct Refused {
    std::unique_ptr<Connection> connection;
    SteadyTime until;
  };

  void Run();

  absl::Mutex mutex_;
  std::deque<Refused> refused_ ABSL_GUARDED_BY(mutex_);  // the oldest first
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace allezon::gateway
