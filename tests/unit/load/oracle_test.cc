// SPDX-License-Identifier: Apache-2.0
#include "bench/load/oracle.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "bench/load/stream.h"
#include "bench/load/text.h"

namespace allezon::load {
namespace {

constexpr int64_t kStartMs = 1'647'950'400'000;  // a full minute
constexpr int64_t kFirstMinute = kStartMs / kMsPerMinute;
constexpr int64_t kSecondNs = 1'000'000'000;

TagStream Stream(uint32_t cookies, int64_t step_us = 1000) {
  StreamOptions options;
  options.start_ms = kStartMs;
  options.cookies = cookies;
  options.step_us = step_us;
  return TagStream(options);
}

TEST(Oracle, KeepsTheNewest200AndSaysWhatItLetGo) {
  const TagStream stream = Stream(1);
  Oracle oracle(stream, kSecondNs);
  std::vector<int64_t> times[kActions];
  for (uint64_t i = 0; i < 2000; ++i) {
    const Tag tag = stream.At(i);
    oracle.Sent(i, tag);
    times[static_cast<int>(tag.action)].push_back(tag.time_ms);
  }
  for (const Action action : {Action::kView, Action::kBuy}) {
    auto& expected = times[static_cast<int>(action)];
    std::sort(expected.begin(), expected.end());
    ASSERT_GT(expected.size(), 200);
    const History& history = oracle.HistoryOf(0, action);
    ASSERT_EQ(history.newest.size(), 200);
    for (size_t i = 0; i < 200; ++i) {
      EXPECT_EQ(stream.TimeMs(history.newest[i]), expected[expected.size() - 200 + i]);
    }
    EXPECT_EQ(history.forgotten_ms, expected[expected.size() - 201]);
  }
}

TEST(Oracle, SettledIsWhatWasCompletedLongEnoughAgoWithoutAGap) {
  const TagStream stream = Stream(10);
  Oracle oracle(stream, 60 * kSecondNs);
  for (uint64_t i = 0; i < 10; ++i) oracle.Sent(i, stream.At(i));
  int64_t now_ns = 1000 * kSecondNs;
  oracle.Checkpoint(now_ns);
  for (const uint64_t i : {1, 2, 4, 0}) oracle.Completed(i, true);
  oracle.Checkpoint(now_ns + kSecondNs);
  EXPECT_EQ(oracle.SettledBefore(now_ns + kSecondNs, 0), 3);
  EXPECT_EQ(oracle.SettledBefore(now_ns + kSecondNs, kSecondNs), 0);
  oracle.Completed(3, false);
  for (int i = 2; i < 100; ++i) oracle.Checkpoint(now_ns + i * kSecondNs);
  now_ns += 99 * kSecondNs;
  EXPECT_EQ(oracle.SettledBefore(now_ns, 0), 5);
  EXPECT_EQ(oracle.SettledBefore(now_ns, 60 * kSecondNs), 5);
  EXPECT_TRUE(oracle.IsUncertain(3));
  EXPECT_FALSE(oracle.IsUncertain(2));
  EXPECT_FALSE(oracle.IsUncertain(1000));
}

// Against sums made the plain way.
TEST(Oracle, CountsMinutesByAnyFilter) {
  const TagStream stream = Stream(10, 60'000);  // 1000 tags a minute
  Oracle oracle(stream, 0);
  constexpr uint64_t kTags = 5000;
  for (uint64_t i = 0; i < kTags; ++i) {
    oracle.Sent(i, stream.At(i));
    oracle.Completed(i, i % 10 != 0);
  }
  Random random(3);
  for (int round = 0; round < 200; ++round) {
    const int64_t minute = kFirstMinute + static_cast<int64_t>(random.Below(6));
    RowFilter filter = oracle.RandomRow(minute, &random).value_or(RowFilter{});
    if (random.OneIn(2)) filter.origin = RowFilter::kAny;
    if (random.OneIn(2)) filter.brand = RowFilter::kAny;
    if (random.OneIn(2)) filter.category = RowFilter::kAny;
    MinuteTotals expected;
    for (uint64_t i = 0; i < kTags; ++i) {
      const Tag tag = stream.At(i);
      const auto passes = [](int wanted, int id) {
        return wanted == RowFilter::kAny || wanted == id;
      };
      if (tag.time_ms / kMsPerMinute != minute || tag.action != filter.action ||
          !passes(filter.origin, tag.origin) || !passes(filter.brand, tag.brand) ||
          !passes(filter.category, tag.category)) {
        continue;
      }
      if (i % 10 != 0) {
        ++expected.count;
        expected.sum += tag.price;
      } else {
        ++expected.count_extra;
        (tag.price < 0 ? expected.sum_negative : expected.sum_positive) += tag.price;
      }
    }
    const MinuteTotals totals = oracle.Totals(minute, filter);
    EXPECT_EQ(totals.count, expected.count);
    EXPECT_EQ(totals.sum, expected.sum);
    EXPECT_EQ(totals.count_extra, expected.count_extra);
    EXPECT_EQ(totals.sum_negative, expected.sum_negative);
    EXPECT_EQ(totals.sum_positive, expected.sum_positive);
  }
  RowFilter none;
  none.brand = RowFilter::kNone;
  EXPECT_EQ(oracle.Totals(kFirstMinute, none).count, 0);
}

TEST(Oracle, LetsOldMinutesGoAsAWhole) {
  const TagStream stream = Stream(10, 60'000'000);  // a tag a minute
  Oracle oracle(stream, 0);
  for (uint64_t i = 0; i < 5000; ++i) {
    oracle.Sent(i, stream.At(i));
    oracle.Completed(i, true);
  }
  const auto [first, last] = oracle.KeptMinutes();
  EXPECT_EQ(last, kFirstMinute + 4999);
  EXPECT_EQ(last - first + 1, 23 * 60);
}

}  // namespace
}  // namespace allezon::load
