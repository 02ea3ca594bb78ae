// SPDX-License-Identifier: Apache-2.0
#include "rpc/metrics.h"

#include <prometheus/text_serializer.h>

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace allezon::rpc {
namespace {

struct Hooks {
  absl::Mutex mutex;
  std::vector<const ScrapeHook*> all ABSL_GUARDED_BY(mutex);
};

Hooks& TheHooks() {
  static Hooks& hooks = *std::make_unique<Hooks>().release();
  return hooks;
}

}  // namespace

prometheus::Registry& Metrics() {
  // Never destroyed: threads that outlive main's statics may still count.
  static prometheus::Registry& registry = *std::make_unique<prometheus::Registry>().release();
  return registry;
}

prometheus::Counter& MakeCounter(const std::string& name, const std::string& help,
                                 const prometheus::Labels& labels) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(Metrics()).Add(labels);
}

prometheus::Gauge& MakeGauge(const std::string& name, const std::string& help,
                             const prometheus::Labels& labels) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(Metrics()).Add(labels);
}

prometheus::Histogram& MakeHistogram(const std::string& name, const std::string& help,
                                     const prometheus::Labels& labels,
                                     const std::vector<double>& buckets) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(Metrics()).Add(labels,
                                                                                    buckets);
}

const std::vector<double>& LatencyBuckets() {
  static const std::vector<double> buckets = {1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05,
                                              0.1,  0.2,  0.5,  1,    2,    5,    10,   20,   60};
  return buckets;
}

const std::vector<double>& SizeBuckets() {
  static const std::vector<double> buckets = {1,   2,   5,     10,    20,    50,    100,
                                              200, 500, 1'000, 2'000, 5'000, 10'000};
  return buckets;
}

ScrapeHook::ScrapeHook(std::function<void()> update) : update_(std::move(update)) {
  Hooks& hooks = TheHooks();
  absl::MutexLock lock(&hooks.mutex);
  hooks.all.push_back(this);
}

ScrapeHook::~ScrapeHook() {
  Hooks& hooks = TheHooks();
  absl::MutexLock lock(&hooks.mutex);
  std::erase(hooks.all, this);
}

std::string MetricsText() {
  {
    Hooks& hooks = TheHooks();
    absl::MutexLock lock(&hooks.mutex);
    for (const ScrapeHook* hook : hooks.all) hook->update_();
  }
  return prometheus::TextSerializer().Serialize(Metrics().Collect());
}

}  // namespace allezon::rpc
