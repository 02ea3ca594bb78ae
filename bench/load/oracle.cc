// SPDX-License-Identifier: Apache-2.0
#include "bench/load/oracle.h"

#include <algorithm>

#include "bench/load/text.h"

namespace allezon::load {
namespace {

// A row: price in the low 32 bits, then category, brand, origin and action.
constexpr int kCategoryShift = 32;
constexpr int kBrandShift = kCategoryShift + 7;
constexpr int kOriginShift = kBrandShift + 8;
constexpr int kActionShift = kOriginShift + 10;
static_assert(kCategories <= 1 << 7 && kBrands <= 1 << 8 && kOrigins <= 1 << 10);

uint64_t Pack(const Tag& tag) {
  return static_cast<uint32_t>(tag.price) | uint64_t{tag.category} << kCategoryShift |
         uint64_t{tag.brand} << kBrandShift | uint64_t{tag.origin} << kOriginShift |
         static_cast<uint64_t>(tag.action) << kActionShift;
}

int64_t PriceOf(uint64_t row) { return static_cast<int32_t>(static_cast<uint32_t>(row)); }

// Rounds down, also before 1970.
int64_t MinuteNumber(int64_t time_ms) {
  return time_ms / kMsPerMinute - (time_ms % kMsPerMinute < 0 ? 1 : 0);
}

}  // namespace

Oracle::Oracle(const TagStream& stream, int64_t lag_ns_max)
    : stream_(stream),
      lag_ns_max_(lag_ns_max),
      histories_(stream.options().cookies),
      first_minute_(MinuteNumber(stream.options().start_ms)) {}

void Oracle::Sent(uint64_t index, const Tag& tag) {
  ++sent_;
  completed_.push_back(false);
  History& history = histories_[tag.cookie][static_cast<int>(tag.action)];
  std::vector<uint32_t>& newest = history.newest;
  auto at = newest.end();
  while (at != newest.begin() && stream_.TimeMs(*(at - 1)) > tag.time_ms) --at;
  newest.insert(at, static_cast<uint32_t>(index));
  if (newest.size() > kHistoryMax) {
    history.forgotten_ms = std::max(history.forgotten_ms, stream_.TimeMs(newest.front()));
    newest.erase(newest.begin());
  }
}

void Oracle::Completed(uint64_t index, bool acknowledged) {
  completed_[index - completed_before_] = true;
  while (!completed_.empty() && completed_.front()) {
    completed_.pop_front();
    ++completed_before_;
  }
  const Tag tag = stream_.At(index);
  if (Minute* minute = MinuteOf(tag.time_ms); minute != nullptr) {
    (acknowledged ? minute->rows : minute->uncertain).push_back(Pack(tag));
    ++rows_;
  }
  if (!acknowledged) {
    if (uncertain_.size() <= index) uncertain_.resize(index + 1);
    uncertain_[index] = true;
  }
  TrimMinutes();
}

Oracle::Minute* Oracle::MinuteOf(int64_t time_ms) {
  const int64_t number = MinuteNumber(time_ms);
  if (number < first_minute_) return nullptr;
  if (number - first_minute_ >= 2 * kMinutesMax) {  // a leap: nothing here is worth keeping
    minutes_.clear();
    rows_ = 0;
    first_minute_ = number;
  }
  while (first_minute_ + static_cast<int64_t>(minutes_.size()) <= number) minutes_.emplace_back();
  return &minutes_[number - first_minute_];
}

void Oracle::TrimMinutes() {
  while (minutes_.size() > 1 &&
         (rows_ > kRowsMax || static_cast<int64_t>(minutes_.size()) > kMinutesMax)) {
    rows_ -= minutes_.front().rows.size() + minutes_.front().uncertain.size();
    minutes_.pop_front();
    ++first_minute_;
  }
}

void Oracle::Checkpoint(int64_t now_ns) {
  if (!checkpoints_.empty() && now_ns - checkpoints_.back().first < kCheckpointNs) return;
  checkpoints_.emplace_back(now_ns, completed_before_);
  // The newest one that is old enough for the largest lag stays.
  while (checkpoints_.size() > 1 && checkpoints_[1].first <= now_ns - lag_ns_max_) {
    checkpoints_.pop_front();
  }
}

uint64_t Oracle::SettledBefore(int64_t now_ns, int64_t lag_ns) const {
  const auto later = std::upper_bound(
      checkpoints_.begin(), checkpoints_.end(), now_ns - lag_ns,
      [](int64_t when, const auto& checkpoint) { return when < checkpoint.first; });
  return later == checkpoints_.begin() ? 0 : std::prev(later)->second;
}

std::pair<int64_t, int64_t> Oracle::KeptMinutes() const {
  return {first_minute_, first_minute_ + static_cast<int64_t>(minutes_.size()) - 1};
}

MinuteTotals Oracle::Totals(int64_t number, const RowFilter& filter) const {
  MinuteTotals totals;
  const auto [first, last] = KeptMinutes();
  if (number < first || number > last) return totals;
  for (const int id : {filter.origin, filter.brand, filter.category}) {
    if (id == RowFilter::kNone) return totals;
  }
  uint64_t mask = uint64_t{1} << kActionShift;
  uint64_t want = static_cast<uint64_t>(filter.action) << kActionShift;
  const auto require = [&](int id, int shift, int bits) {
    if (id == RowFilter::kAny) return;
    mask |= ((uint64_t{1} << bits) - 1) << shift;
    want |= static_cast<uint64_t>(id) << shift;
  };
  require(filter.origin, kOriginShift, 10);
  require(filter.brand, kBrandShift, 8);
  require(filter.category, kCategoryShift, 7);

  const Minute& minute = minutes_[number - first];
  for (const uint64_t row : minute.rows) {
    const int64_t hit = (row & mask) == want;
    totals.count += hit;
    totals.sum += PriceOf(row) & -hit;
  }
  for (const uint64_t row : minute.uncertain) {
    if ((row & mask) != want) continue;
    ++totals.count_extra;
    (PriceOf(row) < 0 ? totals.sum_negative : totals.sum_positive) += PriceOf(row);
  }
  return totals;
}

std::optional<RowFilter> Oracle::RandomRow(int64_t number, Random* random) const {
  const auto [first, last] = KeptMinutes();
  if (number < first || number > last) return std::nullopt;
  const std::vector<uint64_t>& rows = minutes_[number - first].rows;
  if (rows.empty()) return std::nullopt;
  const uint64_t row = rows[random->Below(rows.size())];
  RowFilter filter;
  filter.action = static_cast<Action>(row >> kActionShift & 1);
  filter.origin = static_cast<int>(row >> kOriginShift & 1023);
  filter.brand = static_cast<int>(row >> kBrandShift & 255);
  filter.category = static_cast<int>(row >> kCategoryShift & 127);
  return filter;
}

}  // namespace allezon::load
