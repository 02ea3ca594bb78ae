// SPDX-License-Identifier: Apache-2.0
//
// How the aggregate view seals minutes, and so keeps its memory within bounds. Several are written
// at once: where thousands of small minutes are open, a write of its own for each would have every
// commit wait for some.
#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "aggregate_svc/aggregate_view.h"
#include "aggregate_svc/minute.h"

namespace allezon::aggregate_svc {
namespace {

// A sealed segment is merged into a new one that has at least 1/kMergeRatio of its rows.
constexpr uint64_t kMergeRatio = 2;
// What is sealed with one write: minutes, and bytes, but for the last of them. A commit that comes
// meanwhile waits for the write.
constexpr size_t kSealMinutesMax = 1000;
constexpr size_t kSealBytesMax = size_t{1} << 20;
// How many writes a commit makes where memory is used up: enough for the minutes of 2,000 events,
// which is as many as a commit has. And rows of a merge meanwhile, some milliseconds; a tick goes
// on with it.
constexpr int kSealsACommit = 2;
constexpr uint64_t kCommitMergeRowsMax = 20'000;
// Minutes that a tick reads from the log so that they can leave.
constexpr size_t kRefillsATick = 1000;

}  // namespace

struct AggregateView::Sealing {
  struct Part {
    Closed from;  // as it was at the beginning; without what is merged
    std::vector<SealedRef> replaced;
    std::optional<SealedRef> stored;  // none where nothing was left to store
    replica::Digest erased;           // of what was dropped before
  };
  MinuteRef minute;
  uint64_t epoch = 0;
  std::array<Part, 2> parts;  // by sign
};

AggregateView::Began AggregateView::BeginSeal(const MinuteRef& minute, Sealing& sealing) {
  absl::MutexLock lock(&minute->mutex);
  if (minute->is_sealing) return Began::kNothing;  // who does it looks again when done
  if (minute->open_bytes() == 0) return Began::kNothing;
  // What it may be merged with.
  if (!Load(*minute).ok()) return Began::kFailed;
  for (const Sign sign : {kPlus, kMinus}) {
    Minute::Side& side = minute->sides[sign];
    if (side.closed.leaving == nullptr) side.closed.leaving = std::move(side.open);
    sealing.parts[sign].from = side.closed;
  }
  minute->is_sealing = true;
  minute->dropped_while_sealing.clear();
  sealing.minute = minute;
  sealing.epoch = minute->epoch;
  return Began::kYes;
}

SegmentRef AggregateView::MergeWithLast(int64_t number, uint64_t rows_max, SegmentRef segment,
                                        std::vector<SealedRef>& sealed,
                                        std::vector<SealedRef>& replaced) {
  std::shared_ptr<Segment> merged;
  while (!sealed.empty()) {
    const uint64_t rows = segment->digest().count;
    const uint64_t last_rows = sealed.back().digest.count;
    if (last_rows > kMergeRatio * rows || last_rows + rows > rows_max) break;
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

void AggregateView::StageLeaving(Sign sign, uint64_t merge_rows_max, Sealing& sealing,
                                 SegmentStore::Batch& batch) {
  Sealing::Part& part = sealing.parts[sign];
  if (part.from.leaving == nullptr) return;
  const int64_t number = sealing.minute->number;
  SegmentRef segment = part.from.leaving;
  if (!part.from.leaving_dropped.empty()) {
    auto rest = std::make_shared<Segment>(*segment);
    for (const uint32_t shard : part.from.leaving_dropped) part.erased.Add(rest->Erase(shard));
    if (rest->is_empty()) return;
    segment = std::move(rest);
  }
  segment =
      MergeWithLast(number, merge_rows_max, std::move(segment), part.from.sealed, part.replaced);
  part.stored = batch.Replace(number, part.replaced, std::move(segment), sign);
}

void AggregateView::EndSeal(Sealing& sealing, bool is_stored) {
  MinuteRef minute = std::move(sealing.minute);
  bool has_more = false, is_empty = false;
  {
    absl::MutexLock lock(&minute->mutex);
    if (minute->epoch != sealing.epoch) {
      // What it stored is no longer to be there.
      for (const Sealing::Part& part : sealing.parts) {
        if (!is_stored || !part.stored) continue;
        if (!sealed_.Remove(minute->number, {*part.stored}).ok()) minute->is_stale_on_disk = true;
      }
    } else {
      minute->is_sealing = false;
      for (const Sign sign : {kPlus, kMinus}) {
        Sealing::Part& part = sealing.parts[sign];
        Minute::Side& side = minute->sides[sign];
        if (part.from.leaving == nullptr || !is_stored) continue;
        // Nobody else takes any out, or adds any; but shards may have been dropped from them.
        side.closed.sealed.resize(side.closed.sealed.size() - part.replaced.size());
        if (part.stored) {
          part.stored->dropped = minute->dropped_while_sealing;
          side.closed.sealed.push_back(*std::move(part.stored));
        }
        side.closed.leaving.reset();
        side.closed.leaving_dropped.clear();
        open_bytes_.fetch_sub(part.from.leaving->bytes(), std::memory_order_relaxed);
        sign == kPlus ? minute->dropped.Remove(part.erased) : minute->dropped.Add(part.erased);
      }
    }
    has_more = minute->open_bytes() > 0;
    is_empty = minute->IsEmpty();
  }
  if (is_empty) return minutes_.Release(std::move(minute));
  minutes_.CountBytes(minute);
  if (has_more) minutes_.NoteWritten(minute, absl::Now());
}

bool AggregateView::SealSome(absl::Time quiet_since, uint64_t merge_rows_max) {
  std::vector<Sealing> sealings;
  SegmentStore::Batch batch(sealed_);
  bool is_any = false, is_refused = false;
  while (sealings.size() < kSealMinutesMax && batch.bytes() < kSealBytesMax && !is_refused) {
    MinuteRef minute = minutes_.TakeWritten(quiet_since);
    if (minute == nullptr) break;
    is_any = true;
    Sealing sealing;
    switch (BeginSeal(minute, sealing)) {
      case Began::kYes:
        for (const Sign sign : {kPlus, kMinus}) StageLeaving(sign, merge_rows_max, sealing, batch);
        sealings.push_back(std::move(sealing));
        break;
      case Began::kNothing:
        minutes_.Release(std::move(minute));
        break;
      case Began::kFailed:
        minutes_.NoteWritten(minute, absl::Now());
        is_refused = true;
    }
  }
  const bool is_stored = sealings.empty() || batch.Write().ok();
  for (Sealing& sealing : sealings) EndSeal(sealing, is_stored);
  return is_any && is_stored && !is_refused;
}

void AggregateView::EnforceBound() {
  for (int i = 0; i < kSealsACommit && unsealed_bytes() > options_.resident_bytes_max / 2; ++i) {
    // Where there is none, others are sealing.
    if (!SealSome(absl::InfiniteFuture(), std::min(segment_rows_max_, kCommitMergeRowsMax))) return;
  }
}

void AggregateView::ReduceMemory() {
  const auto seal = [this] { return SealSome(absl::InfiniteFuture(), segment_rows_max_); };
  const size_t enough = options_.resident_bytes_max / 4;
  while (unsealed_bytes() > enough && seal()) {
  }
  for (const MinuteRef& minute : minutes_.Trim(kRefillsATick)) {
    // Where it changes just now, or the disk fails, a later tick does it.
    if (!Refill(*minute).ok()) continue;
    minutes_.NoteWritten(minute, absl::InfinitePast());
    if (unsealed_bytes() > enough && !seal()) return;
  }
  while (SealSome(absl::InfinitePast(), segment_rows_max_)) {
  }
  minutes_.Trim(0);
}

}  // namespace allezon::aggregate_svc
