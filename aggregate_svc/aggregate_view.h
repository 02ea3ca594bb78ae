// SPDX-License-Identifier: Apache-2.0
//
// The aggregate view: what a minute holds is spread over an open segment in memory, which takes
// what comes, and sealed ones on disk (SegmentStore), which never change. A minute that has gone
// quiet has its open segment sealed; a late tag begins a new one beside what is sealed, so that it
// costs as much as any other tag and never reads its minute back. When an open segment is sealed,
// the last sealed ones that are not much larger are merged into it, as in a log-structured merge
// tree: a minute has a logarithmic number of segments, and a row is rewritten as often.
//
// Every segment carries the digest of its events, and digests add up. So a start-up sees which
// minutes are not what the log holds, and rebuilds exactly those; and a segment that turns out
// broken later is rebuilt at once if what the log holds is what was counted.
//
// No row is ever taken out of a segment that is no longer written to:
//   - An event that makes way for another one with the same key is appended once more, to a *minus*
//     segment, which counts less. Plus and minus segments are sealed and merged apart. Where the
//     event moves to another minute, two minutes change; see moves.h.
//   - Retention removes single shards of a minute. Closed segments note them, and scans pass them
//     over; a start, which does not know of them, finds that the digests are not the log's. Such a
//     segment is no longer merged, since its digest without them is not known; it goes with the
//     last of what it holds.
//
// Memory: within resident_bytes_max, whatever is written and asked for. Half of it is for what is
// open, three eighths for decoded sealed segments, one eighth for the minutes themselves, some 500
// bytes each, which leave and come back from disk beyond that (minutes.h); those that cannot leave
// count as open. A tick seals the longest unwritten ones down to a quarter; who appends does so
// only beyond half, one write at a time. Not counted: the segments of that one write, and a minute
// that is rebuilt from the log, which is in memory as a whole for a moment.
//
// Minutes of which shards were dropped cannot leave, as the disk knows nothing of that. Where they
// would have to, a tick rebuilds them from the log.
//
// Locks: a minute's mutex guards what it holds; that of Minutes which minutes there are. Neither is
// waited for with the other held. A scan holds its minute's lock, shared, while it reads the open
// segment; sealing holds it to take the segment out and to note where it went, not while it writes.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "aggregate_svc/minutes.h"
#include "aggregate_svc/moves.h"
#include "aggregate_svc/segment_store.h"

namespace allezon::aggregate_svc {

struct Closed;

struct AggregateViewOptions {
  // A minute that nothing was added to for this long is sealed.
  absl::Duration seal_after = absl::Seconds(10);
  // Segments in memory, and the minutes that they are of.
  size_t resident_bytes_max = size_t{512} << 20;
};

// The answer for one minute, for the shards that were asked for.
struct MinuteAnswer {
  Totals totals;
  // When retention last expired the minute in any of the shards; 0 where it never did.
  uint32_t expired_at_s = 0;
  // Of what is held; too early where an event made way for another one.
  uint32_t oldest_accepted_s = 0;
  replica::Digest digest;  // of the events that were looked at; only where it was asked for
  replica::Digest held;    // of all that the minute held here at that moment, for whatever shards
};

class AggregateView final : public replica::View {
 public:
  explicit AggregateView(AggregateViewOptions options);
  ~AggregateView() override;

  void Configure(rocksdb::ColumnFamilyOptions& options) override;
  absl::Status Open(const replica::ViewContext& context) override;
  void Stage(absl::Span<const replica::LogEntry>, rocksdb::WriteBatch&) override {}
  void StageRemove(const replica::LogEntry&, rocksdb::WriteBatch&) override {}
  // Where a crash comes between the commit and this, the next start finds that the digests differ.
  void Committed(absl::Span<const replica::LogEntry> added,
                 absl::Span<const replica::LogEntry> removed) override;
  void StageExpire(absl::Span<const replica::ExpiredBucket> buckets,
                   absl::Span<const int64_t> emptied, rocksdb::WriteBatch& batch) override;
  void Expired(absl::Span<const replica::ExpiredBucket> buckets,
               absl::Span<const int64_t> emptied) override;
  void Tick(absl::Time agreed_now) override;
  void Close() override;

  // One answer for each minute of [from, to), each as of one moment; an event that moves from one
  // of them to another is in exactly one. kUnavailable where a minute cannot be read just now (it
  // is being taken away, or the disk fails): never less than all.
  // With `with_digests` each answer says which set it is of; kUnavailable also where events come in
  // too fast for that. Thread-safe.
  absl::StatusOr<std::vector<MinuteAnswer>> Scan(absl::Span<const uint32_t> shards, int64_t from,
                                                 int64_t to, const Filter& filter,
                                                 bool with_digests = false);

  // What segments and minutes in memory take. Thread-safe.
  size_t resident_bytes() const {
    return open_bytes_.load(std::memory_order_relaxed) + sealed_.cached_bytes() + minutes_.bytes();
  }
  // Minutes in memory: all that hold anything, unless some have left. Thread-safe.
  size_t resident_minutes() const { return minutes_.count(); }

 private:
  // What a commit changes of one minute.
  struct Change {
    std::vector<const replica::LogEntry*> added;
    std::vector<const replica::LogEntry*> removed;
  };
  // A minute that is being sealed.
  struct Sealing;

  // Reads what is on disk of the minute. REQUIRES: its mutex is held. kUnavailable: the disk fails.
  absl::Status Load(Minute& minute) const;
  // Puts what is on disk of it into a minute. REQUIRES: its mutex is held.
  static void Put(std::vector<SealedRef> sealed, Minute& minute);
  // The same into one that is new in memory.
  void Adopt(int64_t number, std::vector<SealedRef> sealed);
  // Null where nothing is in memory and surely nothing on disk. Errors as above.
  absl::StatusOr<MinuteRef> FindLoaded(int64_t number);

  void Apply(int64_t minute, const Change& change);
  enum class Applied {
    kDone,
    kFull,     // an open segment is to be sealed soon
    kEmptied,  // nothing is left of the minute
  };
  Applied ApplyTo(Minute& minute, const Change& change);

  // What is open, and minutes beyond their share.
  size_t unsealed_bytes() const {
    return open_bytes_.load(std::memory_order_relaxed) + minutes_.excess_bytes();
  }
  // Seals some of the longest unwritten minutes with one write, if they were not written after
  // `quiet_since`. No merge makes a segment of more than `merge_rows_max` rows. False where there
  // were none, or where the disk refused; then they stay open and are noted again.
  bool SealSome(absl::Time quiet_since, uint64_t merge_rows_max);
  enum class Began { kYes, kNothing, kFailed };
  // Takes out what is open.
  Began BeginSeal(const MinuteRef& minute, Sealing& sealing);
  // Adds what is leaving to the write, merged with what it replaces.
  void StageLeaving(Sign sign, uint64_t merge_rows_max, Sealing& sealing,
                    SegmentStore::Batch& batch);
  // `segment` with those at the end of `sealed` that are to be merged into it; they move to
  // `replaced`.
  SegmentRef MergeWithLast(int64_t number, uint64_t rows_max, SegmentRef segment,
                           std::vector<SealedRef>& sealed, std::vector<SealedRef>& replaced);
  // After the write.
  void EndSeal(Sealing& sealing, bool is_stored);
  // Both keep memory within its bound: one where a commit must, the other once a second.
  void EnforceBound();
  void ReduceMemory();

  // Takes away all that the minute holds. REQUIRES: its mutex is held.
  void Clear(Minute& minute);
  void Empty(MinuteRef minute);
  // Nothing is answered of it from now on. REQUIRES: its mutex is held.
  static void Lose(Minute& minute, const absl::Status& why);
  // Takes the buckets, all of this minute, out of it.
  void Drop(int64_t number, absl::Span<const replica::ExpiredBucket* const> buckets);
  // One of them. REQUIRES: the minute's mutex is held.
  absl::Status DropBucket(Minute& minute, const replica::ExpiredBucket& bucket);
  // Takes closed segments away of which nothing counts. REQUIRES: the same, and nobody seals.
  void DropClosed(Minute& minute);

  absl::StatusOr<std::vector<MinuteAnswer>> ScanAll(absl::Span<const uint32_t> shards, int64_t from,
                                                    int64_t to, const Filter& filter,
                                                    bool with_digests);
  absl::StatusOr<MinuteAnswer> ScanMinute(int64_t number, absl::Span<const uint32_t> shards,
                                          const Filter& filter);
  // The same while appends, seals and repairs of the minute wait, so that none can get in its way.
  absl::StatusOr<MinuteAnswer> ScanHeld(int64_t number, absl::Span<const uint32_t> shards,
                                        const Filter& filter);
  // kDataLoss where a sealed segment is not there, or broken.
  absl::Status AddClosed(int64_t number, const Closed& closed, Sign sign,
                         absl::Span<const uint32_t> shards, const Filter& filter,
                         MinuteAnswer& answer);
  // As ScanMinute, with its digest.
  absl::StatusOr<MinuteAnswer> ScanSet(int64_t number, absl::Span<const uint32_t> shards,
                                       const Filter& filter);
  absl::StatusOr<replica::Digest> LogDigest(int64_t number,
                                            absl::Span<const uint32_t> shards) const;
  // Fills `minute` from the log again after a sealed segment of it could not be read. kAborted:
  // it changed meanwhile and may do now.
  absl::Status Repair(const MinuteRef& minute);
  // The same for whatever reason. It is to be noted as written then.
  absl::Status Refill(Minute& minute);
  absl::StatusOr<std::unique_ptr<Segment>> ReadLog(int64_t minute) const;

  const AggregateViewOptions options_;
  const uint64_t segment_rows_max_;
  replica::ViewContext context_;
  SegmentStore sealed_;
  Moves moves_;
  std::atomic<size_t> open_bytes_{0};
  Minutes minutes_;
  // Between StageExpire and Expired the disk may hold less of these than they do: they stay. Of the
  // store's writer.
  std::vector<MinuteRef> expiring_;
};

}  // namespace allezon::aggregate_svc
