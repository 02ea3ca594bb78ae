// SPDX-License-Identifier: Apache-2.0
//
// RocksDB's own figures and the set's size as gauges, as they are when they are scraped.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "replica/store.h"
#include "rpc/metrics.h"

namespace allezon::replica {

class StoreMetrics {
 public:
  // Must end before `store` is closed.
  explicit StoreMetrics(const Store& store);

 private:
  void Update() const;

  const Store& store_;
  std::vector<std::pair<std::string, prometheus::Gauge*>> properties_;
  prometheus::Gauge& events_;
  prometheus::Gauge& healthy_;
  prometheus::Gauge& block_cache_bytes_;
  std::optional<rpc::ScrapeHook> hook_;
};

}  // namespace allezon::replica
