// SPDX-License-Identifier: Apache-2.0
//
// Requests, their outcomes and their times, by route. Thread-safe.
#pragma once

#include <array>
#include <atomic>
#include <chrono>

#include "gateway/api.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"

namespace allezon::gateway {

class HttpMetrics {
 public:
  HttpMetrics();
  // `elapsed`: from the request's first byte until its response was handed to the kernel.
  void Count(Route route, int status, std::chrono::nanoseconds elapsed);

  prometheus::Gauge& connections;
  prometheus::Counter& accepted;
  prometheus::Counter& refused;
  prometheus::Counter& evicted;

 private:
  static constexpr int kStatusMax = 600;
  prometheus::Counter& CounterOf(Route route, int status);

  std::array<prometheus::Histogram*, kRoutes> seconds_;
  // Made when first needed; a counter that is made twice is the same one.
  std::array<std::array<std::atomic<prometheus::Counter*>, kStatusMax>, kRoutes> requests_{};
};

}  // namespace allezon::gateway
