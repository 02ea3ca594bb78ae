// SPDX-License-Identifier: Apache-2.0
//
// How long the instances of a service take to answer lately, and who of them takes long beside the
// others. An instance that gets slower step by step is ill, however little it was slower than just
// before; where all get slower, they are busy. Thread-safe.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "router/placement.h"
#include "rpc/metrics.h"

namespace allezon::router {

// Of one instance. A lost update loses one sample.
class Pace {
 public:
  // What was heard longer ago is no measure for others.
  static constexpr absl::Duration kFreshFor = absl::Seconds(10);
  // An instance that nothing was heard of for so long is asked once, so that its pace is known.
  static constexpr absl::Duration kTrialEvery = absl::Seconds(1);

  // It answered after `took`, or not at all in this time.
  void Observe(absl::Duration took, absl::Time now) {
    const int64_t sample_us = absl::ToInt64Microseconds(std::min(took, kSampleMax));
    const bool is_first = heard_at_us_.load(std::memory_order_relaxed) == 0;
    const int64_t mean_us = is_first ? sample_us : mean_us_.load(std::memory_order_relaxed);
    mean_us_.store(mean_us + (sample_us - mean_us) / kWeight, std::memory_order_relaxed);
    const int64_t now_us = absl::ToUnixMicros(now);
    heard_at_us_.store(now_us, std::memory_order_relaxed);
    tried_at_us_.store(now_us, std::memory_order_relaxed);
  }

  // What it takes lately; none where nothing was heard for kFreshFor.
  std::optional<absl::Duration> mean(absl::Time now) const {
    const int64_t heard_at_us = heard_at_us_.load(std::memory_order_relaxed);
    if (heard_at_us == 0 || absl::FromUnixMicros(heard_at_us) < now - kFreshFor) {
      return std::nullopt;
    }
    return absl::Microseconds(mean_us_.load(std::memory_order_relaxed));
  }

  // Whether it is slow beside the fastest. Where nothing was heard of it lately, it stays what it
  // was.
  void Compare(absl::Duration fastest, absl::Time now) {
    absl::Duration expected = fastest;
    if (const std::optional<absl::Duration> own = mean(now)) {
      const bool is_slow = *own > kSlowMultiple * fastest && *own > fastest + kSlowMin;
      SetIfOther(is_slow_, is_slow);
      if (!is_slow) expected = *own;
    }
    SetIfOther(expected_us_, absl::ToInt64Microseconds(expected));
  }

  bool is_slow() const { return is_slow_.load(std::memory_order_relaxed); }
  // What an answer should take: what it takes lately, or, where it is slow, what the fastest does.
  absl::Duration expected() const {
    return absl::Microseconds(expected_us_.load(std::memory_order_relaxed));
  }

  // True for one caller each time that nothing was heard, or tried so, for kTrialEvery.
  bool TakesTrial(absl::Time now) {
    int64_t tried_at_us = tried_at_us_.load(std::memory_order_relaxed);
    const int64_t now_us = absl::ToUnixMicros(now);
    const int64_t since_us = now_us - tried_at_us;
    // A clock that was set back only has it tried at once.
    if (since_us >= 0 && since_us < absl::ToInt64Microseconds(kTrialEvery)) return false;
    return tried_at_us_.compare_exchange_strong(tried_at_us, now_us, std::memory_order_relaxed);
  }

 private:
  // Every answer of any instance compares all: what stays the same is not written, so that threads
  // do not take each other's cache lines.
  template <typename T>
  static void SetIfOther(std::atomic<T>& value, T now) {
    if (value.load(std::memory_order_relaxed) != now) value.store(now, std::memory_order_relaxed);
  }

  // One answer that took long makes nobody slow, and one that took very long not for long.
  static constexpr int64_t kWeight = 8;
  static constexpr absl::Duration kSampleMax = absl::Milliseconds(500);
  // Slow is what takes so many times as long as the fastest, and so much longer.
  static constexpr int kSlowMultiple = 3;
  static constexpr absl::Duration kSlowMin = absl::Milliseconds(15);

  std::atomic<int64_t> mean_us_{0};
  std::atomic<int64_t> heard_at_us_{0};
  std::atomic<int64_t> tried_at_us_{absl::ToUnixMicros(absl::Now())};
  std::atomic<int64_t> expected_us_{0};
  std::atomic<bool> is_slow_{false};
};

// Of all instances of a service, for one kind of calls.
class Paces {
 public:
  // `calls` ("writes", "reads") labels the metric. An answer is overdue after `overdue_min` at the
  // least, and after `overdue_max` however busy all are.
  Paces(std::string_view service, std::string_view calls, const Placement& placement,
        absl::Duration overdue_min, absl::Duration overdue_max)
      : overdue_min_(overdue_min), overdue_max_(overdue_max) {
    for (const Instance& instance : placement.instances) {
      paces_.push_back(std::make_unique<Pace>());
      slow_.push_back(&rpc::MakeGauge(
          "allezon_router_slow",
          "1 while the instance takes much longer than the fastest one, and is the last choice.",
          {{"service", std::string(service)},
           {"calls", std::string(calls)},
           {"instance", instance.id}}));
    }
  }

  void Observe(uint32_t instance, absl::Duration took, absl::Time now) {
    paces_[instance]->Observe(took, now);
    absl::Duration fastest = absl::InfiniteDuration();
    for (const auto& pace : paces_) fastest = std::min(fastest, pace->mean(now).value_or(fastest));
    for (size_t i = 0; i < paces_.size(); ++i) {
      const bool was_slow = paces_[i]->is_slow();
      paces_[i]->Compare(fastest, now);
      if (paces_[i]->is_slow() != was_slow) slow_[i]->Set(was_slow ? 0 : 1);
    }
  }

  bool IsSlow(uint32_t instance) const { return paces_[instance]->is_slow(); }
  bool TakesTrial(uint32_t instance, absl::Time now) { return paces_[instance]->TakesTrial(now); }
  // After what time an answer of the instance is overdue: a multiple of what is expected, so that
  // not everything is sent twice where all are busy.
  absl::Duration overdue(uint32_t instance) const {
    return std::clamp(kOverdueMultiple * paces_[instance]->expected(), overdue_min_, overdue_max_);
  }

 private:
  static constexpr int kOverdueMultiple = 4;

  const absl::Duration overdue_min_;
  const absl::Duration overdue_max_;
  std::vector<std::unique_ptr<Pace>> paces_;  // by instance
  std::vector<prometheus::Gauge*> slow_;
};

}  // namespace allezon::router
