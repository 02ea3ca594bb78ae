// SPDX-License-Identifier: Apache-2.0
//
// The digest buckets of a set in memory, and their sums by shard and by (shard, hour), so that
// comparing a replica of any size costs a few look-ups.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "allezon/v1/replica.pb.h"
#include "replica/digest.h"
#include "replica/log_format.h"
#include "router/shard.h"

namespace allezon::replica {

// Not thread-safe. Takes some 60 bytes for each (shard, minute) that holds anything.
class BucketIndex {
 public:
  using Shards = absl::flat_hash_map<router::ShardId, Bucket>;

  // Floor division, also before 1970.
  static int64_t HourOf(int64_t minute) { return minute / 60 - (minute % 60 < 0 ? 1 : 0); }

  // Replaces a bucket and brings the sums up to date; an empty one is taken out.
  void Set(int64_t minute, router::ShardId shard, const Bucket& bucket);

  // Empty where nothing is.
  Bucket Find(int64_t minute, router::ShardId shard) const;
  Digest ShardDigest(router::ShardId shard) const;
  Digest HourDigest(router::ShardId shard, int64_t hour) const;
  // Over all shards.
  Digest MinuteDigest(int64_t minute) const;
  uint64_t event_count() const { return event_count_; }
  // In order; none of the buckets is empty.
  const absl::btree_map<int64_t, Shards>& minutes() const { return minutes_; }

  // Append digests of the shard that are not empty: of the whole shard; of its hours, and of its
  // minutes in one hour, those after `after` (none: from the first), in order, `most` at most.
  using SetDigests = google::protobuf::RepeatedPtrField<v1::SetDigest>;
  void AppendShard(router::ShardId shard, SetDigests& digests) const;
  // How many were appended.
  size_t AppendHours(router::ShardId shard, std::optional<int64_t> after, size_t most,
                     SetDigests& digests) const;
  void AppendMinutes(router::ShardId shard, int64_t hour, std::optional<int64_t> after, size_t most,
                     SetDigests& digests) const;

 private:
  absl::btree_map<int64_t, Shards> minutes_;
  // By shard first, so that a page of one shard's is read without a look at the others.
  absl::btree_map<std::pair<router::ShardId, int64_t>, Digest> hours_;
  absl::flat_hash_map<router::ShardId, Digest> shards_;
  uint64_t event_count_ = 0;
};

}  // namespace allezon::replica
