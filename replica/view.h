// SPDX-License-Identifier: Apache-2.0
//
// What a service plugs into the replicated set: a pure function of the log, kept up to date in the
// same commit.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "allezon/v1/replica.pb.h"
#include "allezon/v1/tag.pb.h"
#include "replica/digest.h"
#include "router/shard.h"

namespace rocksdb {
class ColumnFamilyHandle;
class DB;
class WriteBatch;
struct ColumnFamilyOptions;
}  // namespace rocksdb

namespace allezon::replica {

using router::EventId;
using router::ShardId;

// An event on its way into the log. Borrows from the request that brought it.
struct LogEntry {
  ShardId shard = 0;
  int64_t minute = 0;  // MinuteOf(time_ms)
  int64_t time_ms = 0;
  EventId id;
  uint32_t accepted_s = 0;
  std::string_view tag;             // a serialised allezon.v1.Tag
  const v1::Tag* parsed = nullptr;  // the same, parsed; set wherever the view is given an entry
};

// What the view may ask of the store that it is plugged into. Valid between Open and the view's
// destruction. Thread-safe.
class LogReader {
 public:
  virtual ~LogReader() = default;
  // Calls `visit` with every entry of the minute in every shard, in key order, as of one moment.
  virtual absl::Status ReadMinute(int64_t minute,
                                  const std::function<void(const LogEntry&)>& visit) const = 0;
  // The same for one shard of it.
  virtual absl::Status ReadBucket(int64_t minute, ShardId shard,
                                  const std::function<void(const LogEntry&)>& visit) const = 0;
  // The digest of the minute over all shards of this node: the sum of the digests of its (shard,
  // minute) buckets, as of what is committed. kUnavailable, kDataLoss: the disk.
  virtual absl::StatusOr<Digest> MinuteDigest(int64_t minute) const = 0;
  // The digest of one of those buckets. Errors as above.
  virtual absl::StatusOr<Digest> BucketDigest(int64_t minute, ShardId shard) const = 0;
  // Calls `visit` with every minute that holds anything, in order, and its MinuteDigest. What
  // changes meanwhile may be told as it was or as it is. Errors as above, or what `visit` returns,
  // which ends it. There may be millions of them.
  virtual absl::Status VisitMinutes(
      absl::FunctionRef<absl::Status(int64_t minute, const Digest& digest)> visit) const = 0;
  // Up to which acceptance (seconds since 1970) retention may have removed events of the bucket; 0
  // where it never did. Views keep what they want of them.
  virtual uint32_t RemovedThroughS(ShardId shard, int64_t minute) const = 0;
  // When retention last expired the minute in any of the shards (seconds since 1970); 0 where it
  // never did.
  virtual uint32_t ExpiredAtS(absl::Span<const ShardId> shards, int64_t minute) const = 0;
  // The newest tag time that was accepted (milliseconds), INT64_MIN where nothing was.
  virtual int64_t NewestTimeMs() const = 0;
};

// A bucket that retention removes events of.
struct ExpiredBucket {
  ShardId shard = 0;
  int64_t minute = 0;
  Digest removed;        // of the events that go
  bool is_empty = true;  // nothing of the bucket is left
};

struct ViewContext {
  rocksdb::DB* db = nullptr;
  rocksdb::ColumnFamilyHandle* column_family = nullptr;  // the view's own
  const LogReader* log = nullptr;
  // To be told of what RocksDB reports as corrupt, where the view reads on its own; one line.
  // Thread-safe.
  std::function<void(std::string_view detail)> note_damage = [](std::string_view) {};
};

// Lifecycle: Configure, Open, then everything else while anyone reads, then Close. Whatever begins
// with Stage, Committed and Expired are called by the store's single writer, in the order of the
// commits. An entry is given once: duplicates were taken out before.
class View {
 public:
  virtual ~View() = default;
  // Options of the view's column family (compaction filter, bloom, compression, …), given shared
  // settings to start from.
  virtual void Configure(rocksdb::ColumnFamilyOptions& options) = 0;
  // The store is open; brings in-memory state into agreement with the log.
  virtual absl::Status Open(const ViewContext& context) = 0;
  // Adds to the batch what the view stores for `entries`. The batch is then committed with the log
  // entries, or dropped.
  virtual void Stage(absl::Span<const LogEntry> entries, rocksdb::WriteBatch& batch) = 0;
  // `old`, an event of the log, is about to make way for another one with the same idempotency key:
  // adds to the batch what must go with it. Before Stage of the same batch, which may put the same
  // keys again.
  virtual void StageRemove(const LogEntry& old, rocksdb::WriteBatch& batch) = 0;
  // `added` are durable (or, with --wal=async, written), and `removed` made way for some of them:
  // one change, of which no reader may see a part. Before their writers are answered, so that an
  // acknowledged tag is visible.
  virtual void Committed(absl::Span<const LogEntry> added, absl::Span<const LogEntry> removed) = 0;
  // `entries` are not given to Committed: they come so late that retention has expired their
  // buckets, or are in the log already and were accepted again, for which `accepted_s` is later
  // now. Adds to the batch what the view keeps of such events.
  virtual void StageAgain(absl::Span<const LogEntry> /*entries*/, rocksdb::WriteBatch&) {}
  // Retention is about to remove events: adds to the batch what must go with them. `emptied`:
  // minutes of which nothing is left in any shard. Expired follows once it is committed; the log
  // then holds what is left of a bucket.
  virtual void StageExpire(absl::Span<const ExpiredBucket> buckets,
                           absl::Span<const int64_t> emptied, rocksdb::WriteBatch& batch) = 0;
  virtual void Expired(absl::Span<const ExpiredBucket> buckets,
                       absl::Span<const int64_t> emptied) = 0;
  // Rows that the view keeps although retention took their events, to hand them to an empty
  // replica: those of the shard with keys after `after_key` (empty: from the first), in order,
  // about `bytes_max` at most. `last_key` is the one after which to go on, empty at the end; the
  // look at rows is bounded, so there may be none and more to come. Thread-safe. Views that keep
  // none have nothing to override.
  virtual absl::Status ReadRows(ShardId, std::string_view /*after_key*/, size_t /*bytes_max*/,
                                std::vector<v1::ViewRow>* /*rows*/, std::string* last_key) const {
    last_key->clear();
    return absl::OkStatus();
  }
  // Adds such rows to the batch; putting one again changes nothing. kInvalidArgument: no such rows.
  virtual absl::Status StageRows(ShardId, absl::Span<const v1::ViewRow> rows,
                                 rocksdb::WriteBatch&) {
    return rows.empty() ? absl::OkStatus()
                        : absl::InvalidArgumentError("this view keeps no rows of its own");
  }
  // Called about once a second by a background thread, for what needs no hurry (sealing, …).
  // `agreed_now` is surely not ahead of the true time; the infinite past where it is not known.
  virtual void Tick(absl::Time agreed_now) = 0;
  // Flushes what it holds; nothing is called afterwards.
  virtual void Close() = 0;
};

}  // namespace allezon::replica
