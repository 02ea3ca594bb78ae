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

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "allezon/v1/replica.pb.h"
#include "replica/bucket_index.h"
#include "replica/core/types.h"
#include "replica/log_format.h"
#include "replica/view.h"

namespace allezon::replica {

struct StoreOptions {
  std::string path;
  std::string service;  // "profile" or "aggregate"; a folder of the other one is refused
  uint32_t shards = router::kShardsDefault;
  bool sync_wal = true;
  // Commits are refused while less than this is free on the disk. RocksDB's own flushes and
  // compactions need room too, and a log of its that failed half-way can only be opened anew.
  uint64_t disk_reserve_bytes = 0;
  // Both of the logical time that is kept and of the wall time that an event stays after it was
  // accepted.
  absl::Duration retention = absl::Hours(24);
  size_t block_cache_bytes = size_t{256} << 20;
  size_t write_buffer_bytes = size_t{64} << 20;  // each column family's memtable
  std::function<absl::Time()> clock = absl::Now;
};

class Store final : public LogReader, public DigestSource {
 public:
  // kFailedPrecondition: the folder holds something else, or belongs to another service or number
  // of shards. kDataLoss: it is corrupt. kUnavailable: another process has it, or the disk fails.
  // Messages name the folder. `view` must outlive the store.
  static absl::StatusOr<std::unique_ptr<Store>> Open(StoreOptions options, View& view);
  ~Store() override;

  // Adds the entries that are not yet in the set, durably (unless sync_wal is off); those that are,
  // are as good as added. Of several events with one idempotency key and different tags the one
  // with the smallest content hash is in the set (log_format.h); one that was there before makes
  // way. kUnavailable: none was added; the disk has no room, or NeedsReopen() tells more. Single
  // writer.
  absl::Status Commit(absl::Span<const LogEntry> entries);
  // Work that needs no hurry, in small steps: saves digests of minutes that are quiet, takes what
  // LookAhead found. Returns whether there is more to do at once. Single writer.
  bool Maintain();
  // Finds what retention allows to take, some minutes at a time, and reads what must be known to
  // take it, so that the writer is not held up by that. One caller at a time, from any thread.
  void LookAhead();
  // Closes the view and flushes. Idempotent; nothing may be called afterwards.
  void Close();

  // What a sync brings besides events. Single writer, and kUnavailable where the disk refuses, as
  // for Commit.
  //
  // Takes of each minute what was accepted up to its taken_through_s, if that is further than this
  // node went by itself and this node's clock agrees that it is older than the retention; other
  // minutes are left for a later time.
  absl::Status AdoptTaken(absl::Span<const v1::TakenMinute> minutes);
  // Puts rows that a peer's view keeps of the shard. kInvalidArgument, with nothing put: some are
  // no such rows.
  absl::Status PutRows(ShardId shard, absl::Span<const v1::ViewRow> rows);
  // Records that this node is a full replica of the shards; they stay so over restarts.
  // kInvalidArgument, with nothing recorded: a shard does not exist.
  absl::Status RecordJoined(absl::Span<const ShardId> shards);
  // Records that all that was acknowledged up to `wall_s` (seconds since 1970) is here. Not synced:
  // a crash of the machine may leave an older record, as does a disk without room.
  absl::Status NoteComplete(uint32_t wall_s);

  // By shard: whether RecordJoined named it, ever. Thread-safe.
  std::vector<bool> joined() const;
  // What was noted last, also by an earlier process; 0 where nothing ever was. Thread-safe.
  uint32_t complete_as_of_s() const;

  // What peers ask for; each replaces the set's part of `response`, as replica.proto says it, and
  // leaves placements, incarnations and counters to the caller. kInvalidArgument: a shard, level or
  // id that does not exist. kUnavailable, kDataLoss: the disk; `response` then holds nothing of
  // use. Thread-safe.
  absl::Status ReadDigests(const v1::ReadDigestsRequest& request,
                           v1::ReadDigestsResponse& response) const;
  absl::Status ReadIds(const v1::ReadIdsRequest& request, v1::ReadIdsResponse& response) const;
  // Where ids were asked for, the events come in their order, and all ids up to that of the last
  // event were looked at.
  absl::Status ReadEvents(const v1::ReadEventsRequest& request,
                          v1::ReadEventsResponse& response) const;
  absl::Status ReadTaken(const v1::ReadTakenRequest& request,
                         v1::ReadTakenResponse& response) const;
  absl::Status ReadRows(const v1::ReadRowsRequest& request, v1::ReadRowsResponse& response) const;
  // Those of `ids` (16 bytes each, one after the other, in a peer's log of the shard's minute) that
  // this set lacks and may take, in their order. `accepted_s`, one an id: what is not after the
  // minute's TakenThroughS is not missing. Errors as above. Thread-safe.
  absl::StatusOr<std::string> FindMissing(ShardId shard, int64_t minute, std::string_view ids,
                                          absl::Span<const uint32_t> accepted_s) const;

  // DigestSource. Thread-safe.
  Digest ShardDigest(ShardId shard) const override;
  Digest HourDigest(ShardId shard, int64_t hour) const override;
  Digest MinuteDigest(ShardId shard, int64_t minute) const override;

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
  bool healthy() const { return !db_failed_.load() && has_room_.load(); }
  // Whether a write of RocksDB's failed a while ago, and the disk has room now. It refuses all
  // writes since then, and cannot be used on, nor closed in order; a new process can open the
  // folder. Thread-safe.
  bool NeedsReopen() const;
  // A RocksDB integer property, summed over column families (0 where unknown). Thread-safe.
  uint64_t Property(const std::string& name) const;
  // What the block cache holds, which all column families share. Thread-safe.
  size_t BlockCacheBytes() const { return cache_->GetUsage(); }

 private:
  // An event of the log that makes way for another one with its idempotency key.
  struct Removal {
    std::string value;
    v1::Tag tag;
    LogEntry entry;  // borrows from the others
  };
  // What one commit changes, worked out before anything is written.
  struct Staged {
    std::vector<LogEntry> fresh;
    std::deque<Removal> removed;
    absl::flat_hash_map<std::pair<int64_t, ShardId>, Bucket> buckets;  // their new values
  };
  // What the set has under the id of an event, if anything; minute and hash only for keyed ids.
  struct Known {
    bool found = false;
    int64_t minute = 0;
    uint64_t content_hash = 0;
  };
  // The same for what retention takes of a minute.
  struct Taking {
    int64_t minute = 0;
    uint32_t through_s = 0;
    BucketIndex::Shards buckets;  // their new values
    bool all = false;             // all of the minute goes, with every row of its digests
  };
  // A minute that is to be taken whole.
  struct Doomed {
    int64_t minute = 0;
    uint32_t through_s = 0;
    Digest digest;                  // of what was looked at
    std::vector<std::string> keys;  // those of its events in the index of idempotency keys
  };
  // A minute whose digests on disk are marked, as they may be behind those in memory.
  struct Unsaved {
    absl::Time written;
    // Shards that nothing is left of, and which may have rows.
    absl::flat_hash_set<ShardId> emptied;
  };
  using VisitEvent = std::function<bool(const ParsedLogKey&, const ParsedLogValue&)>;
  // False: the event cannot be read.
  using VisitInMinute = absl::FunctionRef<bool(const ParsedLogKey&, const ParsedLogValue&)>;

  Store(StoreOptions options, View& view);
  absl::Status OpenDb();
  absl::Status CheckIdentity();
  absl::Status LoadDigests();
  absl::StatusOr<BucketIndex::Shards> BucketsOfLog(int64_t minute) const;
  absl::Status RemakeDigests(int64_t minute);
  absl::Status LoadTaken();
  absl::Status LoadJoined();
  absl::StatusOr<Staged> Stage(absl::Span<const LogEntry> entries) const;
  absl::StatusOr<std::vector<Known>> FindKnown(absl::Span<const LogEntry> entries) const;
  absl::Status StageRemoval(const LogEntry& by, int64_t minute, Staged& staged) const;
  void StageBuckets(Staged& staged) const;
  absl::Status Write(rocksdb::WriteBatch& batch, bool sync);
  // Before and after the commit of what was staged.
  void MarkUnsaved(const Staged& staged, rocksdb::WriteBatch& batch) const;
  void NoteUnsaved(const Staged& staged);
  // Saves digests of minutes that are quiet; whether there are more.
  bool SaveQuietDigests();
  // REQUIRES: the minute is unsaved.
  absl::Status SaveDigests(int64_t minute);
  void SaveAllDigests();
  // Whether the disk has so much, if it can be asked.
  bool HasRoom(uint64_t bytes) const;
  void StageBucket(int64_t minute, ShardId shard, const Bucket& bucket,
                   rocksdb::WriteBatch& batch) const;

  // Some minutes that retention allows to take; none while earlier ones wait to be taken.
  std::vector<Doomed> FindDoomed();
  // A step towards taking what was found; whether there is more.
  bool TakeDoomed();
  std::vector<Doomed> NextDoomed(bool& more);
  absl::Status TakeMinute(int64_t minute, uint32_t taken_through_s);
  // Adds to the batch what goes with the minute's events that were accepted up to `through_s`.
  // `keys`: where all of them were, what goes of the index of idempotency keys; null where that is
  // to be looked up.
  absl::StatusOr<Taking> StageTake(int64_t minute, uint32_t through_s,
                                   const std::vector<std::string>* keys,
                                   rocksdb::WriteBatch& batch) const;
  absl::Status StageTakeEvents(Taking& taking, bool takes_all, rocksdb::WriteBatch& batch) const;
  void StageTakeWhole(Taking& taking, rocksdb::WriteBatch& batch) const;
  absl::Status WriteTaken(absl::Span<const Taking> taken, rocksdb::WriteBatch& batch);

  // Visits the events of a minute in every shard, in key order, as of one moment.
  absl::Status VisitMinute(int64_t minute, const VisitInMinute& visit) const;
  absl::Status CheckRange(ShardId shard, std::string_view after_id) const;
  // Visits the events of a (shard, minute) after an id (empty: all), in order, until `visit` says
  // no.
  absl::Status VisitBucket(ShardId shard, int64_t minute, std::string_view after_id,
                           const VisitEvent& visit) const;
  // The log's values for ids of a (shard, minute), in their order; nullopt where there is none.
  absl::StatusOr<std::vector<std::optional<std::string>>> LookUp(ShardId shard, int64_t minute,
                                                                 std::string_view ids) const;
  absl::Status ReadEventsById(const v1::ReadEventsRequest& request,
                              v1::ReadEventsResponse& response) const;

  const StoreOptions options_;
  View& view_;
  std::shared_ptr<rocksdb::Cache> cache_;
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> column_families_;
  std::string store_id_;
  std::atomic<bool> db_failed_{false};       // a write of RocksDB's failed
  std::atomic<int64_t> db_failed_at_us_{0};  // when, since 1970
  std::atomic<bool> has_room_{true};
  absl::flat_hash_map<int64_t, Unsaved> unsaved_;  // by minute; of the single writer

  mutable absl::Mutex mutex_;
  BucketIndex buckets_ ABSL_GUARDED_BY(mutex_);
  absl::btree_map<int64_t, uint32_t> taken_through_s_ ABSL_GUARDED_BY(mutex_);
  std::deque<Doomed> doomed_ ABSL_GUARDED_BY(mutex_);
  // Where the look for such minutes goes on.
  int64_t look_from_minute_ ABSL_GUARDED_BY(mutex_) = std::numeric_limits<int64_t>::min();
  std::string joined_ ABSL_GUARDED_BY(mutex_);  // a byte a shard, as on disk
  uint32_t complete_as_of_s_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace allezon::replica
