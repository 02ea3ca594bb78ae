// SPDX-License-Identifier: Apache-2.0
//
// The aggregate view: a segment for each minute, kept in memory while it is written or read, sealed
// (stored as one value) once it has gone quiet, and loaded again when someone asks for it or a late
// tag comes. What was not sealed when the process ended is rebuilt from the log: a sealed segment
// carries the digest of the events that it was made from, so a start-up sees which ones are not up
// to date.
//
// Locks: `mutex_` guards which minutes are in memory and is held briefly; each minute has a lock of
// its own, held exclusively while it is appended to or loaded and shared while it is scanned. A
// minute's lock is never waited for with mutex_ held.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "aggregate_svc/segment.h"
#include "replica/view.h"

namespace allezon::aggregate_svc {

struct AggregateViewOptions {
  // A minute that nothing was added to for this long is sealed.
  absl::Duration seal_after = absl::Seconds(10);
  // Segments in memory, sealed ones that were read included. Beyond, the longest unused ones go,
  // sealed before where needed.
  size_t resident_bytes_max = size_t{512} << 20;
};

// The answer for one minute, for the shards that were asked for.
struct MinuteAnswer {
  Totals totals;
  uint32_t taken_through_s = 0;
  uint32_t oldest_accepted_s = 0;
};

class AggregateView final : public replica::View {
 public:
  explicit AggregateView(AggregateViewOptions options);
  ~AggregateView() override;

  void Configure(rocksdb::ColumnFamilyOptions& options) override;
  absl::Status Open(const replica::ViewContext& context) override;
  void Stage(absl::Span<const replica::LogEntry>, rocksdb::WriteBatch&) override {}
  void Committed(absl::Span<const replica::LogEntry> entries) override;
  void StageTakeMinute(int64_t minute, uint32_t taken_through_s,
                       rocksdb::WriteBatch& batch) override;
  void MinuteTaken(int64_t minute, uint32_t taken_through_s) override;
  void Tick() override;
  void Close() override;

  // One answer for each minute of [from, to), each as of one moment. An error where a segment
  // cannot be read: never less than all. Thread-safe.
  absl::StatusOr<std::vector<MinuteAnswer>> Scan(absl::Span<const uint32_t> shards, int64_t from,
                                                 int64_t to, const Filter& filter);

  // What the segments in memory take, and how many there are. Thread-safe.
  size_t resident_bytes() const { return resident_bytes_.load(std::memory_order_relaxed); }
  size_t resident_minutes() const;

 private:
  struct Minute;
  using MinuteRef = std::shared_ptr<Minute>;

  MinuteRef Find(int64_t minute);
  // Fills a minute that is new in memory from its sealed value, if it has one.
  void Load(Minute& minute) const;
  void Append(int64_t minute, absl::Span<const replica::LogEntry* const> entries);
  // Stores what the minute holds. False where the disk refused; the minute stays dirty.
  bool Seal(Minute& minute);
  void EnforceBound();
  bool Evict(const MinuteRef& minute);
  std::vector<MinuteRef> AllMinutes() const;
  absl::Status Rebuild(int64_t minute);

  const AggregateViewOptions options_;
  replica::ViewContext context_;
  std::atomic<size_t> resident_bytes_{0};
  std::atomic<uint64_t> clock_{0};  // counts uses; orders minutes by their last one
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<int64_t, MinuteRef> minutes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace allezon::aggregate_svc
