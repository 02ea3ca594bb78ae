// SPDX-License-Identifier: Apache-2.0
//
// Keyed events that move from one minute to another: where a key comes again with another time, the
// event that it brought before makes way. Two minutes change then, one after the other, and who
// reads both must not count the tag twice or not at all. Readers wait for nothing: one that finds
// that a move got in its way reads again, and after a few times holds moves off meanwhile.
// Thread-safe; one writer.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace allezon::aggregate_svc {

class Moves {
 public:
  struct Move {
    int64_t from_minute = 0;
    int64_t to_minute = 0;
  };

  // Before the first of the minutes changes, and after the last one has. Begin waits while readers
  // hold moves off, for kWaitMax at most.
  void Begin(absl::Span<const Move> moves);
  void End();

  // For WereIn, before the first minute is read.
  uint64_t Mark() const;
  // Whether any event may have moved between two minutes of [from, to) since `mark`. Where one
  // moves at this moment, waits until it has, for kWaitMax at most.
  bool WereIn(int64_t from, int64_t to, uint64_t mark) const;

  // Holds moves off while it lives. WereIn tells whether that was for too long.
  class Hold {
   public:
    explicit Hold(Moves& moves);
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    Moves& moves_;
  };

  static constexpr absl::Duration kWaitMax = absl::Milliseconds(100);
  // Of more moves since its mark a reader does not know whether they were in its way.
  static constexpr size_t kRecentMax = 10'000;

 private:
  bool IsFree() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return holds_ == 0; }
  bool IsQuiet() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return done_ == begun_; }

  mutable absl::Mutex mutex_;
  uint64_t begun_ ABSL_GUARDED_BY(mutex_) = 0;       // how many have
  uint64_t done_ ABSL_GUARDED_BY(mutex_) = 0;        // less than begun_ while some are under way
  std::deque<Move> recent_ ABSL_GUARDED_BY(mutex_);  // the last ones that have begun, in order
  int holds_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace allezon::aggregate_svc
