// SPDX-License-Identifier: Apache-2.0
#include "aggregate_svc/aggregate_view.h"

#include <rocksdb/write_batch.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "aggregate_svc/minute.h"
#include "rpc/log.h"
#include "rpc/metrics.h"

namespace allezon::aggregate_svc {
namespace {

// An open segment with more rows is sealed at the next tick, and no merge makes a larger one: a
// value stays within some tens of megabytes; and where memory is small within a sixteenth of it, as
// a merge takes several times as much for a while.
constexpr uint64_t kSegmentRowsMax = 2'000'000;
constexpr uint64_t kSegmentRowsMin = 10'000;
constexpr uint64_t kResidentBytesARow = 256;
// Of resident_bytes_max: the minutes', and that of decoded segments. The rest is for what is open.
constexpr double kMinutesShare = 0.125;
constexpr double kSealedShare = 0.375;

struct Meters {
  prometheus::Counter& rebuilt = rpc::MakeCounter(
      "allezon_segments_rebuilt_total", "Minutes whose segments were rebuilt from the log.");
  prometheus::Counter& loaded = rpc::MakeCounter(
      "allezon_minutes_loaded_total", "Minutes that were not in memory and looked up on disk.");
  prometheus::Gauge& bytes =
      rpc::MakeGauge("allezon_segments_resident_bytes", "Segments and minutes in memory.");
};

Meters& TheMeters() {
  static Meters meters;
  return meters;
}

size_t ShareOf(size_t bytes, double share) {
  return static_cast<size_t>(static_cast<double>(bytes) * share);
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
      sealed_(ShareOf(options.resident_bytes_max, kSealedShare)),
      minutes_(ShareOf(options.resident_bytes_max, kMinutesShare)) {
  TheMeters();
}

AggregateView::~AggregateView() = default;

void AggregateView::Configure(rocksdb::ColumnFamilyOptions& options) {
  SegmentStore::Configure(options);
}

absl::StatusOr<std::unique_ptr<Segment>> AggregateView::ReadLog(int64_t minute) const {
  auto segment = std::make_unique<Segment>();
  absl::Status status = context_.log->ReadMinute(
      minute, [&](const replica::LogEntry& entry) { segment->Append(entry); });
  if (!status.ok()) return status;
  return segment;
}

// Both the log's minutes and what is stored of them come in order: nothing is kept of either but
// what memory has room for, the last ones.
absl::Status AggregateView::Open(const replica::ViewContext& context) {
  context_ = context;
  sealed_.Open(context);
  SegmentStore::Batch batch(sealed_);
  SegmentStore::Walk walk(sealed_, batch);
  size_t minutes = 0, rebuilt = 0;
  const auto remove_until = [&](std::optional<int64_t> number) -> absl::Status {
    while (walk.is_valid() && (!number || walk.minute() < *number)) {
      batch.Remove(walk.minute(), walk.sealed());
      if (absl::Status status = batch.WriteIfLarge(); !status.ok()) return status;
      if (absl::Status status = walk.Next(); !status.ok()) return status;
    }
    return absl::OkStatus();
  };
  const auto open_minute = [&](int64_t number, const replica::Digest& digest) -> absl::Status {
    ++minutes;
    if (absl::Status status = remove_until(number); !status.ok()) return status;
    std::vector<SealedRef> sealed;
    if (walk.is_valid() && walk.minute() == number) {
      sealed = std::move(walk.sealed());
      if (absl::Status status = walk.Next(); !status.ok()) return status;
    }
    if (Sum(sealed) != digest) {
      absl::StatusOr<std::unique_ptr<Segment>> segment = ReadLog(number);
      if (!segment.ok()) return segment.status();
      // Stored soon instead of being kept, so that a start-up needs no memory for what nobody asks
      // for.
      sealed = {batch.Replace(number, sealed, *std::move(segment), kPlus)};
      if (absl::Status status = batch.WriteIfLarge(); !status.ok()) return status;
      TheMeters().rebuilt.Increment();
      ++rebuilt;
    }
    Adopt(number, std::move(sealed));
    return absl::OkStatus();
  };
  absl::Status status = walk.Next();
  if (status.ok()) status = context_.log->VisitMinutes(open_minute);
  if (status.ok()) status = remove_until(std::nullopt);
  if (status.ok()) status = batch.Write();
  if (!status.ok()) return status;
  if (rebuilt > 0) {
    rpc::LogInfo("segments rebuilt from the log", {{"rebuilt", rebuilt}, {"minutes", minutes}});
  }
  return absl::OkStatus();
}

void AggregateView::Adopt(int64_t number, std::vector<SealedRef> sealed) {
  const MinuteRef minute = minutes_.FindOrMake(number);
  {
    absl::MutexLock lock(&minute->mutex);
    Put(std::move(sealed), *minute);
  }
  minutes_.CountBytes(minute);
}

void AggregateView::Put(std::vector<SealedRef> sealed, Minute& minute) {
  minute.mutex.AssertHeld();
  for (SealedRef& one : sealed) {
    minute.sides[one.sign()].closed.sealed.push_back(std::move(one));
  }
  minute.is_loaded = true;
}

absl::Status AggregateView::Load(Minute& minute) const {
  minute.mutex.AssertHeld();
  if (minute.is_loaded) return absl::OkStatus();
  absl::StatusOr<std::vector<SealedRef>> sealed = sealed_.Find(minute.number);
  if (!sealed.ok()) return sealed.status();
  TheMeters().loaded.Increment();
  Put(*std::move(sealed), minute);
  return absl::OkStatus();
}

absl::StatusOr<MinuteRef> AggregateView::FindLoaded(int64_t number) {
  MinuteRef minute = minutes_.Find(number);
  if (minute == nullptr) return minute;
  {
    absl::ReaderMutexLock lock(&minute->mutex);
    if (minute->is_loaded) return minute;
  }
  {
    absl::MutexLock lock(&minute->mutex);
    if (absl::Status status = Load(*minute); !status.ok()) return status;
  }
  minutes_.CountBytes(minute);
  return minute;
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
  MinuteRef minute = minutes_.FindOrMake(number);
  switch (ApplyTo(*minute, change)) {
    case Applied::kDone:
      return minutes_.NoteWritten(minute, absl::Now());
    case Applied::kFull:
      return minutes_.NoteWritten(minute, absl::InfinitePast());
    case Applied::kEmptied:
      return minutes_.Release(std::move(minute));
  }
}

AggregateView::Applied AggregateView::ApplyTo(Minute& minute, const Change& change) {
  absl::MutexLock lock(&minute.mutex);
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
  // Where the disk fails, plus and minus add up to nothing all the same.
  if (!change.removed.empty() && Load(minute).ok() && minute.digest() == replica::Digest()) {
    // The last of what it held has made way.
    Clear(minute);
    return Applied::kEmptied;
  }
  return rows > segment_rows_max_ ? Applied::kFull : Applied::kDone;
}

absl::Status AggregateView::Refill(Minute& minute) {
  // Appends wait: what is counted must not change while the log is read.
  absl::MutexLock lock(&minute.mutex);
  if (minute.is_sealing) return absl::AbortedError("look again");
  absl::StatusOr<std::unique_ptr<Segment>> segment = ReadLog(minute.number);
  if (!segment.ok()) return absl::UnavailableError(segment.status().ToString());
  // Where the log holds more, a commit is under way, whose events will be given to Committed;
  // where it holds less, retention is.
  if ((*segment)->digest() != minute.digest()) return BusyMinute(minute.number);
  Clear(minute);
  open_bytes_.fetch_add((*segment)->bytes(), std::memory_order_relaxed);
  minute.sides[kPlus].open = *std::move(segment);
  return absl::OkStatus();
}

absl::Status AggregateView::Repair(const MinuteRef& minute) {
  if (absl::Status status = Refill(*minute); !status.ok()) return status;
  TheMeters().rebuilt.Increment();
  rpc::LogWarn("a broken segment was rebuilt from the log", {{"minute", minute->number}});
  minutes_.NoteWritten(minute, absl::Now());
  return absl::OkStatus();
}

void AggregateView::Clear(Minute& minute) {
  minute.mutex.AssertHeld();
  open_bytes_.fetch_sub(minute.open_bytes(), std::memory_order_relaxed);
  // Where something was staged to go, it may have been sealed or merged since.
  const absl::Status removed = minute.is_loaded ? sealed_.Remove(minute.number, minute.sealed())
                                                : sealed_.RemoveAll(minute.number);
  if (!removed.ok()) minute.is_stale_on_disk = true;
  minute.sides = {};
  minute.dropped = {};
  minute.is_loaded = true;
  minute.is_sealing = false;
  minute.lost = absl::OkStatus();
  ++minute.epoch;
}

void AggregateView::StageExpire(absl::Span<const replica::ExpiredBucket>,
                                absl::Span<const int64_t> emptied, rocksdb::WriteBatch& batch) {
  expiring_.clear();
  for (const int64_t number : emptied) {
    MinuteRef minute = minutes_.Find(number);
    if (minute == nullptr) continue;
    {
      absl::MutexLock lock(&minute->mutex);
      if (absl::Status status = Load(*minute); status.ok()) {
        sealed_.StageRemove(number, minute->sealed(), batch);
      } else {
        Lose(*minute, status);  // until it is emptied
      }
    }
    expiring_.push_back(std::move(minute));
  }
}

void AggregateView::Expired(absl::Span<const replica::ExpiredBucket> buckets,
                            absl::Span<const int64_t> emptied) {
  for (MinuteRef& minute : std::exchange(expiring_, {})) Empty(std::move(minute));
  const std::set<int64_t> empty(emptied.begin(), emptied.end());
  std::map<int64_t, std::vector<const replica::ExpiredBucket*>> by_minute;
  for (const replica::ExpiredBucket& bucket : buckets) {
    if (bucket.removed == replica::Digest() || empty.contains(bucket.minute)) continue;
    by_minute[bucket.minute].push_back(&bucket);
  }
  for (const auto& [minute, some] : by_minute) Drop(minute, some);
}

void AggregateView::Empty(MinuteRef minute) {
  {
    absl::MutexLock lock(&minute->mutex);
    Clear(*minute);
  }
  minutes_.Release(std::move(minute));
}

void AggregateView::Lose(Minute& minute, const absl::Status& why) {
  minute.mutex.AssertHeld();
  minute.lost = absl::UnavailableError(why.ToString());
  rpc::LogError("what is held of a minute cannot be read",
                {{"minute", minute.number}, {"detail", why.ToString()}});
}

void AggregateView::Drop(int64_t number, absl::Span<const replica::ExpiredBucket* const> buckets) {
  MinuteRef minute = minutes_.Find(number);
  if (minute == nullptr) return;
  bool is_empty = false;
  {
    absl::MutexLock lock(&minute->mutex);
    if (!minute->lost.ok()) return;
    const size_t before = minute->open_bytes();
    absl::Status status = Load(*minute);
    for (const replica::ExpiredBucket* bucket : buckets) {
      if (!status.ok()) break;
      status = DropBucket(*minute, *bucket);
    }
    open_bytes_.fetch_add(minute->open_bytes() - before, std::memory_order_relaxed);
    if (!status.ok()) {
      Clear(*minute);
      return Lose(*minute, status);
    }
    is_empty = minute->digest() == replica::Digest();
    if (is_empty) {
      Clear(*minute);
    } else if (!minute->is_sealing && minute->closed_digest() == replica::Digest()) {
      DropClosed(*minute);
    }
  }
  if (is_empty) return minutes_.Release(std::move(minute));
  minutes_.CountBytes(minute);
  minutes_.NoteWritten(minute, absl::Now());
}

absl::Status AggregateView::DropBucket(Minute& minute, const replica::ExpiredBucket& bucket) {
  minute.mutex.AssertHeld();
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
  if (!sealed_.Remove(minute.number, minute.sealed()).ok()) minute.is_stale_on_disk = true;
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
  while (SealSome(quiet_since, segment_rows_max_)) {
  }
  ReduceMemory();
  TheMeters().bytes.Set(static_cast<double>(resident_bytes()));
}

void AggregateView::Close() {
  while (SealSome(absl::InfiniteFuture(), segment_rows_max_)) {
  }
}

}  // namespace allezon::aggregate_svc
