// SPDX-License-Identifier: Apache-2.0
//
// The replicated set of one node in its RocksDB, with the view that is plugged into it.
//
// Life: Open (view included), Commit and Maintain by one thread (the committer), reads by anyone,
// Close. Log, digests and view change in one atomic batch, so that a crash at any point leaves them
// in agreement.
#pragma once

#include <rocksdb/cache.h>
#include <rocksdb/db.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "replica/log_format.h"
#include "replica/view.h"

namespace allezon::replica {

struct StoreOptions {
  std::string path;
  std::string service;  // "profile" or "aggregate"; a folder of the other one is refused
  uint32_t shards = router::kShardsDefault;
  bool sync_wal = true;
  // Both of the logical time that is kept and of the wall time that an event stays after it was
  // accepted.
  absl::Duration retention = absl::Hours(24);
  size_t block_cache_bytes = size_t{256} << 20;
  size_t write_buffer_bytes = size_t{64} << 20;  // each column family's memtable
  std::function<absl::Time()> clock = absl::Now;
};

class Store final : public LogReader {
 public:
  // kFailedPrecondition: the folder holds something else, or belongs to another service or number
  // of shards. kDataLoss: it is corrupt. kUnavailable: another process has it, or the disk fails.
  // Messages name the folder. `view` must outlive the store.
  static absl::StatusOr<std::unique_ptr<Store>> Open(StoreOptions options, View& view);
  ~Store() override;

  // Adds the entries that are not yet in the set, durably (unless sync_wal is off); those that are,
  // are as good as added. kUnavailable: none was added; a later Maintain may repair the disk's
  // fault. Single writer.
  absl::Status Commit(absl::Span<const LogEntry> entries);
  // Work that needs no hurry, in small steps: takes one minute that retention allows to take,
  // resumes after a full disk. Returns whether there is more to do at once. Single writer.
  bool Maintain();
  // Closes the view and flushes. Idempotent; nothing may be called afterwards.
  void Close();

  // LogReader. Thread-safe.
  absl::Status ReadMinute(int64_t minute,
                          const std::function<void(const LogEntry&)>& visit) const override;
  Digest MinuteDigest(int64_t minute) const override;
  Digest BucketDigest(int64_t minute, ShardId shard) const override {
    return BucketOf(minute, shard).digest;
  }
  std::vector<int64_t> Minutes() const override;
  uint32_t TakenThroughS(int64_t minute) const override;
  int64_t NewestTimeMs() const override;

  // The digest bucket of a shard's minute; empty where nothing is. Thread-safe.
  Bucket BucketOf(int64_t minute, ShardId shard) const;
  // How many events the set holds. Thread-safe.
  uint64_t EventCount() const;
  // Recomputes every digest from the log and compares: kDataLoss names the first bucket that
  // differs. For tests and tools.
  absl::Status CheckDigests() const;

  // A random id that the data folder got when it was made.
  const std::string& store_id() const { return store_id_; }
  // Whether the last commit was stored; false while the disk refuses writes. Thread-safe.
  bool healthy() const { return healthy_.load(std::memory_order_relaxed); }
  // A RocksDB integer property, summed over column families (0 where unknown). Thread-safe.
  uint64_t Property(const std::string& name) const;
  // What the block cache holds, which all column families share. Thread-safe.
  size_t BlockCacheBytes() const { return cache_->GetUsage(); }

 private:
  using Shards = absl::flat_hash_map<ShardId, Bucket>;

  // What one commit changes, worked out before anything is written.
  struct Staged {
    std::vector<LogEntry> fresh;
    absl::flat_hash_map<std::pair<int64_t, ShardId>, Bucket> buckets;  // their new values
  };

  Store(StoreOptions options, View& view);
  absl::Status OpenDb();
  absl::Status CheckIdentity();
  absl::Status LoadDigests();
  absl::StatusOr<Staged> Stage(absl::Span<const LogEntry> entries) const;
  absl::StatusOr<std::vector<bool>> FindKnown(absl::Span<const LogEntry> entries) const;
  absl::Status Write(rocksdb::WriteBatch& batch);
  absl::Status TakeMinute(int64_t minute, uint32_t taken_through_s);
  bool MinuteToTake(int64_t* minute, uint32_t* taken_through_s) const;

  const StoreOptions options_;
  View& view_;
  std::shared_ptr<rocksdb::Cache> cache_;
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> column_families_;
  std::string store_id_;
  std::atomic<bool> healthy_{true};

  mutable absl::Mutex mutex_;
  absl::btree_map<int64_t, Shards> minutes_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<int64_t, uint32_t> taken_through_s_ ABSL_GUARDED_BY(mutex_);
  uint64_t event_count_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace allezon::replica
