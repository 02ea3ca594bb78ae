// SPDX-License-Identifier: Apache-2.0
//
// The cut of profiles to their newest tags, made where RocksDB rewrites the rows anyway.
//
// A filter sees the rows of one compaction in key order, so those of a cookie and action newest
// first. It takes a row away only if all of this holds:
//   - kProfileTagsKept distinct rows of the same cookie and action, all newer, have passed this
//     same filter before it;
//   - the tag's time is before T - retention, T being the newest tag time that was accepted;
//   - it was accepted longer than `retention` ago, so that a replay of old times is not lost. What
//     time it is is what several nodes agree on: this node's own clock may be days ahead.
//
// Why none of the newest kProfileTagsKept can go, whatever is compacted with what. Let S be all
// tags of the cookie and action that were ever stored. Each row that a filter sees is in S, and S
// only grows. What a filter removes has kProfileTagsKept members of S before it, so it is not
// among the newest of S, now or ever. Nothing else deletes rows of this column family. So the
// newest kProfileTagsKept of S are always there, by induction over compactions. The argument needs
// neither that the compaction holds all rows of the cookie (a partial one, or one of several
// subcompactions, counts too few and keeps too much, until a larger one comes by), nor that the
// rows that were counted are still alive (an earlier compaction may have put a tombstone for one
// of them into a level that is not part of this one: it was in S all the same).
//
// Several versions of one key: writes are blind puts, and a hand-over may repeat them. All versions
// hold the same tag, RocksDB asks about the newest one in the compaction, and a key that passes
// twice in a row is counted once. Decision::kRemove leaves a tombstone with the sequence number of
// that version unless nothing can lie below it, so an older version in a deeper level does not come
// back; a version put later stays visible, which is harmless, and is judged again. (That is not so
// for kRemoveAndSkipUntil, which may uncover older versions: not used.)
//
// Snapshots: since RocksDB 6.0 a filter is asked about rows that a snapshot sees too (returning
// false from IgnoreSnapshots fails the compaction), so GetSnapshot does not protect rows from it.
// Nothing here reads profiles through an explicit snapshot; an iterator pins the files that it
// reads, and does not see a compaction that ends meanwhile.
//
// The one thing that removes a row besides: an idempotency key that is used again with another tag.
// Then a row that was counted may go later, and the profile shows one of the newest tags less until
// the next one comes.
#pragma once

#include <rocksdb/compaction_filter.h>

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>

#include "absl/time/time.h"

namespace allezon::profile_svc {

// Tags of each action that a profile always keeps, and the most that a query gets.
inline constexpr uint32_t kProfileTagsKept = 200;

inline constexpr int64_t kNoTime = std::numeric_limits<int64_t>::min();

// What filters go by. Too low is safe in both, and kNoTime in either keeps everything.
struct RetentionTimes {
  std::atomic<int64_t> newest_tag_ms = kNoTime;  // the newest tag time that was accepted
  std::atomic<int64_t> agreed_now_us = kNoTime;  // since 1970; surely not ahead of the true time
};

// Compactions may run from before the store is open until after the view is gone, so the factory
// shares what it needs. Thread-safe; the filters that it makes are each used by one thread.
class RetentionFilterFactory final : public rocksdb::CompactionFilterFactory {
 public:
  RetentionFilterFactory(std::shared_ptr<const RetentionTimes> times, absl::Duration retention)
      : times_(std::move(times)), retention_(retention) {}

  std::unique_ptr<rocksdb::CompactionFilter> CreateCompactionFilter(
      const rocksdb::CompactionFilter::Context& context) override;
  const char* Name() const override { return "allezon.ProfileRetention"; }

 private:
  const std::shared_ptr<const RetentionTimes> times_;
  const absl::Duration retention_;
};

}  // namespace allezon::profile_svc
