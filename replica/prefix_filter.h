// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rocksdb/filter_policy.h>
#include <rocksdb/options.h>
#include <rocksdb/slice_transform.h>
#include <rocksdb/table.h>

#include <memory>

namespace allezon::replica {

struct PrefixFilter {
  std::shared_ptr<const rocksdb::SliceTransform> prefix;
  double memtable_ratio = 0;  // of its bytes
  double bits_per_prefix = 0;
  size_t block_bytes = 0;
};

// For a view's column family, from the shared settings: keys are looked for by prefix only, so the
// filters of memtable and files are of prefixes. What is set of tables stays, the cache above all.
inline void FilterByPrefix(const PrefixFilter& filter, rocksdb::ColumnFamilyOptions& options) {
  options.prefix_extractor = filter.prefix;
  options.memtable_prefix_bloom_size_ratio = filter.memtable_ratio;
  options.memtable_whole_key_filtering = false;
  rocksdb::BlockBasedTableOptions table;
  if (options.table_factory != nullptr) {
    const auto* shared = options.table_factory->GetOptions<rocksdb::BlockBasedTableOptions>();
    if (shared != nullptr) table = *shared;
  }
  table.whole_key_filtering = false;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(filter.bits_per_prefix));
  table.block_size = filter.block_bytes;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
}

}  // namespace allezon::replica
