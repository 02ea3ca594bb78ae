// SPDX-License-Identifier: Apache-2.0
//
// The minutes that are in memory, and which of them are written to. A minute of which nothing is
// open, being stored, dropped or lost is just what is on disk: it may leave, longest unused first,
// and who asks for it again has it loaded. So whoever sends tags may have as many minutes as the
// disk has room for.
//
// A minute that anyone has a reference to does not leave, so there is never more than one of a
// number. One of which nothing was ever stored is known as such without a look at the disk while
// its number is below or above all that have left.
//
// Thread-safe; waits for no minute's mutex, and is not to be called with one held.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace allezon::aggregate_svc {

struct Minute;
using MinuteRef = std::shared_ptr<Minute>;

struct WrittenMinute {
  MinuteRef minute;
  absl::Time last_append;
};

class Minutes {
 public:
  // Minutes that may leave do so beyond `bytes_max`, but for the last used kStayMin.
  explicit Minutes(size_t bytes_max);
  ~Minutes();

  // The minute, from now on the last used one. Where it was not in memory, it is not loaded unless
  // nothing of it can be on disk.
  MinuteRef FindOrMake(int64_t number);
  // The same; null where there is none in memory and nothing of it can be on disk.
  MinuteRef Find(int64_t number);
  // Gives it back after it was found to hold nothing: where that is so and nobody else has it, it
  // takes no memory any more.
  void Release(MinuteRef minute);
  // What it takes may have changed.
  void CountBytes(const MinuteRef& minute);

  // Puts it among those to be sealed: last, or first where `last_append` is the infinite past.
  void NoteWritten(const MinuteRef& minute, absl::Time last_append);
  // Takes out the longest unwritten one, if it was not written after `quiet_since`; else null.
  MinuteRef TakeWritten(absl::Time quiet_since);

  // Lets minutes leave until the rest is within bounds, or has been looked at. Returns up to
  // `dropped_max` that cannot leave because shards were dropped from what is on disk of them.
  std::vector<MinuteRef> Trim(size_t dropped_max);

  // What they take, segments aside; and how much of that is beyond bounds.
  size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  size_t excess_bytes() const;
  size_t count() const;

  // The minutes of one query stay while it is asked again.
  static constexpr size_t kStayMin = 10;

 private:
  MinuteRef FindLocked(int64_t number, bool may_make) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EraseLocked(Minute& minute, std::list<MinuteRef>& left)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  enum class Left { kYes, kInUse, kDropped };
  // The longest unused one; where it cannot leave, it is the last used one from now on.
  Left TryLeaveLocked(std::list<MinuteRef>& left) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsFullLocked() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  bool MayBeOnDiskLocked(int64_t number) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  const size_t bytes_max_;
  std::atomic<size_t> bytes_{0};
  mutable absl::Mutex mutex_;
  std::list<MinuteRef> by_use_ ABSL_GUARDED_BY(mutex_);  // longest unused first
  absl::flat_hash_map<int64_t, Minute*> minutes_ ABSL_GUARDED_BY(mutex_);
  std::list<WrittenMinute> written_ ABSL_GUARDED_BY(mutex_);  // longest unwritten first
  // Numbers of all that have left; none where first > last.
  int64_t first_left_ ABSL_GUARDED_BY(mutex_);
  int64_t last_left_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace allezon::aggregate_svc
