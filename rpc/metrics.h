// SPDX-License-Identifier: Apache-2.0
//
// The process's Prometheus metrics. Every name starts with allezon_, units come last, and no label
// holds a cookie.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace allezon::rpc {

// The one registry; lives as long as the process. Make metrics at start-up, keep the reference, use
// it on the hot path.
prometheus::Registry& Metrics();

// Shorthands that make (or find) a metric in Metrics().
prometheus::Counter& MakeCounter(const std::string& name, const std::string& help,
                                 const prometheus::Labels& labels = {});
prometheus::Gauge& MakeGauge(const std::string& name, const std::string& help,
                             const prometheus::Labels& labels = {});
prometheus::Histogram& MakeHistogram(const std::string& name, const std::string& help,
                                     const prometheus::Labels& labels,
                                     const std::vector<double>& buckets);

// Bucket bounds: seconds from 100 µs to 60 s, and sizes 1, 2, 5, 10, … 10,000.
const std::vector<double>& LatencyBuckets();
const std::vector<double>& SizeBuckets();

// Runs `update` before each scrape for as long as it lives, so that gauges of what would cost too
// much to follow at each change are true when they are read. `update` is never run twice at once,
// nor after the destructor has returned; it must neither make nor end a ScrapeHook.
class ScrapeHook {
 public:
  explicit ScrapeHook(std::function<void()> update);
  ~ScrapeHook();
  ScrapeHook(const ScrapeHook&) = delete;
  ScrapeHook& operator=(const ScrapeHook&) = delete;

 private:
  const std::function<void()> update_;
  friend std::string MetricsText();
};

// Everything in the text exposition format, as of now. Thread-safe.
std::string MetricsText();

// Serves GET /metrics on host:port (port 0: any), one request a connection.
class MetricsServer {
 public:
  // kUnavailable where the address is taken, or the process has no descriptors left.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& address);
  ~MetricsServer();
  int port() const;

 private:
  struct Impl;
  explicit MetricsServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace allezon::rpc
