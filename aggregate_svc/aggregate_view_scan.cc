// SPDX-License-Identifier: Apache-2.0
//
// How the aggregate view is read.
#include <algorithm>
#include <array>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "aggregate_svc/aggregate_view.h"
#include "aggregate_svc/minute.h"

namespace allezon::aggregate_svc {
namespace {

// How often a scan begins again because the minute's segments were replaced while it read them.
// Then it has those who would replace them wait.
constexpr int kScanAttemptsMax = 5;
// How often, and how far apart, a scan looks for a moment between two commits to its minute.
constexpr int kDigestAttemptsMax = 20;
constexpr absl::Duration kDigestPause = absl::Milliseconds(1);
// How long a scan waits for a seal that took away what it was to read.
constexpr absl::Duration kSealWaitMax = absl::Seconds(5);

bool SameSegments(absl::Span<const SealedRef> a, absl::Span<const SealedRef> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const auto& x, const auto& y) { return x.sequence == y.sequence; });
}

void AddSegment(const Segment& segment, Sign sign, absl::Span<const uint32_t> shards,
                const Filter& filter, MinuteAnswer& answer) {
  if (sign == kMinus) return answer.totals.Remove(segment.Scan(shards, filter));
  answer.totals.Add(segment.Scan(shards, filter));
  const uint32_t oldest = segment.OldestAcceptedS(shards);
  if (oldest == 0) return;
  answer.oldest_accepted_s =
      answer.oldest_accepted_s == 0 ? oldest : std::min(answer.oldest_accepted_s, oldest);
}

// The same, but for shards that were dropped from it.
void AddSegment(const Segment& segment, Sign sign, absl::Span<const uint32_t> dropped,
                absl::Span<const uint32_t> shards, const Filter& filter, MinuteAnswer& answer) {
  if (dropped.empty()) return AddSegment(segment, sign, shards, filter, answer);
  std::vector<uint32_t> left;
  std::copy_if(shards.begin(), shards.end(), std::back_inserter(left), [&](uint32_t shard) {
    return !std::binary_search(dropped.begin(), dropped.end(), shard);
  });
  AddSegment(segment, sign, left, filter, answer);
}

}  // namespace

absl::StatusOr<std::vector<MinuteAnswer>> AggregateView::Scan(absl::Span<const uint32_t> shards,
                                                              int64_t from, int64_t to,
                                                              const Filter& filter,
                                                              bool with_digests) {
  for (int attempt = 0; attempt < kScanAttemptsMax; ++attempt) {
    const uint64_t mark = moves_.Mark();
    auto answers = ScanAll(shards, from, to, filter, with_digests);
    if (!answers.ok() || !moves_.WereIn(from, to, mark)) return answers;
  }
  const Moves::Hold hold(moves_);
  const uint64_t mark = moves_.Mark();
  auto answers = ScanAll(shards, from, to, filter, with_digests);
  if (answers.ok() && moves_.WereIn(from, to, mark)) return BusyMinute(from);
  return answers;
}

absl::StatusOr<std::vector<MinuteAnswer>> AggregateView::ScanAll(absl::Span<const uint32_t> shards,
                                                                 int64_t from, int64_t to,
                                                                 const Filter& filter,
                                                                 bool with_digests) {
  std::vector<MinuteAnswer> answers;
  for (int64_t number = from; number < to; ++number) {
    absl::StatusOr<MinuteAnswer> answer =
        with_digests ? ScanSet(number, shards, filter) : ScanMinute(number, shards, filter);
    if (!answer.ok()) return answer.status();
    // After the minute: what expires in between is noticed.
    answer->expired_at_s = context_.log->ExpiredAtS(shards, number);
    answers.push_back(*answer);
  }
  return answers;
}

absl::StatusOr<MinuteAnswer> AggregateView::ScanMinute(int64_t number,
                                                       absl::Span<const uint32_t> shards,
                                                       const Filter& filter) {
  for (int attempt = 0; attempt < kScanAttemptsMax; ++attempt) {
    MinuteAnswer answer;
    absl::StatusOr<MinuteRef> found = FindLoaded(number);
    if (!found.ok()) return found.status();
    MinuteRef minute = *std::move(found);
    if (minute == nullptr) return answer;
    std::array<Closed, 2> closed;
    bool is_empty = false;
    {
      absl::ReaderMutexLock lock(&minute->mutex);
      if (!minute->lost.ok()) return minute->lost;
      is_empty = minute->IsEmpty();
      closed = minute->closed();
      answer.held = minute->digest();
      for (const Sign sign : {kPlus, kMinus}) {
        const auto& open = minute->sides[sign].open;
        if (open != nullptr) AddSegment(*open, sign, shards, filter, answer);
      }
    }
    if (is_empty) {
      minutes_.Release(std::move(minute));
      return answer;
    }
    // What does not change is scanned without the lock.
    absl::Status status = AddClosed(number, closed[kPlus], kPlus, shards, filter, answer);
    if (status.ok()) status = AddClosed(number, closed[kMinus], kMinus, shards, filter, answer);
    if (status.ok()) return answer;
    if (!absl::IsDataLoss(status)) return status;
    // A seal takes away what it merges before it says where that went.
    {
      absl::ReaderMutexLock lock(&minute->mutex);
      if (!minute->mutex.AwaitWithTimeout(absl::Condition(minute.get(), &Minute::IsSealed),
                                          kSealWaitMax)) {
        break;
      }
      if (!SameSegments(minute->sides[kPlus].closed.sealed, closed[kPlus].sealed) ||
          !SameSegments(minute->sides[kMinus].closed.sealed, closed[kMinus].sealed)) {
        continue;
      }
    }
    status = Repair(minute);
    if (!status.ok() && !absl::IsAborted(status)) return status;
  }
  return ScanHeld(number, shards, filter);
}

absl::StatusOr<MinuteAnswer> AggregateView::ScanHeld(int64_t number,
                                                     absl::Span<const uint32_t> shards,
                                                     const Filter& filter) {
  MinuteAnswer answer;
  const absl::StatusOr<MinuteRef> found = FindLoaded(number);
  if (!found.ok()) return found.status();
  const MinuteRef& minute = *found;
  if (minute == nullptr) return answer;
  absl::ReaderMutexLock lock(&minute->mutex);
  if (!minute->mutex.AwaitWithTimeout(absl::Condition(minute.get(), &Minute::IsSealed),
                                      kSealWaitMax)) {
    return BusyMinute(number);
  }
  if (!minute->lost.ok()) return minute->lost;
  answer.held = minute->digest();
  for (const Sign sign : {kPlus, kMinus}) {
    const Minute::Side& side = minute->sides[sign];
    if (side.open != nullptr) AddSegment(*side.open, sign, shards, filter, answer);
    absl::Status status = AddClosed(number, side.closed, sign, shards, filter, answer);
    // Only retention takes segments away now; what is broken is repaired by the next scan.
    if (absl::IsDataLoss(status)) return BusyMinute(number);
    if (!status.ok()) return status;
  }
  return answer;
}

absl::Status AggregateView::AddClosed(int64_t number, const Closed& closed, Sign sign,
                                      absl::Span<const uint32_t> shards, const Filter& filter,
                                      MinuteAnswer& answer) {
  if (closed.leaving != nullptr) {
    AddSegment(*closed.leaving, sign, closed.leaving_dropped, shards, filter, answer);
  }
  for (const SealedRef& one : closed.sealed) {
    const absl::StatusOr<SegmentRef> segment = sealed_.Read(number, one.sequence);
    if (!segment.ok()) return segment.status();
    AddSegment(**segment, sign, one.dropped, shards, filter, answer);
  }
  return absl::OkStatus();
}

absl::StatusOr<replica::Digest> AggregateView::LogDigest(int64_t number,
                                                         absl::Span<const uint32_t> shards) const {
  replica::Digest sum;
  for (const uint32_t shard : shards) {
    const absl::StatusOr<replica::Digest> digest = context_.log->BucketDigest(number, shard);
    if (!digest.ok()) return digest.status();
    sum.Add(*digest);
  }
  return sum;
}

absl::StatusOr<MinuteAnswer> AggregateView::ScanSet(int64_t number,
                                                    absl::Span<const uint32_t> shards,
                                                    const Filter& filter) {
  for (int attempt = 0; attempt < kDigestAttemptsMax; ++attempt) {
    if (attempt > 0) absl::SleepFor(kDigestPause);
    const absl::StatusOr<replica::Digest> before = LogDigest(number, shards);
    if (!before.ok()) return before.status();
    absl::StatusOr<MinuteAnswer> answer = ScanMinute(number, shards, filter);
    if (!answer.ok()) return answer.status();
    // Between a commit and Committed the log holds another set than what was scanned; where it held
    // that one, and the shards' part was the same before and after, so was the scan's.
    const absl::StatusOr<replica::Digest> held = context_.log->MinuteDigest(number);
    if (!held.ok()) return held.status();
    const absl::StatusOr<replica::Digest> after = LogDigest(number, shards);
    if (!after.ok()) return after.status();
    if (answer->held != *held || *after != *before) continue;
    answer->digest = *before;
    return answer;
  }
  return BusyMinute(number);
}

}  // namespace allezon::aggregate_svc
