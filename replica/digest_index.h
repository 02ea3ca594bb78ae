// SPDX-License-Identifier: Apache-2.0
//
// The digest buckets of a set, and their sums by shard and by (shard, hour), so that comparing a
// replica of any size costs a few look-ups. How many buckets and hours there are, whoever sends
// tags decides: those that memory has no room for are read from disk.
//
// One writer works changes out (DigestChange) before it commits what they are of, and applies them
// after; what it applied is saved later, by minute (Stage, Saved). Rows of hours on disk are the
// sums of those of their minutes, but where a minute is marked as unsaved: then they may be
// anything, and Load makes them anew.
#pragma once

#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "allezon/v1/replica.pb.h"
#include "replica/digest.h"
#include "replica/log_format.h"
#include "replica/spilled_map.h"
#include "router/shard.h"

namespace allezon::replica {

// Floor division, also before 1970.
constexpr int64_t HourOf(int64_t minute) { return minute / 60 - (minute % 60 < 0 ? 1 : 0); }

using BucketId = ParsedBucketKey;  // in the order of the log
using HourId = ParsedHourKey;

struct BucketRows {
  using Key = BucketId;
  using Value = Bucket;
  static std::string Encode(const Key& key) { return BucketKey(key.minute, key.shard); }
  // A mark of an unsaved minute.
  static bool IsForeign(std::string_view key) { return ParseMinuteKey(key).has_value(); }
  static std::optional<Key> Decode(std::string_view key) { return ParseBucketKey(key); }
  static std::string EncodeValue(const Value& value) { return BucketValue(value); }
  static std::optional<Value> DecodeValue(std::string_view row) { return ParseBucketValue(row); }
  static bool IsEmpty(const Value& value) { return value.digest.count == 0; }
  static Key After(const Key& key) {
    return key.shard == kShardLast ? Key{key.minute + 1, 0} : Key{key.minute, key.shard + 1};
  }

 private:
  static constexpr router::ShardId kShardLast = 0xffff;  // that has room in a key
};

struct HourRows {
  using Key = HourId;
  using Value = Digest;
  static std::string Encode(const Key& key) { return HourKey(key.shard, key.hour); }
  static bool IsForeign(std::string_view) { return false; }
  static std::optional<Key> Decode(std::string_view key) { return ParseHourKey(key); }
  static std::string EncodeValue(const Value& value) { return DigestValue(value); }
  static std::optional<Value> DecodeValue(std::string_view row) { return ParseDigestValue(row); }
  static bool IsEmpty(const Value& value) { return value.count == 0; }
  static Key After(const Key& key) { return {key.shard, key.hour + 1}; }
};

class DigestChange;

// Thread-safe, but for what is for the writer alone. Statuses are kUnavailable or kDataLoss: the
// disk.
class DigestIndex {
 public:
  // Of the buckets and the hours that are in memory, beside those that are not saved yet.
  explicit DigestIndex(size_t bytes_max);

  void Open(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* buckets,
            rocksdb::ColumnFamilyHandle* hours, SpilledMap<BucketRows>::Check check);
  // Reads what is on disk, once. `make_hours`: those of the hours are made anew from the buckets,
  // and durable with the next synced write. Returns the minutes that are marked.
  absl::StatusOr<std::vector<int64_t>> Load(bool make_hours);

  absl::StatusOr<Bucket> Find(int64_t minute, router::ShardId shard) const;
  Digest ShardDigest(router::ShardId shard) const;
  absl::StatusOr<Digest> HourDigest(router::ShardId shard, int64_t hour) const;
  // Over all shards.
  absl::StatusOr<Digest> MinuteDigest(int64_t minute) const;
  uint64_t event_count() const;
  // The newest minute that holds anything; none where none does.
  absl::StatusOr<std::optional<int64_t>> NewestMinute() const;
  // Calls `visit` with what is there of [from, to), in order, until it says no.
  absl::Status Visit(const BucketId& from, const BucketId& to,
                     absl::FunctionRef<bool(const BucketId&, const Bucket&)> visit) const;

  // Append digests of the shard that are not empty: of the whole shard; of its hours, and of its
  // minutes in one hour, those after `after` (none: from the first), in order, `most` at most.
  using SetDigests = google::protobuf::RepeatedPtrField<v1::SetDigest>;
  void AppendShard(router::ShardId shard, SetDigests& digests) const;
  absl::Status AppendHours(router::ShardId shard, std::optional<int64_t> after, size_t most,
                           SetDigests& digests) const;
  absl::Status AppendMinutes(router::ShardId shard, int64_t hour, std::optional<int64_t> after,
                             size_t most, SetDigests& digests) const;

  // --- of the writer ---

  // What was worked out holds from now on. `is_saved`: StageChange's batch is committed.
  void Apply(const DigestChange& change, bool is_saved);
  void StageChange(const DigestChange& change, rocksdb::WriteBatch& batch) const;
  // Adds to the batch what is not saved of the minute; Saved follows once it is committed.
  void Stage(int64_t minute, rocksdb::WriteBatch& batch) const;
  void Saved(int64_t minute);
  // Makes the sums of an hour anew, not saved.
  absl::Status RemakeHour(int64_t hour, uint32_t shards);

  size_t resident() const { return buckets_.resident() + hours_.resident(); }

 private:
  friend class DigestChange;
  absl::Status LoadHours();

  SpilledMap<BucketRows> buckets_;
  SpilledMap<HourRows> hours_;
  rocksdb::DB* db_ = nullptr;
  rocksdb::ColumnFamilyHandle* buckets_family_ = nullptr;
  rocksdb::ColumnFamilyHandle* hours_family_ = nullptr;
  SpilledMap<BucketRows>::Check check_;
  // Shards with hours that are not saved, by hour; of the writer.
  absl::flat_hash_map<int64_t, absl::btree_set<router::ShardId>> unsaved_hours_;

  mutable absl::Mutex mutex_;
  absl::flat_hash_map<router::ShardId, Digest> shards_ ABSL_GUARDED_BY(mutex_);
  uint64_t event_count_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t applied_ ABSL_GUARDED_BY(mutex_) = 0;
  // None where it is to be found.
  mutable std::optional<int64_t> newest_minute_ ABSL_GUARDED_BY(mutex_);
};

// What one commit changes of an index, worked out before it is written: everything that has to be
// read from disk is read here, and an error changes nothing. The index must outlive it, and must
// not change before it is applied.
class DigestChange {
 public:
  explicit DigestChange(const DigestIndex& index) : index_(&index) {}

  // The bucket, to be changed; valid until the next call.
  absl::StatusOr<Bucket*> Of(int64_t minute, router::ShardId shard);
  // Once all buckets are as they are to be.
  absl::Status Finish();

  struct Change {
    Bucket before;
    Bucket after;
  };
  using Buckets = absl::btree_map<BucketId, Change>;
  const Buckets& buckets() const { return buckets_; }

 private:
  friend class DigestIndex;
  struct Sum {
    Digest before;
    Digest after;
  };

  const DigestIndex* index_;
  Buckets buckets_;
  absl::btree_map<HourId, Sum> hours_;
};

}  // namespace allezon::replica
