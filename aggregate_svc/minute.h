// SPDX-License-Identifier: Apache-2.0
//
// What the aggregate view holds of one minute. Internal to the view.
#pragma once

#include <algorithm>
#include <array>
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
#include "aggregate_svc/minutes.h"
#include "aggregate_svc/segment_store.h"

namespace allezon::aggregate_svc {

inline absl::Status BusyMinute(int64_t minute) {
  return absl::UnavailableError(
      absl::StrCat("minute ", minute, " is being written, repaired or taken away"));
}

inline void AddSigned(Sign sign, const replica::Digest& digest, replica::Digest& sum) {
  sign == kPlus ? sum.Add(digest) : sum.Remove(digest);
}

// Of all that is stored, whatever was dropped of it.
inline replica::Digest Sum(absl::Span<const SealedRef> sealed) {
  replica::Digest sum;
  for (const SealedRef& one : sealed) AddSigned(one.sign(), one.digest, sum);
  return sum;
}

inline void NoteDropped(uint32_t shard, std::vector<uint32_t>& dropped) {
  const auto place = std::lower_bound(dropped.begin(), dropped.end(), shard);
  if (place == dropped.end() || *place != shard) dropped.insert(place, shard);
}

// The segments of one sign that are no longer written to.
struct Closed {
  // In order of age, which is nearly that of size.
  std::vector<SealedRef> sealed;
  // On its way to `sealed`, and the shards of it whose events no longer count, in order.
  SegmentRef leaving;
  std::vector<uint32_t> leaving_dropped;
};

struct Minute {
  // The segments of one sign.
  struct Side {
    Closed closed;
    // Null where nothing came since the last seal.
    std::unique_ptr<Segment> open;
  };

  Minute(int64_t n, bool loaded) : number(n), is_loaded(loaded) {}

  // Of everything that counts. REQUIRES: is_loaded, here and below.
  replica::Digest digest() const ABSL_SHARED_LOCKS_REQUIRED(mutex) {
    replica::Digest sum = closed_digest();
    for (const Sign sign : {kPlus, kMinus}) {
      if (sides[sign].open != nullptr) AddSigned(sign, sides[sign].open->digest(), sum);
    }
    return sum;
  }
  // The same of what is no longer written to.
  replica::Digest closed_digest() const ABSL_SHARED_LOCKS_REQUIRED(mutex) {
    replica::Digest sum;
    for (const Sign sign : {kPlus, kMinus}) {
      const Closed& closed = sides[sign].closed;
      sum.Add(Sum(closed.sealed));
      if (closed.leaving != nullptr) AddSigned(sign, closed.leaving->digest(), sum);
    }
    sum.Remove(dropped);
    return sum;
  }
  std::vector<SealedRef> sealed() const ABSL_SHARED_LOCKS_REQUIRED(mutex) {
    std::vector<SealedRef> all = sides[kPlus].closed.sealed;
    const std::vector<SealedRef>& minus = sides[kMinus].closed.sealed;
    all.insert(all.end(), minus.begin(), minus.end());
    return all;
  }
  std::array<Closed, 2> closed() const ABSL_SHARED_LOCKS_REQUIRED(mutex) {
    return {sides[kPlus].closed, sides[kMinus].closed};
  }

  // Of segments that are not stored.
  size_t open_bytes() const ABSL_SHARED_LOCKS_REQUIRED(mutex) {
    size_t bytes = 0;
    for (const Side& side : sides) {
      if (side.closed.leaving != nullptr) bytes += side.closed.leaving->bytes();
      if (side.open != nullptr) bytes += side.open->bytes();
    }
    return bytes;
  }
  // About what it takes in memory without them.
  size_t bytes() const ABSL_SHARED_LOCKS_REQUIRED(mutex);
  bool HasDropped() const ABSL_SHARED_LOCKS_REQUIRED(mutex);
  // Whether it is just what is on disk.
  bool IsStored() const ABSL_SHARED_LOCKS_REQUIRED(mutex);
  // Whether it is so, and nothing.
  bool IsEmpty() const ABSL_SHARED_LOCKS_REQUIRED(mutex);

  bool IsSealed() const ABSL_SHARED_LOCKS_REQUIRED(mutex) { return !is_sealing; }

  const int64_t number;
  mutable absl::Mutex mutex;
  std::array<Side, 2> sides ABSL_GUARDED_BY(mutex);  // by sign
  // Of the events of dropped shards that closed segments still hold, those that count less taken
  // off.
  replica::Digest dropped ABSL_GUARDED_BY(mutex);
  // Whether what is on disk of it is in `sides`. Appends need not know.
  bool is_loaded ABSL_GUARDED_BY(mutex);
  // What is on disk is more than what is here: it could not be removed. The next start does.
  bool is_stale_on_disk ABSL_GUARDED_BY(mutex) = false;
  // Someone writes what is leaving to disk.
  bool is_sealing ABSL_GUARDED_BY(mutex) = false;
  // Shards that were dropped since they began.
  std::vector<uint32_t> dropped_while_sealing ABSL_GUARDED_BY(mutex);
  // Counts the times that it was emptied or refilled: who sealed meanwhile takes that back.
  uint64_t epoch ABSL_GUARDED_BY(mutex) = 0;
  // Why it holds nothing although the log does; the next start rebuilds it.
  absl::Status lost ABSL_GUARDED_BY(mutex);

  // Guarded by the mutex of Minutes.
  struct {
    std::list<MinuteRef>::iterator by_use;
    std::optional<std::list<WrittenMinute>::iterator> written;
    size_t bytes = 0;
  } place;
};

}  // namespace allezon::aggregate_svc
