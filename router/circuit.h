// SPDX-License-Identifier: Apache-2.0
//
// What a router knows of an instance without asking it: whether to go elsewhere first, and how long
// answers take lately. Both are cheap to ask and thread-safe.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "absl/time/time.h"
#include "prometheus/gauge.h"

namespace allezon::router {

// Opens on evidence that the instance is away (no connection, a call overdue), closes on any sign
// of life: an answer, whatever it says, or one of the health probes that Channels sends while it is
// open. Open means: last choice, not never.
class Circuit {
 public:
  explicit Circuit(prometheus::Gauge& gauge) : gauge_(gauge) { gauge_.Set(0); }

  bool is_open() const { return is_open_.load(std::memory_order_relaxed); }
  // The instance gave an answer.
  void Answered() {
    if (is_open() && is_open_.exchange(false)) gauge_.Set(0);
  }
  // The instance could not be reached, or owes an answer for too long.
  void Failed() {
    if (!is_open_.exchange(true)) gauge_.Set(1);
  }

 private:
  prometheus::Gauge& gauge_;
  std::atomic<bool> is_open_{false};
};

// After what time an answer is overdue: a multiple of what answers took lately, so that a router
// does not send everything twice when all instances are slow. It rises fast and falls slowly.
class Pace {
 public:
  Pace(absl::Duration overdue_min, absl::Duration overdue_max)
      : overdue_min_(overdue_min), overdue_max_(overdue_max) {}

  // A call was answered after `took`. Where two calls raced, only what the faster one took says
  // something about all instances.
  void Observe(absl::Duration took) {
    const int64_t sample_us = absl::ToInt64Microseconds(std::min(took, overdue_max_));
    const int64_t mean_us = mean_us_.load(std::memory_order_relaxed);
    const int64_t weight = sample_us > mean_us ? kRiseWeight : kFallWeight;
    // A lost update loses one sample.
    mean_us_.store(mean_us + (sample_us - mean_us) / weight, std::memory_order_relaxed);
  }
  absl::Duration overdue() const {
    return std::clamp(kMultiple * absl::Microseconds(mean_us_.load(std::memory_order_relaxed)),
                      overdue_min_, overdue_max_);
  }

 private:
  static constexpr int kMultiple = 4;
  static constexpr int64_t kRiseWeight = 4;
  static constexpr int64_t kFallWeight = 32;

  const absl::Duration overdue_min_;
  const absl::Duration overdue_max_;
  std::atomic<int64_t> mean_us_{0};
};

}  // namespace allezon::router
