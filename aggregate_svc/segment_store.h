// SPDX-License-Identifier: Apache-2.0
//
// Sealed segments: each one value of the view's column family, never changed once it was written,
// with a cache of decoded ones in front.
//
//   minute (8, as in the log's keys) | sequence number (8, big endian)  ->  Segment::Encode()
//
// The top bit of the sequence number (since replica::kFormatVersion 4) says that it is a *minus*
// segment: of events that other segments of the minute hold and that made way for others. It counts
// less, in totals as in digests.
//
// DO NOT CHANGE: data folders depend on it. A minute has a few of them, which add up to it. A value
// is not synced: one that a crash loses is rebuilt from the log, which is.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "aggregate_svc/segment.h"
#include "replica/view.h"

namespace rocksdb {
class WriteBatch;
}

namespace allezon::aggregate_svc {

// Whether a segment's events count, or count less.
enum Sign : uint8_t { kPlus, kMinus };

// A sealed segment, by the number that no other one had since the process started.
struct SealedRef {
  static constexpr uint64_t kMinusBit = uint64_t{1} << 63;

  uint64_t sequence = 0;
  replica::Digest digest;         // of all that is stored
  std::vector<uint32_t> dropped;  // shards whose events no longer count, in order

  Sign sign() const { return (sequence & kMinusBit) == 0 ? kPlus : kMinus; }
};
using SegmentRef = std::shared_ptr<const Segment>;

// Thread-safe.
class SegmentStore {
 public:
  explicit SegmentStore(size_t cache_bytes_max);

  // What is on disk, by minute. Keys and values that are none of ours are removed. Call once,
  // first.
  absl::StatusOr<absl::btree_map<int64_t, std::vector<SealedRef>>> Open(
      const replica::ViewContext& context);

  // Stores `segment` in the place of `replaced`, at once.
  absl::StatusOr<SealedRef> Replace(int64_t minute, absl::Span<const SealedRef> replaced,
                                    SegmentRef segment, Sign sign);
  // kUnavailable: the disk fails. kDataLoss: it is not there, or is broken.
  absl::StatusOr<SegmentRef> Read(int64_t minute, uint64_t sequence);
  // Adds their removal to a batch; Forget follows once it is committed.
  void StageRemove(int64_t minute, absl::Span<const SealedRef> sealed,
                   rocksdb::WriteBatch& batch) const;
  // Drops them from the cache.
  void Forget(absl::Span<const SealedRef> sealed);
  // StageRemove, committed, and Forget.
  absl::Status Remove(int64_t minute, absl::Span<const SealedRef> sealed);

  size_t cached_bytes() const { return cached_bytes_.load(std::memory_order_relaxed); }

 private:
  struct Cached {
    uint64_t sequence;
    SegmentRef segment;
  };
  SegmentRef FindCached(uint64_t sequence);
  void Cache(uint64_t sequence, SegmentRef segment);

  const size_t cache_bytes_max_;
  replica::ViewContext context_;
  std::atomic<uint64_t> next_sequence_{1};
  std::atomic<size_t> cached_bytes_{0};
  absl::Mutex mutex_;
  std::list<Cached> by_use_ ABSL_GUARDED_BY(mutex_);  // longest unused first
  absl::flat_hash_map<uint64_t, std::list<Cached>::iterator> cache_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace allezon::aggregate_svc
