// SPDX-License-Identifier: Apache-2.0
#include "aggregate_svc/aggregate_view.h"

#include <rocksdb/db.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <algorithm>
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
// value stays within some tens of megabytes.
constexpr uint64_t kSegmentRowsMax = 2'000'000;

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

}  // namespace

AggregateView::AggregateView(AggregateViewOptions options)
    : options_(options), sealed_(options.resident_bytes_max / 2) {
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
  const std::vector<int64_t> logged = context_.log->Minutes();
  size_t rebuilt = 0;
  for (const int64_t number : logged) {
    const auto minute = std::make_shared<Minute>(number);
    std::vector<SealedRef> sealed;
    if (const auto found = on_disk->find(number); found != on_disk->end()) {
      sealed = std::move(found->second);
      on_disk->erase(found);
    }
    if (Sum(sealed) != context_.log->MinuteDigest(number)) {
      absl::StatusOr<std::unique_ptr<Segment>> segment = ReadLog(number);
      if (!segment.ok()) return segment.status();
      // Stored at once instead of being kept, so that a start-up needs no memory for what nobody
      // asks for.
      absl::StatusOr<SealedRef> stored = sealed_.Replace(number, sealed, *std::move(segment));
      if (!stored.ok()) return stored.status();
      sealed = {*stored};
      TheMeters().rebuilt.Increment();
      ++rebuilt;
    }
    absl::MutexLock minute_lock(&minute->mutex);
    minute->sealed = std::move(sealed);
    absl::MutexLock lock(&mutex_);
    minutes_[number] = minute;
  }
  for (const auto& [number, sealed] : *on_disk) {
    if (absl::Status status = sealed_.Remove(number, sealed); !status.ok()) return status;
  }
  if (rebuilt > 0) {
    rpc::LogInfo("segments rebuilt from the log",
                 {{"rebuilt", rebuilt}, {"minutes", logged.size()}});
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

void AggregateView::Committed(absl::Span<const replica::LogEntry> entries) {
  std::map<int64_t, std::vector<const replica::LogEntry*>> by_minute;
  for (const replica::LogEntry& entry : entries) by_minute[entry.minute].push_back(&entry);
  for (const auto& [minute, some] : by_minute) Append(minute, some);
  EnforceBound();
}

void AggregateView::Append(int64_t number, absl::Span<const replica::LogEntry* const> entries) {
  while (true) {
    const MinuteRef minute = FindOrMake(number);
    if (const std::optional<uint64_t> rows = AppendTo(*minute, entries)) {
      return NoteWritten(minute, *rows > kSegmentRowsMax ? absl::InfinitePast() : absl::Now());
    }
    Erase(minute);
  }
}

std::optional<uint64_t> AggregateView::AppendTo(
    Minute& minute, absl::Span<const replica::LogEntry* const> entries) {
  absl::MutexLock lock(&minute.mutex);
  if (minute.gone) return std::nullopt;
  if (!minute.lost.ok()) return 0;
  const size_t before = minute.open_bytes();
  if (minute.open == nullptr) minute.open = std::make_unique<Segment>();
  for (const replica::LogEntry* entry : entries) minute.open->Append(*entry);
  open_bytes_.fetch_add(minute.open_bytes() - before, std::memory_order_relaxed);
  return minute.open->digest().count;
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
    if (last_rows > kMergeRatio * rows || last_rows + rows > kSegmentRowsMax) break;
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

bool AggregateView::Seal(const MinuteRef& minute) {
  SegmentRef leaving;
  std::vector<SealedRef> sealed;
  uint64_t epoch = 0;
  {
    absl::MutexLock lock(&minute->mutex);
    if (minute->is_sealing) return true;  // who does it looks again when done
    if (minute->leaving == nullptr) minute->leaving = std::move(minute->open);
    if (minute->leaving == nullptr) return true;
    minute->is_sealing = true;
    leaving = minute->leaving;
    sealed = minute->sealed;
    epoch = minute->epoch;
  }
  std::vector<SealedRef> replaced;
  const SegmentRef merged = MergeWithLast(minute->number, leaving, sealed, replaced);
  const absl::StatusOr<SealedRef> stored = sealed_.Replace(minute->number, replaced, merged);
  bool has_more = false;
  {
    absl::MutexLock lock(&minute->mutex);
    if (minute->epoch != epoch) {
      // What it stored is no longer to be there. Should this fail, the next start removes it.
      if (stored.ok()) sealed_.Remove(minute->number, {*stored}).IgnoreError();
      return true;
    }
    minute->is_sealing = false;
    if (stored.ok()) {
      sealed.push_back(*stored);
      minute->sealed = std::move(sealed);
      minute->leaving.reset();
      open_bytes_.fetch_sub(leaving->bytes(), std::memory_order_relaxed);
    }
    has_more = minute->open != nullptr || minute->leaving != nullptr;
  }
  if (has_more) NoteWritten(minute, absl::Now());
  return stored.ok();
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
    open_bytes_.fetch_add((*segment)->bytes() - minute->open_bytes(), std::memory_order_relaxed);
    sealed_.Remove(minute->number, minute->sealed).IgnoreError();
    minute->sealed.clear();
    minute->leaving.reset();
    minute->open = *std::move(segment);
    ++minute->epoch;
  }
  TheMeters().rebuilt.Increment();
  rpc::LogWarn("a broken segment was rebuilt from the log", {{"minute", minute->number}});
  NoteWritten(minute, absl::Now());
  return absl::OkStatus();
}

void AggregateView::StageTakeMinute(int64_t number, uint32_t, rocksdb::WriteBatch& batch) {
  const MinuteRef minute = Find(number);
  if (minute == nullptr) return;
  absl::ReaderMutexLock lock(&minute->mutex);
  sealed_.StageRemove(number, minute->sealed, batch);
}

void AggregateView::Removed(absl::Span<const int64_t> minutes) {
  for (const int64_t number : minutes) Refill(number);
}

void AggregateView::Refill(int64_t number) {
  const MinuteRef minute = Find(number);
  if (minute == nullptr) return;
  bool has_rest = false;
  {
    absl::MutexLock lock(&minute->mutex);
    open_bytes_.fetch_sub(minute->open_bytes(), std::memory_order_relaxed);
    // Some may have been sealed between the commit and now.
    sealed_.Remove(number, minute->sealed).IgnoreError();
    minute->sealed.clear();
    minute->leaving.reset();
    minute->open.reset();
    minute->is_sealing = false;
    minute->lost = absl::OkStatus();
    ++minute->epoch;
    has_rest = context_.log->MinuteDigest(number).count > 0;
    minute->gone = !has_rest;
    if (has_rest) {
      absl::StatusOr<std::unique_ptr<Segment>> rest = ReadLog(number);
      if (rest.ok()) {
        open_bytes_.fetch_add((*rest)->bytes(), std::memory_order_relaxed);
        minute->open = *std::move(rest);
      } else {
        minute->lost = absl::UnavailableError(rest.status().ToString());
        rpc::LogError("what the log holds of a minute cannot be read",
                      {{"minute", number}, {"detail", rest.status().ToString()}});
      }
    }
  }
  if (has_rest) {
    NoteWritten(minute, absl::Now());
  } else {
    Erase(minute);
  }
}

void AggregateView::Tick() {
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
