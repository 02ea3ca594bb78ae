// SPDX-License-Identifier: Apache-2.0
//
// Walks through all tables of a store in the background and compares their checksums, so that
// damage is found while the other replicas are whole, and not by a reader.
#pragma once

#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace allezon::replica {

class Store;

class Scrubber {
 public:
  // One walk takes about `period`, however much there is; zero: it never looks. `store` must
  // outlive it.
  Scrubber(const Store& store, absl::Duration period);
  // Waits for the file that is being read.
  ~Scrubber();

 private:
  void Run();
  // False: it is to end.
  bool Walk();
  bool WaitFor(absl::Duration time);

  const Store& store_;
  const absl::Duration period_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace allezon::replica
