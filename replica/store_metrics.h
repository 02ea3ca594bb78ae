// SPDX-License-Identifier: Apache-2.0
//
// RocksDB's own figures and the set's size as gauges.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "replica/store.h"
#include "rpc/metrics.h"

namespace allezon::replica {

class StoreMetrics {
 public:
  // `store` must outlive it.
  explicit StoreMetrics(const Store& store);
  // Sets the gauges to what the store says now; call about once a second. Thread-safe.
  void Update() const;

 private:
  const Store& store_;
  std::vector<std::pair<std::string, prometheus::Gauge*>> properties_;
  prometheus::Gauge& events_;
  prometheus::Gauge& healthy_;
  prometheus::Gauge& block_cache_bytes_;
};

}  // namespace allezon::replica
