// SPDX-License-Identifier: Apache-2.0
#include "replica/store_metrics.h"

namespace allezon::replica {

StoreMetrics::StoreMetrics(const Store& store)
    : store_(store),
      events_(rpc::MakeGauge("allezon_store_events", "Events in the set.")),
      healthy_(rpc::MakeGauge("allezon_store_healthy",
                              "1 where the disk took the last write, 0 where it refused it.")),
      block_cache_bytes_(rpc::MakeGauge("allezon_rocksdb_block_cache_bytes", "The block cache.")) {
  const auto add = [&](const char* property, const char* name, const char* help) {
    properties_.emplace_back(property, &rpc::MakeGauge(name, help));
  };
  add("rocksdb.cur-size-all-mem-tables", "allezon_rocksdb_memtables_bytes", "Memtables.");
  add("rocksdb.total-sst-files-size", "allezon_rocksdb_sst_bytes", "SST files on disk.");
  add("rocksdb.estimate-pending-compaction-bytes", "allezon_rocksdb_compaction_pending_bytes",
      "What compaction has still to rewrite.");
  add("rocksdb.num-running-compactions", "allezon_rocksdb_compactions_running",
      "Compactions under way.");
  add("rocksdb.num-running-flushes", "allezon_rocksdb_flushes_running", "Flushes under way.");
  add("rocksdb.actual-delayed-write-rate", "allezon_rocksdb_delayed_write_rate_bytes",
      "Bytes a second that writers are held to; 0: no limit.");
  add("rocksdb.is-write-stopped", "allezon_rocksdb_write_stopped",
      "Column families whose writers wait for compaction.");
  add("rocksdb.background-errors", "allezon_rocksdb_background_errors",
      "Errors of flushes and compactions since the start.");
  hook_.emplace([this] { Update(); });
}

void StoreMetrics::Update() const {
  for (const auto& [property, gauge] : properties_) {
    gauge->Set(static_cast<double>(store_.Property(property)));
  }
  events_.Set(static_cast<double>(store_.EventCount()));
  block_cache_bytes_.Set(static_cast<double>(store_.BlockCacheBytes()));
  healthy_.Set(store_.healthy() ? 1 : 0);
}

}  // namespace allezon::replica
