// SPDX-License-Identifier: Apache-2.0
//
// Latencies in logarithmic buckets, as HdrHistogram has them: every power of two is cut into 128
// equal steps, so a percentile is off by less than 1 %.
#pragma once

#include <array>
#include <cstdint>

namespace allezon::load {

// Not thread-safe. Constant size (about 30 KB), whatever is recorded.
class LatencyHistogram {
 public:
  // Negative counts as 0; what is beyond about 19 hours counts in the last bucket.
  void Record(int64_t micros);

  uint64_t count() const { return count_; }
  int64_t max_us() const { return max_us_; }
  double mean_us() const;
  // The smallest recorded value (to 1 %, never above the maximum) that `percent` of all values do
  // not exceed; 0 where nothing was recorded.
  int64_t PercentileUs(double percent) const;

 private:
  static constexpr int kStepBits = 7;
  static constexpr int kStep = 1 << kStepBits;
  static constexpr int kValueBitsMax = 36;
  static constexpr int kBuckets = (kValueBitsMax - kStepBits + 1) * kStep;

  static int BucketOf(uint64_t micros);
  static int64_t UpperBoundUs(int bucket);

  std::array<uint64_t, kBuckets> buckets_{};
  uint64_t count_ = 0;
  int64_t max_us_ = 0;
  double sum_us_ = 0;
};

}  // namespace allezon::load
