// SPDX-License-Identifier: Apache-2.0
//
// The digest buckets of a set in memory, and their sums by shard and by (shard, hour), so that
// comparing a replica of any size costs a few look-ups.
#pragma once

#include <cstdint>
#include <vector>

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

  // Appends the digests of the shard at this level that are not empty, in order of their start;
  // for minutes, only those of `hour`.
  void AppendDigests(v1::DigestLevel level, router::ShardId shard, int64_t hour,
                     google::protobuf::RepeatedPtrField<v1::SetDigest>* digests) const;

 private:
  using Digests = absl::flat_hash_map<router::ShardId, Digest>;

  absl::btree_map<int64_t, Shards> minutes_;
  absl::btree_map<int64_t, Digests> hours_;
  Digests shards_;
  uint64_t event_count_ = 0;
};

}  // namespace allezon::replica
