// SPDX-License-Identifier: Apache-2.0
#include "bench/load/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace allezon::load {

int LatencyHistogram::BucketOf(uint64_t micros) {
  if (micros < kStep) return static_cast<int>(micros);
  const int octave = std::bit_width(micros) - kStepBits - 1;  // 0 for [128, 256)
  const int step = static_cast<int>(micros >> octave) - kStep;
  return (octave + 1) * kStep + step;
}

int64_t LatencyHistogram::UpperBoundUs(int bucket) {
  if (bucket < kStep) return bucket;
  const int octave = bucket / kStep - 1;
  const int64_t step = bucket % kStep + kStep;
  return ((step + 1) << octave) - 1;
}

void LatencyHistogram::Record(int64_t micros) {
  micros = std::max<int64_t>(micros, 0);
  const auto clipped =
      std::min<uint64_t>(static_cast<uint64_t>(micros), (uint64_t{1} << kValueBitsMax) - 1);
  ++buckets_[BucketOf(clipped)];
  ++count_;
  max_us_ = std::max(max_us_, micros);
  sum_us_ += static_cast<double>(micros);
}

double LatencyHistogram::mean_us() const {
  return count_ == 0 ? 0 : sum_us_ / static_cast<double>(count_);
}

int64_t LatencyHistogram::PercentileUs(double percent) const {
  if (count_ == 0) return 0;
  const double share = std::clamp(percent, 0.0, 100.0) / 100;
  const auto rank =
      std::max<uint64_t>(1, static_cast<uint64_t>(std::ceil(share * static_cast<double>(count_))));
  uint64_t seen = 0;
  for (int bucket = 0; bucket < kBuckets; ++bucket) {
    seen += buckets_[bucket];
    if (seen >= rank) return std::min(UpperBoundUs(bucket), max_us_);
  }
  return max_us_;
}

}  // namespace allezon::load
