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
#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "allezon/v1/replica.pb.h"
#include "replica/core/expiry_round.h"
#include "replica/core/types.h"
#include "replica/damage.h"
#include "replica/digest_index.h"
#include "replica/expired_ranges.h"
#include "replica/expiry_plan.h"
#include "replica/log_format.h"
#include "replica/view.h"

namespace allezon::replica {

struct StoreOptions {
  std::string path;
  // Whose folder it is: one of another cluster, service ("profile", "aggregate") or instance is
  // refused, and so is one that was written with other settings, which what it says depends on.
  std::string cluster;
  std::string service;
  std::string instance;
  uint32_t shards = router::kShardsDefault;
  uint32_t replication_factor = 0;
  uint32_t write_quorum = 0;
  bool sync_wal = true;
  // What a damaged folder lost is given up: see Open.
  bool accept_data_loss = false;
  // Commits are refused while less than this is free on the disk. RocksDB's own flushes and
  // compactions need room too, and a log of its that failed half-way can only be opened anew.
  uint64_t disk_reserve_bytes = 0;
  // Both of the logical time that is kept and of the wall time that an event stays after it was
  // accepted. In whole seconds.
  absl::Duration retention = absl::Hours(24);
  size_t block_cache_bytes = size_t{640} << 20;  // memtables take their room from it
  size_t memtables_bytes = size_t{384} << 20;    // all of them; beyond, the oldest are flushed
  size_t write_buffer_bytes = size_t{64} << 20;  // each column family's memtable
  size_t digests_bytes = size_t{64} << 20;       // those that are kept in memory
  std::function<absl::Time()> clock = absl::Now;
};

class Store final : public LogReader, public DigestSource {
 public:
  // kFailedPrecondition: the folder holds something else, or is not that of the options; the
  // message says what to do. kUnavailable: another process has it, or the disk fails. Messages name
  // the folder. `view` must outlive the store.
  //
  // kAborted: the folder is damaged, and was marked so; call it again with a new view. That may be
  // so twice: then it is opened with what its log still gives, or empty, with all that it held set
  // aside in it. What it holds then counts for nothing until it is recorded as joined;
  // record().damaged says of which shards. kDataLoss: it is damaged and has no other replicas, so
  // it is left as it is, unless `accept_data_loss` is set; or it cannot even be made anew.
  static absl::StatusOr<std::unique_ptr<Store>> Open(StoreOptions options, View& view);
  ~Store() override;

  // Adds the entries that are not yet in the set, durably (unless sync_wal is off); those that are,
  // are as good as added. Of several events with one idempotency key and different tags the one
  // with the smallest content hash is in the set (log_format.h); one that was there before makes
  // way. kUnavailable: none was added; the disk has no room, or NeedsReopen() tells more. Single
  // writer.
  absl::Status Commit(absl::Span<const LogEntry> entries);
  // Work that needs no hurry, in small steps: saves digests of minutes that are quiet. Returns
  // whether there is more to do at once. Single writer.
  bool Maintain();
  // Closes the view and flushes. Idempotent; nothing may be called afterwards.
  void Close();

  // --- retention ---

  // Buckets that hold nothing that was accepted after `horizon_s`, and whose minute is older than
  // the newest one by the retention: kExpiryBucketsMax at most. It looks at some minutes at a time
  // and goes on where it was. One caller at a time, from any thread.
  std::vector<ExpiryCandidate> FindExpirable(WallS horizon_s);
  // What several clocks agree on, not after the true time; the infinite past until it was noted.
  // Thread-safe.
  void NoteAgreedNow(absl::Time now) { agreed_now_us_.store(absl::ToUnixMicros(now)); }
  absl::Time agreed_now() const {
    const int64_t us = agreed_now_us_.load();
    return us == kNever ? absl::InfinitePast() : absl::FromUnixMicros(us);
  }
  // One step of an ExpiryPlan; each is atomic, and may be done again. Single writer, and
  // kUnavailable where the disk refuses, as for Commit.
  absl::Status Expire(const ExpiryStep& step);

  // --- keys ---

  // The event that the set has under the id of an idempotency key, with the serialised tag; none
  // where it has none. kDataLoss, kUnavailable: it cannot be read. Thread-safe.
  absl::StatusOr<std::shared_ptr<const router::Event>> FindByKey(ShardId shard,
                                                                 const EventId& id) const;

  // --- sync ---

  // What a sync brings besides events. Single writer, and kUnavailable where the disk refuses, as
  // for Commit.
  //
  // Puts rows that a peer's view keeps of the shard. kInvalidArgument, with nothing put: some are
  // no such rows.
  absl::Status PutRows(ShardId shard, absl::Span<const v1::ViewRow> rows);
  // Records that this node is a full replica of the shards; they stay so over restarts.
  // kInvalidArgument, with nothing recorded: a shard does not exist.
  absl::Status RecordJoined(absl::Span<const ShardId> shards);
  // Records that all that was acknowledged up to `wall_s` (seconds since 1970) is here. Not synced:
  // a crash of the machine may leave an older record, as does a disk without room.
  absl::Status NoteComplete(uint32_t wall_s);

  // What was recorded last, also by an earlier process. Thread-safe.
  DiskRecord record() const;

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
  absl::Status ReadExpired(const v1::ReadExpiredRequest& request,
                           v1::ReadExpiredResponse& response) const;
  // By bucket of the request: its newest acceptance, 0 where it is empty.
  absl::StatusOr<std::vector<uint32_t>> ReadNewest(const v1::ReadNewestRequest& request) const;
  absl::Status ReadRows(const v1::ReadRowsRequest& request, v1::ReadRowsResponse& response) const;
  // Those of the ids in a peer's log that this set lacks and may take, or should have instead of
  // what it has, in their order: as FindMissing (core/types.h) says it. Errors as above.
  // Thread-safe.
  absl::StatusOr<std::string> FindMissing(const replica::FindMissing& find) const;

  // DigestSource. Thread-safe.
  Digest ShardDigest(ShardId shard) const override;
  Digest HourDigest(ShardId shard, int64_t hour) const override;
  Digest MinuteDigest(ShardId shard, int64_t minute) const override;
  uint32_t ExpiredThroughS(ShardId shard, int64_t minute) const override;
  bool HasExpired(const v1::ExpiredRange& range) const override;
  uint64_t ExpiredHash(ShardId shard) const override;
  uint32_t NewestAcceptedS(ShardId shard, int64_t minute) const override;
  uint64_t ExpiredKeyed(ShardId shard) const override;

  // LogReader. Thread-safe.
  absl::Status ReadMinute(int64_t minute,
                          const std::function<void(const LogEntry&)>& visit) const override;
  absl::Status ReadBucket(int64_t minute, ShardId shard,
                          const std::function<void(const LogEntry&)>& visit) const override;
  absl::StatusOr<Digest> MinuteDigest(int64_t minute) const override;
  absl::StatusOr<Digest> BucketDigest(int64_t minute, ShardId shard) const override;
  absl::Status VisitMinutes(
      absl::FunctionRef<absl::Status(int64_t, const Digest&)> visit) const override;
  uint32_t RemovedThroughS(ShardId shard, int64_t minute) const override;
  uint32_t ExpiredAtS(absl::Span<const ShardId> shards, int64_t minute) const override;
  int64_t NewestTimeMs() const override;

  // The digest bucket of a shard's minute; empty where nothing is. kUnavailable, kDataLoss: the
  // disk. Thread-safe.
  absl::StatusOr<Bucket> BucketOf(int64_t minute, ShardId shard) const {
    return digests_.Find(minute, shard);
  }
  // How many events the set holds. Thread-safe.
  uint64_t EventCount() const;
  // Recomputes every digest from the log and compares: kDataLoss names the first bucket that
  // differs. For tests and tools.
  absl::Status CheckDigests() const;

  // A random id that the data folder got when it was made.
  const std::string& store_id() const { return store_id_; }
  // Of this process: higher than that of any that had the folder before, and recorded in it.
  uint64_t incarnation() const { return incarnation_; }
  // Of the process that had the folder last; 0 where none had.
  uint64_t previous_incarnation() const { return previous_incarnation_; }
  // Records a higher one, durably. Single writer.
  absl::Status RecordIncarnation(uint64_t incarnation);
  // Whether the last commit was stored; false while the disk refuses writes. Thread-safe.
  bool healthy() const { return !db_failed_.load() && has_room_.load(); }
  // Whether a write of RocksDB's failed a while ago, and the disk has room now. It refuses all
  // writes since then, and cannot be used on, nor closed in order; a new process can open the
  // folder. Thread-safe.
  bool NeedsReopen() const;
  // Damage that was found since the folder was opened and for which it was marked, so that the next
  // process makes it anew; empty where none was. Thread-safe.
  std::string damage() const;
  // Reads one file of tables from the disk, and compares its checksums; damage is noted. Both are
  // for a slow walk through all that is there. Thread-safe.
  struct TableFile {
    std::string path;
    uint64_t bytes = 0;
  };
  std::vector<TableFile> TableFiles() const;
  absl::Status CheckTableFile(const TableFile& file) const;
  // Removes what Open has set aside, if all of it is back: `held` are the shards that this node
  // holds. Takes as long as the disk does. Thread-safe.
  void RemoveWhatIsBack(absl::Span<const ShardId> held) const;
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
  // An event of the log that was accepted again.
  struct Raise {
    std::string value;  // as it is to be
    v1::Tag tag;
    LogEntry entry;  // borrows from the others
  };
  // What one commit changes, worked out before anything is written.
  struct Staged {
    std::vector<LogEntry> fresh;
    std::vector<LogEntry> late;  // for buckets that retention expired: only the view may keep them
    std::deque<Raise> raised;
    std::deque<Removal> removed;
    std::optional<DigestChange> digests;
  };
  // What the set has under the id of an event, if anything; minute and hash only for keyed ids.
  struct Known {
    bool found = false;
    int64_t minute = 0;
    uint64_t content_hash = 0;
  };
  using VisitEvent = std::function<bool(const ParsedLogKey&, const ParsedLogValue&)>;
  // False: the event cannot be read.
  using VisitInMinute = absl::FunctionRef<bool(const ParsedLogKey&, const ParsedLogValue&)>;

  Store(StoreOptions options, View& view);
  absl::Status OpenFolder();
  absl::Status OpenDb();
  // What the folder's mark asks for, before and after RocksDB has opened it.
  absl::Status PrepareDamaged();
  absl::Status RecordDamage();
  void NoteSynced();
  // Marks a folder that is found damaged while it is opened, by RocksDB or once that has; the error
  // to return.
  absl::Status MarkUnreadable(const absl::Status& why, bool has_opened) const;
  bool HasOthers() const { return options_.replication_factor > 1; }
  // kOk, or what RocksDB's status means; what it says of damage is noted.
  absl::Status Checked(const rocksdb::Status& status, std::string_view what) const;
  void NoteDamage(std::string_view detail) const;
  absl::Status CheckIdentity();
  absl::Status CheckIdentity(std::string_view format, rocksdb::WriteBatch& batch);
  absl::Status NewIncarnation(rocksdb::WriteBatch& batch);
  absl::Status LoadDigests();
  using Buckets = absl::flat_hash_map<ShardId, Bucket>;
  absl::StatusOr<Buckets> BucketsOfLog(int64_t minute) const;
  absl::Status RemakeDigests(int64_t minute);
  absl::Status LoadExpired();
  absl::Status ConvertFolder();
  absl::Status LoadJoined();
  absl::StatusOr<Staged> Stage(absl::Span<const LogEntry> entries) const;
  absl::StatusOr<std::vector<Known>> FindKnown(absl::Span<const LogEntry> entries) const;
  // The same for ids of a bucket, 16 bytes each, one after the other.
  absl::StatusOr<std::vector<Known>> LookUpIds(ShardId shard, int64_t minute,
                                               std::string_view ids) const;
  absl::Status StageRemoval(const LogEntry& by, int64_t minute, Staged& staged) const;
  absl::Status StageRaise(const LogEntry& again, int64_t minute, Staged& staged) const;
  // The log's value for an event that is known by its key, and the event; borrows from the others.
  absl::StatusOr<LogEntry> ReadKnown(const LogEntry& by, int64_t minute, std::string& value,
                                     v1::Tag& tag) const;
  absl::Status StageDigests(Staged& staged) const;
  absl::Status Write(rocksdb::WriteBatch& batch, bool sync);
  // Before and after the commit of what was staged.
  void MarkUnsaved(const DigestChange& change, rocksdb::WriteBatch& batch) const;
  void NoteUnsaved(const DigestChange& change);
  // Saves digests of minutes that are quiet; whether there are more.
  bool SaveQuietDigests();
  // With one write. REQUIRES: they are unsaved.
  absl::Status SaveDigests(absl::Span<const int64_t> minutes);
  void SaveAllDigests();
  // Whether the disk has so much, if it can be asked.
  bool HasRoom(uint64_t bytes) const;

  // Retention, in store_expiry.cc.
  friend class ExpiryPlan;
  struct Expiring;
  absl::StatusOr<Expiring> StageExpiry(const ExpiryStep& step, rocksdb::WriteBatch& batch) const;
  absl::Status StageExpiredBucket(const PlannedBucket& planned, Expiring& expiring,
                                  rocksdb::WriteBatch& batch) const;
  absl::Status StageExpiredPart(const PlannedBucket& planned, Expiring& expiring,
                                rocksdb::WriteBatch& batch) const;
  absl::Status StageExpiredLog(Expiring& expiring, rocksdb::WriteBatch& batch) const;
  void StageExpiredRecords(const std::vector<v1::ExpiredRange>& ranges, Expiring& expiring,
                           rocksdb::WriteBatch& batch) const;
  absl::StatusOr<std::vector<std::string>> KeysOf(int64_t minute, ShardId shard) const;

  // Visits the events of a minute in every shard, in key order, as of one moment.
  absl::Status VisitMinute(int64_t minute, const VisitInMinute& visit) const;
  absl::Status CheckRange(ShardId shard, std::string_view after_id) const;
  // Visits the events of a (shard, minute) after an id (empty: all), in order, until `visit` says
  // no.
  absl::Status VisitBucket(ShardId shard, int64_t minute, std::string_view after_id,
                           const VisitEvent& visit) const;
  // Appends what has room in a page, of minutes after `after` (none: from the first).
  absl::Status AppendMinutes(ShardId shard, const absl::btree_set<int64_t>& hours,
                             std::optional<int64_t> after, v1::ReadDigestsResponse& response) const;
  // The same of ranges that reach beyond a minute (none: all); false where the page is full.
  bool AppendExpired(ShardId shard, std::optional<int64_t> beyond, uint32_t since_s,
                     v1::ReadExpiredResponse& response) const;
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
  uint64_t incarnation_ = 0;
  uint64_t previous_incarnation_ = 0;
  bool lacks_hours_ = false;                 // the folder is of a format that is converted
  std::atomic<bool> db_failed_{false};       // a write of RocksDB's failed
  std::atomic<int64_t> db_failed_at_us_{0};  // when, since 1970
  std::atomic<bool> has_room_{true};
  std::atomic<int64_t> agreed_now_us_{kNever};
  // When minutes were written last whose digests on disk are marked, as they may be behind those in
  // memory; of the single writer.
  absl::flat_hash_map<int64_t, absl::Time> unsaved_;
  DigestIndex digests_;
  // Where the look for buckets to expire goes on; of who looks.
  int64_t look_from_minute_ = std::numeric_limits<int64_t>::min();

  // Where digests change with it, also held while that is applied. Before the index's own.
  mutable absl::Mutex mutex_;
  std::vector<ExpiredRanges> expired_ ABSL_GUARDED_BY(mutex_);   // by shard
  std::vector<uint64_t> expired_keyed_ ABSL_GUARDED_BY(mutex_);  // by shard, of this process
  // A byte a shard, as on disk.
  std::string joined_ ABSL_GUARDED_BY(mutex_);
  std::string damaged_ ABSL_GUARDED_BY(mutex_);
  uint32_t complete_as_of_s_ ABSL_GUARDED_BY(mutex_) = 0;

  mutable absl::Mutex damage_mutex_;
  mutable bool has_damage_ ABSL_GUARDED_BY(damage_mutex_) = false;
  mutable std::string damage_ ABSL_GUARDED_BY(damage_mutex_);  // as damage()
  // Of the opening: the folder's mark, and whether its log ended in the middle of a record.
  std::optional<DamageMark> mark_;
  bool ends_torn_ = false;
};

}  // namespace allezon::replica
