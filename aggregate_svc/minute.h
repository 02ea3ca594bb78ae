// SPDX-License-Identifier: Apache-2.0
//
// What the aggregate view holds of one minute. Internal to the view.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "aggregate_svc/aggregate_view.h"

namespace allezon::aggregate_svc {

inline absl::Status BusyMinute(int64_t minute) {
  return absl::UnavailableError(
      absl::StrCat("minute ", minute, " is being written, repaired or taken away"));
}

inline replica::Digest Sum(absl::Span<const SealedRef> sealed) {
  replica::Digest sum;
  for (const SealedRef& one : sealed) sum.Add(one.digest);
  return sum;
}

struct AggregateView::Minute {
  explicit Minute(int64_t n) : number(n) {}

  // Of everything that it holds.
  replica::Digest digest() const ABSL_SHARED_LOCKS_REQUIRED(mutex) {
    replica::Digest sum = Sum(sealed);
    if (leaving != nullptr) sum.Add(leaving->digest());
    if (open != nullptr) sum.Add(open->digest());
    return sum;
  }
  size_t open_bytes() const ABSL_SHARED_LOCKS_REQUIRED(mutex) {
    return (leaving != nullptr ? leaving->bytes() : 0) + (open != nullptr ? open->bytes() : 0);
  }

  bool IsSealed() const ABSL_SHARED_LOCKS_REQUIRED(mutex) { return !is_sealing; }

  const int64_t number;
  absl::Mutex mutex;
  // In order of age, which is nearly that of size.
  std::vector<SealedRef> sealed ABSL_GUARDED_BY(mutex);
  // On its way to `sealed`, no longer written to.
  SegmentRef leaving ABSL_GUARDED_BY(mutex);
  // Null where nothing came since the last seal.
  std::unique_ptr<Segment> open ABSL_GUARDED_BY(mutex);
  // Someone writes `leaving` to disk.
  bool is_sealing ABSL_GUARDED_BY(mutex) = false;
  // Counts the times that it was emptied or refilled: who sealed meanwhile takes that back.
  uint64_t epoch ABSL_GUARDED_BY(mutex) = 0;
  // No longer in the map: who wants to append must look it up again.
  bool gone ABSL_GUARDED_BY(mutex) = false;
  // Why it holds nothing although the log does; the next start rebuilds it.
  absl::Status lost ABSL_GUARDED_BY(mutex);

  // Its place in written_; guarded by the view's mutex_.
  std::optional<std::list<Written>::iterator> place;
};

}  // namespace allezon::aggregate_svc
