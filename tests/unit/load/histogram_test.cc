// SPDX-License-Identifier: Apache-2.0
#include "bench/load/histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "bench/load/stream.h"

namespace allezon::load {
namespace {

TEST(LatencyHistogram, EmptyIsAllZero) {
  const LatencyHistogram histogram;
  EXPECT_EQ(histogram.count(), 0);
  EXPECT_EQ(histogram.PercentileUs(99), 0);
  EXPECT_EQ(histogram.max_us(), 0);
  EXPECT_EQ(histogram.mean_us(), 0);
}

TEST(LatencyHistogram, SmallValuesAreExact) {
  LatencyHistogram histogram;
  for (int i = 1; i <= 100; ++i) histogram.Record(i);
  EXPECT_EQ(histogram.PercentileUs(0), 1);
  EXPECT_EQ(histogram.PercentileUs(50), 50);
  EXPECT_EQ(histogram.PercentileUs(99), 99);
  EXPECT_EQ(histogram.PercentileUs(100), 100);
  EXPECT_DOUBLE_EQ(histogram.mean_us(), 50.5);
}

TEST(LatencyHistogram, PercentilesAreWithinOnePercentOfASortedList) {
  Random random(7);
  LatencyHistogram histogram;
  std::vector<int64_t> values;
  for (int i = 0; i < 100'000; ++i) {
    // From 1 us to 2^35 us, every octave alike.
    const auto value = static_cast<int64_t>(random.Next() >> (29 + random.Below(35)));
    values.push_back(value);
    histogram.Record(value);
  }
  std::sort(values.begin(), values.end());
  for (const double percent : {0.1, 1.0, 10.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0}) {
    const auto rank =
        static_cast<size_t>(std::ceil(percent / 100 * static_cast<double>(values.size())));
    const auto exact = static_cast<double>(values[rank - 1]);
    EXPECT_GE(static_cast<double>(histogram.PercentileUs(percent)), exact) << percent;
    EXPECT_LE(static_cast<double>(histogram.PercentileUs(percent)), exact * 1.01 + 1) << percent;
  }
}

TEST(LatencyHistogram, TakesAnythingWithoutGoingAstray) {
  LatencyHistogram histogram;
  for (const int64_t value : {INT64_MIN, int64_t{-1}, int64_t{0}, INT64_MAX}) {
    histogram.Record(value);
  }
  EXPECT_EQ(histogram.count(), 4);
  EXPECT_EQ(histogram.PercentileUs(75), 0);
  EXPECT_EQ(histogram.max_us(), INT64_MAX);
  EXPECT_GT(histogram.PercentileUs(100), int64_t{1} << 35);
}

}  // namespace
}  // namespace allezon::load
