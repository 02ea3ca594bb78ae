// SPDX-License-Identifier: Apache-2.0
#include "replica/bucket_index.h"

namespace allezon::replica {
namespace {

// Replaces `before` by `after` in a sum that leaves the map when it becomes empty.
template <typename Map>
void Shift(Map& sums, router::ShardId shard, const Digest& before, const Digest& after) {
  const auto sum = sums.try_emplace(shard).first;
  sum->second.Remove(before);
  sum->second.Add(after);
  if (sum->second.count == 0) sums.erase(sum);
}

template <typename Map>
Digest FindIn(const Map& sums, router::ShardId shard) {
  const auto found = sums.find(shard);
  return found == sums.end() ? Digest{} : found->second;
}

void Append(router::ShardId shard, int64_t start, const Digest& digest,
            google::protobuf::RepeatedPtrField<v1::SetDigest>* digests) {
  if (digest.count == 0) return;
  v1::SetDigest& added = *digests->Add();
  added.set_shard(shard);
  added.set_start(start);
  added.set_count(digest.count);
  added.set_sum_low(absl::Uint128Low64(digest.sum));
  added.set_sum_high(absl::Uint128High64(digest.sum));
}

}  // namespace

void BucketIndex::Set(int64_t minute, router::ShardId shard, const Bucket& bucket) {
  Digest before;
  const Digest& after = bucket.digest;
  if (after.count > 0) {
    Bucket& kept = minutes_[minute][shard];
    before = kept.digest;
    kept = bucket;
  } else {
    const auto shards = minutes_.find(minute);
    if (shards == minutes_.end()) return;
    const auto kept = shards->second.find(shard);
    if (kept == shards->second.end()) return;
    before = kept->second.digest;
    shards->second.erase(kept);
    if (shards->second.empty()) minutes_.erase(shards);
  }
  const auto hour = hours_.try_emplace(HourOf(minute)).first;
  Shift(hour->second, shard, before, after);
  if (hour->second.empty()) hours_.erase(hour);
  Shift(shards_, shard, before, after);
  event_count_ += after.count - before.count;
}

Bucket BucketIndex::Find(int64_t minute, router::ShardId shard) const {
  const auto shards = minutes_.find(minute);
  if (shards == minutes_.end()) return {};
  const auto bucket = shards->second.find(shard);
  return bucket == shards->second.end() ? Bucket{} : bucket->second;
}

Digest BucketIndex::ShardDigest(router::ShardId shard) const { return FindIn(shards_, shard); }

Digest BucketIndex::HourDigest(router::ShardId shard, int64_t hour) const {
  const auto found = hours_.find(hour);
  return found == hours_.end() ? Digest{} : FindIn(found->second, shard);
}

Digest BucketIndex::MinuteDigest(int64_t minute) const {
  Digest sum;
  const auto found = minutes_.find(minute);
  if (found == minutes_.end()) return sum;
  for (const auto& [shard, bucket] : found->second) sum.Add(bucket.digest);
  return sum;
}

void BucketIndex::AppendDigests(v1::DigestLevel level, router::ShardId shard, int64_t hour,
                                google::protobuf::RepeatedPtrField<v1::SetDigest>* digests) const {
  if (level == v1::DIGEST_LEVEL_SHARD) {
    Append(shard, 0, ShardDigest(shard), digests);
  } else if (level == v1::DIGEST_LEVEL_HOUR) {
    for (const auto& [start, sums] : hours_) Append(shard, start, FindIn(sums, shard), digests);
  } else if (level == v1::DIGEST_LEVEL_MINUTE && hours_.contains(hour)) {
    for (auto it = minutes_.lower_bound(hour * 60);
         it != minutes_.end() && HourOf(it->first) == hour; ++it) {
      const auto bucket = it->second.find(shard);
      if (bucket == it->second.end()) continue;
      Append(shard, it->first, bucket->second.digest, digests);
      digests->rbegin()->set_newest_accepted_s(bucket->second.newest_accepted_s);
    }
  }
}

}  // namespace allezon::replica
