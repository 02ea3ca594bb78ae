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
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "aggregate_svc/segment.h"
#include "replica/view.h"

namespace rocksdb {
struct ColumnFamilyOptions;
class Iterator;
class WriteBatch;
}  // namespace rocksdb

namespace allezon::aggregate_svc {

// Whether a segment's events count, or count less.
enum Sign : uint8_t { kPlus, kMinus };

// A sealed segment, by the number that no other one of its minute had since the process started.
struct SealedRef {
  static constexpr uint64_t kMinusBit = uint64_t{1} << 63;

  uint64_t sequence = 0;
  replica::Digest digest;         // of all that is stored
  std::vector<uint32_t> dropped;  // shards whose events no longer count, in order

  Sign sign() const { return (sequence & kMinusBit) == 0 ? kPlus : kMinus; }
};
using SegmentRef = std::shared_ptr<const Segment>;

// Thread-safe, but for Open, which comes first, and its Walk.
class SegmentStore {
 public:
  class Batch;
  class Walk;

  explicit SegmentStore(size_t cache_bytes_max);

  static void Configure(rocksdb::ColumnFamilyOptions& options);
  void Open(const replica::ViewContext& context) { context_ = context; }

  // What is on disk of the minute, in order of age. Reads its values, but only their digests from
  // them: what is broken is found by Read. kUnavailable: the disk fails.
  absl::StatusOr<std::vector<SealedRef>> Find(int64_t minute) const;
  // kUnavailable: the disk fails. kDataLoss: it is not there, or is broken.
  absl::StatusOr<SegmentRef> Read(int64_t minute, uint64_t sequence);
  // Adds their removal to a batch. They stay in the cache until it lets go of them.
  void StageRemove(int64_t minute, absl::Span<const SealedRef> sealed,
                   rocksdb::WriteBatch& batch) const;
  // Removes them, at once. kUnavailable: the disk fails, and they stay.
  absl::Status Remove(int64_t minute, absl::Span<const SealedRef> sealed);
  // Removes whatever there is of the minute: dearer for whoever reads its neighbours later.
  absl::Status RemoveAll(int64_t minute);

  size_t cached_bytes() const { return cached_bytes_.load(std::memory_order_relaxed); }

 private:
  using CacheKey = std::pair<int64_t, uint64_t>;  // minute, sequence
  struct Cached {
    CacheKey key;
    SegmentRef segment;
  };
  SegmentRef FindCached(const CacheKey& key);
  void Cache(const CacheKey& key, SegmentRef segment);
  // What is stored from now on gets a larger number; while the store opens.
  void PassSequence(uint64_t sequence);
  // Drops them from the cache.
  void Forget(int64_t minute, absl::Span<const SealedRef> sealed);

  const size_t cache_bytes_max_;
  replica::ViewContext context_;
  std::atomic<uint64_t> next_sequence_{1};
  std::atomic<size_t> cached_bytes_{0};
  absl::Mutex mutex_;
  std::list<Cached> by_use_ ABSL_GUARDED_BY(mutex_);  // longest unused first
  absl::flat_hash_map<CacheKey, std::list<Cached>::iterator> cache_ ABSL_GUARDED_BY(mutex_);
};

// Changes that are written at once: all of them or none. Not thread-safe.
class SegmentStore::Batch {
 public:
  explicit Batch(SegmentStore& store);
  ~Batch();

  // Stores `segment` in the place of `replaced`.
  SealedRef Replace(int64_t minute, absl::Span<const SealedRef> replaced, SegmentRef segment,
                    Sign sign);
  void Remove(int64_t minute, absl::Span<const SealedRef> sealed);
  // Of the write so far.
  size_t bytes() const;
  // Begins a new one. kUnavailable: the disk fails, and nothing has changed.
  absl::Status Write();
  // The same where it has become large.
  absl::Status WriteIfLarge();

 private:
  friend class SegmentStore::Walk;
  struct Stored {
    int64_t minute;
    uint64_t sequence;
    SegmentRef segment;
  };
  SegmentStore& store_;
  std::unique_ptr<rocksdb::WriteBatch> batch_;
  std::vector<Stored> stored_;
  std::vector<std::pair<int64_t, std::vector<SealedRef>>> replaced_;
};

// Walks over all that is on disk as of its beginning, minute by minute in order, when the store
// opens: nothing may be stored but for minutes that the walk has passed. Keys and values that are
// none of ours are added to the batch, to be removed.
class SegmentStore::Walk {
 public:
  Walk(SegmentStore& store, Batch& batch);
  ~Walk();

  // Before the first minute, and to the next. kDataLoss: it cannot be read.
  absl::Status Next();
  // False at the end.
  bool is_valid() const { return is_valid_; }
  // REQUIRES: is_valid().
  int64_t minute() const { return minute_; }
  std::vector<SealedRef>& sealed() { return sealed_; }

 private:
  SegmentStore& store_;
  Batch& batch_;
  std::unique_ptr<rocksdb::Iterator> it_;
  bool is_valid_ = false;
  int64_t minute_ = 0;
  std::vector<SealedRef> sealed_;
};

}  // namespace allezon::aggregate_svc
