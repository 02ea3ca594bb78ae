// SPDX-License-Identifier: Apache-2.0
#include "aggregate_svc/aggregate_view.h"

#include <rocksdb/db.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "aggregate_svc/minute.h"
#include "rpc/log.h"
#include "rpc/metrics.h"

namespace allezon::aggregate_svc {
namespace {

// A sealed segment is merged into a new one that has at least 1/kMergeRatio of its rows.
constexpr uint64_t kMergeRatio = 2;
// An open segment with more rows is sealed at the next tick, and no merge makes a larger one: a
// value stays within some tens of megabytes; and where memory is small within a sixteenth of it, as
// a merge takes several times as much for a while.
constexpr uint64_t kSegmentRowsMax = 2'000'000;
constexpr uint64_t kSegmentRowsMin = 10'000;
constexpr uint64_t kResidentBytesARow = 256;

struct Meters {
  prometheus::Counter& rebuilt = rpc::MakeCounter(
      "allezon_segments_rebuilt_total", "Minutes whose segments were rebuilt from the log.");
  prometheus::Gauge& bytes =
      rpc::MakeGauge("allezon_segments_resident_bytes", "Segments in memory.");
};

Meters& TheMeters() {
  static Meters meters;
  return meters;
}

replica::Digest OneEvent(const replica::LogEntry& entry) {
  replica::Digest digest;
  digest.Add(router::AsBytes(entry.id), entry.tag);
  return digest;
}

// Of `removed`, those whose successors in `added` are of another minute.
std::vector<Moves::Move> MovesOf(absl::Span<const replica::LogEntry> added,
                                 absl::Span<const replica::LogEntry> removed) {
  std::vector<Moves::Move> moves;
  if (removed.empty()) return moves;
  std::map<replica::EventId, int64_t> minutes;
  for (const replica::LogEntry& entry : added) {
    if (router::IsKeyed(router::AsBytes(entry.id))) minutes[entry.id] = entry.minute;
  }
  for (const replica::LogEntry& entry : removed) {
    const auto found = minutes.find(entry.id);
    if (found == minutes.end() || found->second == entry.minute) continue;
    moves.push_back({entry.minute, found->second});
  }
  return moves;
}

}  // namespace

AggregateView::AggregateView(AggregateViewOptions options)
    : options_(options),
      segment_rows_max_(std::clamp<uint64_t>(options.resident_bytes_max / kResidentBytesARow,
                                             kSegmentRowsMin, kSegmentRowsMax)),
      sealed_(options.resident_bytes_max / 2) {
  TheMeters();
}

AggregateView::~AggregateView() = default;

void AggregateView::Configure(rocksdb::ColumnFamilyOptions& options) {
  // A few values of up to megabytes: every one is read whole, so blocks need no cache and keys no
  // filter.
  rocksdb::BlockBasedTableOptions table;
  table.no_block_cache = true;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  // Columns of small codes shrink well, and are written once; RocksDB compresses them in its own
  // threads, where an explicit compression would make who seals wait.
  options.compression = rocksdb::kZSTD;
  options.write_buffer_size = std::min(options.write_buffer_size, size_t{16} << 20);
}

absl::StatusOr<std::unique_ptr<Segment>> AggregateView::ReadLog(int64_t minute) const {
  auto segment = std::make_unique<Segment>();
  absl::Status status = context_.log->ReadMinute(
      minute, [&](const replica::LogEntry& entry) { segment->Append(entry); });
  if (!status.ok()) return status;
  return segment;
}

absl::Status AggregateView::Open(const replica::ViewContext& context) {
  context_ = context;
  auto on_disk = sealed_.Open(context);
  if (!on_disk.ok()) return on_disk.status();
  size_t minutes = 0, rebuilt = 0;
  absl::Status status = context_.log->VisitMinutes(
      [&](int64_t number, const replica::Digest& digest) -> absl::Status {
        ++minutes;
        const auto minute = std::make_shared<Minute>(number);
        std::vector<SealedRef> sealed;
        if (const auto found = on_disk->find(number); found != on_disk->end()) {
          sealed = std::move(found->second);
          on_disk->erase(found);
        }
        if (Sum(sealed) != digest) {
          absl::StatusOr<std::unique_ptr<Segment>> segment = ReadLog(number);
          if (!segment.ok()) return segment.status();
          // Stored at once instead of being kept, so that a start-up needs no memory for what
          // nobody asks for.
          absl::StatusOr<SealedRef> stored =
              sealed_.Replace(number, sealed, *std::move(segment), kPlus);
          if (!stored.ok()) return stored.status();
          sealed = {*stored};
          TheMeters().rebuilt.Increment();
          ++rebuilt;
        }
        absl::MutexLock minute_lock(&minute->mutex);
        for (SealedRef& one : sealed) {
          minute->sides[one.sign()].closed.sealed.push_back(std::move(one));
        }
        absl::MutexLock lock(&mutex_);
        minutes_[number] = minute;
        return absl::OkStatus();
      });
  if (!status.ok()) return status;
  for (const auto& [number, sealed] : *on_disk) {
    if (absl::Status status = sealed_.Remove(number, sealed); !status.ok()) return status;
  }
  if (rebuilt > 0) {
    rpc::LogInfo("segments rebuilt from the log", {{"rebuilt", rebuilt}, {"minutes", minutes}});
  }
  return absl::OkStatus();
}

AggregateView::MinuteRef AggregateView::Find(int64_t minute) const {
  absl::MutexLock lock(&mutex_);
  const auto found = minutes_.find(minute);
  return found == minutes_.end() ? nullptr : found->second;
}

AggregateView::MinuteRef AggregateView::FindOrMake(int64_t minute) {
  absl::MutexLock lock(&mutex_);
  MinuteRef& found = minutes_[minute];
  if (found == nullptr) found = std::make_shared<Minute>(minute);
  return found;
}

void AggregateView::Erase(const MinuteRef& minute) {
  absl::MutexLock lock(&mutex_);
  const auto found = minutes_.find(minute->number);
  if (found != minutes_.end() && found->second == minute) minutes_.erase(found);
}

size_t AggregateView::resident_minutes() const {
  absl::MutexLock lock(&mutex_);
  return minutes_.size();
}

void AggregateView::Committed(absl::Span<const replica::LogEntry> added,
                              absl::Span<const replica::LogEntry> removed) {
  std::map<int64_t, Change> changes;
  for (const replica::LogEntry& entry : added) changes[entry.minute].added.push_back(&entry);
  for (const replica::LogEntry& entry : removed) changes[entry.minute].removed.push_back(&entry);
  const std::vector<Moves::Move> moves = MovesOf(added, removed);
  if (!moves.empty()) moves_.Begin(moves);
  for (const auto& [minute, change] : changes) Apply(minute, change);
  if (!moves.empty()) moves_.End();
  EnforceBound();
}

void AggregateView::Apply(int64_t number, const Change& change) {
  while (true) {
    const MinuteRef minute = FindOrMake(number);
    switch (ApplyTo(*minute, change)) {
      case Applied::kDone:
        return NoteWritten(minute, absl::Now());
      case Applied::kFull:
        return NoteWritten(minute, absl::InfinitePast());
      case Applied::kEmptied:
        return Erase(minute);
      case Applied::kGone:
        Erase(minute);
    }
  }
}

AggregateView::Applied AggregateView::ApplyTo(Minute& minute, const Change& change) {
  absl::MutexLock lock(&minute.mutex);
  if (minute.gone) return Applied::kGone;
  if (!minute.lost.ok()) return Applied::kDone;
  const size_t before = minute.open_bytes();
  uint64_t rows = 0;
  for (const Sign sign : {kPlus, kMinus}) {
    std::unique_ptr<Segment>& open = minute.sides[sign].open;
    const auto& entries = sign == kPlus ? change.added : change.removed;
    if (open == nullptr && !entries.empty()) open = std::make_unique<Segment>();
    for (const replica::LogEntry* entry : entries) open->Append(*entry);
    if (open != nullptr) rows = std::max(rows, open->digest().count);
  }
  open_bytes_.fetch_add(minute.open_bytes() - before, std::memory_order_relaxed);
  if (!change.removed.empty() && minute.digest() == replica::Digest()) {
    // The last of what it held has made way.
    Clear(minute);
    minute.gone = true;
    return Applied::kEmptied;
  }
  return rows > segment_rows_max_ ? Applied::kFull : Applied::kDone;
}

void AggregateView::NoteWritten(const MinuteRef& minute, absl::Time last_append) {
  absl::MutexLock lock(&mutex_);
  const auto to = last_append == absl::InfinitePast() ? written_.begin() : written_.end();
  if (minute->place) {
    (*minute->place)->last_append = last_append;
    written_.splice(to, written_, *minute->place);
  } else {
    minute->place = written_.insert(to, {minute, last_append});
  }
}

AggregateView::MinuteRef AggregateView::TakeWritten(absl::Time quiet_since) {
  absl::MutexLock lock(&mutex_);
  if (written_.empty() || written_.front().last_append > quiet_since) return nullptr;
  MinuteRef minute = std::move(written_.front().minute);
  written_.pop_front();
  minute->place.reset();
  return minute;
}

SegmentRef AggregateView::MergeWithLast(int64_t number, SegmentRef segment,
                                        std::vector<SealedRef>& sealed,
                                        std::vector<SealedRef>& replaced) {
  std::shared_ptr<Segment> merged;
  while (!sealed.empty()) {
    const uint64_t rows = segment->digest().count;
    const uint64_t last_rows = sealed.back().digest.count;
    if (last_rows > kMergeRatio * rows || last_rows + rows > segment_rows_max_) break;
    // Its digest without them is not known.
    if (!sealed.back().dropped.empty()) break;
    const absl::StatusOr<SegmentRef> last = sealed_.Read(number, sealed.back().sequence);
    // Who asks for it will have it repaired.
    if (!last.ok()) break;
    if (merged == nullptr) {
      merged = std::make_shared<Segment>(*segment);
      segment = merged;
    }
    merged->Merge(**last);
    replaced.push_back(sealed.back());
    sealed.pop_back();
  }
  return segment;
}

struct AggregateView::Sealing {
  Closed from;  // as it was at the beginning; without what is merged
  std::vector<SealedRef> replaced;
  std::optional<SealedRef> stored;  // none where nothing was left to store
  replica::Digest erased;           // of what was dropped before
  absl::Status status;
};

void AggregateView::StoreLeaving(int64_t number, Sign sign, Sealing& sealing) {
  SegmentRef segment = sealing.from.leaving;
  if (!sealing.from.leaving_dropped.empty()) {
    auto rest = std::make_shared<Segment>(*segment);
    for (const uint32_t shard : sealing.from.leaving_dropped) {
      sealing.erased.Add(rest->Erase(shard));
    }
    if (rest->is_empty()) return;
    segment = std::move(rest);
  }
  segment = MergeWithLast(number, std::move(segment), sealing.from.sealed, sealing.replaced);
  absl::StatusOr<SealedRef> stored =
      sealed_.Replace(number, sealing.replaced, std::move(segment), sign);
  sealing.status = stored.status();
  if (stored.ok()) sealing.stored = *std::move(stored);
}

bool AggregateView::Seal(const MinuteRef& minute) {
  std::array<Sealing, 2> sealings;
  uint64_t epoch = 0;
  {
    absl::MutexLock lock(&minute->mutex);
    if (minute->is_sealing) return true;  // who does it looks again when done
    for (const Sign sign : {kPlus, kMinus}) {
      Minute::Side& side = minute->sides[sign];
      if (side.closed.leaving == nullptr) side.closed.leaving = std::move(side.open);
      sealings[sign].from = side.closed;
    }
    if (sealings[kPlus].from.leaving == nullptr && sealings[kMinus].from.leaving == nullptr) {
      return true;
    }
    minute->is_sealing = true;
    minute->dropped_while_sealing.clear();
    epoch = minute->epoch;
  }
  for (const Sign sign : {kPlus, kMinus}) {
    if (sealings[sign].from.leaving != nullptr) StoreLeaving(minute->number, sign, sealings[sign]);
  }
  bool has_more = false;
  {
    absl::MutexLock lock(&minute->mutex);
    if (minute->epoch != epoch) {
      // What it stored is no longer to be there. Should this fail, the next start removes it.
      for (const Sealing& sealing : sealings) {
        if (sealing.stored) sealed_.Remove(minute->number, {*sealing.stored}).IgnoreError();
      }
      return true;
    }
    minute->is_sealing = false;
    for (const Sign sign : {kPlus, kMinus}) {
      Sealing& sealing = sealings[sign];
      Minute::Side& side = minute->sides[sign];
      if (sealing.from.leaving != nullptr && sealing.status.ok()) {
        // Nobody else takes any out, or adds any; but shards may have been dropped from them.
        side.closed.sealed.resize(side.closed.sealed.size() - sealing.replaced.size());
        if (sealing.stored) {
          sealing.stored->dropped = minute->dropped_while_sealing;
          side.closed.sealed.push_back(*std::move(sealing.stored));
        }
        side.closed.leaving.reset();
        side.closed.leaving_dropped.clear();
        open_bytes_.fetch_sub(sealing.from.leaving->bytes(), std::memory_order_relaxed);
        sign == kPlus ? minute->dropped.Remove(sealing.erased)
                      : minute->dropped.Add(sealing.erased);
      }
      has_more = has_more || side.open != nullptr || side.closed.leaving != nullptr;
    }
  }
  if (has_more) NoteWritten(minute, absl::Now());
  return sealings[kPlus].status.ok() && sealings[kMinus].status.ok();
}

void AggregateView::EnforceBound() {
  while (open_bytes_.load(std::memory_order_relaxed) > options_.resident_bytes_max / 2) {
    const MinuteRef minute = TakeWritten(absl::InfiniteFuture());
    // Where there is none, others are sealing.
    if (minute == nullptr || !Seal(minute)) return;
  }
}

absl::Status AggregateView::Repair(const MinuteRef& minute) {
  {
    // Appends wait: what is counted must not change while the log is read.
    absl::MutexLock lock(&minute->mutex);
    if (minute->gone || minute->is_sealing) return absl::AbortedError("look again");
    absl::StatusOr<std::unique_ptr<Segment>> segment = ReadLog(minute->number);
    if (!segment.ok()) return absl::UnavailableError(segment.status().ToString());
    // Where the log holds more, a commit is under way, whose events will be given to Committed;
    // where it holds less, retention is.
    if ((*segment)->digest() != minute->digest()) return BusyMinute(minute->number);
    Clear(*minute);
    open_bytes_.fetch_add((*segment)->bytes(), std::memory_order_relaxed);
    minute->sides[kPlus].open = *std::move(segment);
  }
  TheMeters().rebuilt.Increment();
  rpc::LogWarn("a broken segment was rebuilt from the log", {{"minute", minute->number}});
  NoteWritten(minute, absl::Now());
  return absl::OkStatus();
}

void AggregateView::Clear(Minute& minute) {
  minute.mutex.AssertHeld();
  open_bytes_.fetch_sub(minute.open_bytes(), std::memory_order_relaxed);
  // Where something was staged to go, it may have been sealed or merged since. Should this fail,
  // the next start removes it.
  if (const auto sealed = minute.sealed(); !sealed.empty()) {
    sealed_.Remove(minute.number, sealed).IgnoreError();
  }
  minute.sides = {};
  minute.dropped = {};
  minute.is_sealing = false;
  minute.lost = absl::OkStatus();
  ++minute.epoch;
}

void AggregateView::StageExpire(absl::Span<const replica::ExpiredBucket>,
                                absl::Span<const int64_t> emptied, rocksdb::WriteBatch& batch) {
  for (const int64_t number : emptied) {
    const MinuteRef minute = Find(number);
    if (minute == nullptr) continue;
    absl::ReaderMutexLock lock(&minute->mutex);
    sealed_.StageRemove(number, minute->sealed(), batch);
  }
}

void AggregateView::Expired(absl::Span<const replica::ExpiredBucket> buckets,
                            absl::Span<const int64_t> emptied) {
  for (const int64_t number : emptied) Empty(number);
  std::map<int64_t, std::vector<const replica::ExpiredBucket*>> by_minute;
  for (const replica::ExpiredBucket& bucket : buckets) by_minute[bucket.minute].push_back(&bucket);
  for (const auto& [minute, some] : by_minute) Drop(minute, some);
}

void AggregateView::Empty(int64_t number) {
  const MinuteRef minute = Find(number);
  if (minute == nullptr) return;
  {
    absl::MutexLock lock(&minute->mutex);
    Clear(*minute);
    minute->gone = true;
  }
  Erase(minute);
}

void AggregateView::Drop(int64_t number, absl::Span<const replica::ExpiredBucket* const> buckets) {
  const MinuteRef minute = Find(number);
  if (minute == nullptr) return;
  bool is_empty = false;
  {
    absl::MutexLock lock(&minute->mutex);
    if (!minute->lost.ok()) return;
    const size_t before = minute->open_bytes();
    absl::Status status;
    for (const replica::ExpiredBucket* bucket : buckets) {
      status = DropBucket(*minute, *bucket);
      if (!status.ok()) break;
    }
    open_bytes_.fetch_add(minute->open_bytes() - before, std::memory_order_relaxed);
    if (!status.ok()) {
      Clear(*minute);
      minute->lost = absl::UnavailableError(status.ToString());
      rpc::LogError("what the log holds of a minute cannot be read",
                    {{"minute", number}, {"detail", status.ToString()}});
      return;
    }
    is_empty = minute->digest() == replica::Digest();
    if (is_empty) {
      Clear(*minute);
      minute->gone = true;
    } else if (!minute->is_sealing && minute->closed_digest() == replica::Digest()) {
      DropClosed(*minute);
    }
  }
  is_empty ? Erase(minute) : NoteWritten(minute, absl::Now());
}

absl::Status AggregateView::DropBucket(Minute& minute, const replica::ExpiredBucket& bucket) {
  minute.mutex.AssertHeld();
  if (bucket.removed == replica::Digest()) return absl::OkStatus();
  // What closed segments hold of it: all that the minute held of it, but what is open.
  replica::Digest closed = bucket.removed;
  for (const Sign sign : {kPlus, kMinus}) {
    Minute::Side& side = minute.sides[sign];
    if (side.open != nullptr) {
      const replica::Digest open = side.open->Erase(bucket.shard);
      sign == kPlus ? closed.Remove(open) : closed.Add(open);
      if (side.open->is_empty()) side.open.reset();
    }
    for (SealedRef& sealed : side.closed.sealed) NoteDropped(bucket.shard, sealed.dropped);
    if (side.closed.leaving != nullptr) NoteDropped(bucket.shard, side.closed.leaving_dropped);
  }
  if (minute.is_sealing) NoteDropped(bucket.shard, minute.dropped_while_sealing);
  if (!bucket.is_empty) {
    auto& open = minute.sides[kPlus].open;
    if (open == nullptr) open = std::make_unique<Segment>();
    absl::Status status =
        context_.log->ReadBucket(minute.number, bucket.shard, [&](const replica::LogEntry& entry) {
          open->Append(entry);
          closed.Add(OneEvent(entry));
        });
    if (!status.ok()) return status;
  }
  minute.dropped.Add(closed);
  return absl::OkStatus();
}

void AggregateView::DropClosed(Minute& minute) {
  minute.mutex.AssertHeld();
  sealed_.Remove(minute.number, minute.sealed()).IgnoreError();
  for (Minute::Side& side : minute.sides) {
    if (side.closed.leaving != nullptr) {
      open_bytes_.fetch_sub(side.closed.leaving->bytes(), std::memory_order_relaxed);
    }
    side.closed = {};
  }
  minute.dropped = {};
}

void AggregateView::Tick(absl::Time) {
  const absl::Time quiet_since = absl::Now() - options_.seal_after;
  while (const MinuteRef minute = TakeWritten(quiet_since)) {
    if (!Seal(minute)) break;
  }
  EnforceBound();
  TheMeters().bytes.Set(static_cast<double>(resident_bytes()));
}

void AggregateView::Close() {
  while (const MinuteRef minute = TakeWritten(absl::InfiniteFuture())) {
    if (!Seal(minute)) return;
  }
}

}  // namespace allezon::aggregate_svc
