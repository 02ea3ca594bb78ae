// SPDX-License-Identifier: Apache-2.0
#include "replica/bucket_index.h"

#include <limits>

namespace allezon::replica {
namespace {

// Replaces `before` by `after` in a sum that leaves the map when it becomes empty.
template <typename Map>
void Shift(Map& sums, const typename Map::key_type& key, const Digest& before,
           const Digest& after) {
  const auto sum = sums.try_emplace(key).first;
  sum->second.Remove(before);
  sum->second.Add(after);
  if (sum->second.count == 0) sums.erase(sum);
}

template <typename Map>
Digest FindIn(const Map& sums, const typename Map::key_type& key) {
  const auto found = sums.find(key);
  return found == sums.end() ? Digest{} : found->second;
}

v1::SetDigest& Append(router::ShardId shard, int64_t start, const Digest& digest,
                      BucketIndex::SetDigests& digests) {
  v1::SetDigest& added = *digests.Add();
  added.set_shard(shard);
  added.set_start(start);
  added.set_count(digest.count);
  added.set_sum_low(absl::Uint128Low64(digest.sum));
  added.set_sum_high(absl::Uint128High64(digest.sum));
  return added;
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
  Shift(hours_, {shard, HourOf(minute)}, before, after);
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
  return FindIn(hours_, {shard, hour});
}

Digest BucketIndex::MinuteDigest(int64_t minute) const {
  Digest sum;
  const auto found = minutes_.find(minute);
  if (found == minutes_.end()) return sum;
  for (const auto& [shard, bucket] : found->second) sum.Add(bucket.digest);
  return sum;
}

void BucketIndex::AppendShard(router::ShardId shard, SetDigests& digests) const {
  if (const auto found = shards_.find(shard); found != shards_.end()) {
    Append(shard, 0, found->second, digests);
  }
}

size_t BucketIndex::AppendHours(router::ShardId shard, std::optional<int64_t> after, size_t most,
                                SetDigests& digests) const {
  auto at = after ? hours_.upper_bound({shard, *after})
                  : hours_.lower_bound({shard, std::numeric_limits<int64_t>::min()});
  size_t appended = 0;
  for (; at != hours_.end() && at->first.first == shard && appended < most; ++at, ++appended) {
    Append(shard, at->first.second, at->second, digests);
  }
  return appended;
}

void BucketIndex::AppendMinutes(router::ShardId shard, int64_t hour, std::optional<int64_t> after,
                                size_t most, SetDigests& digests) const {
  if (!hours_.contains({shard, hour})) return;
  auto at =
      after && *after >= hour * 60 ? minutes_.upper_bound(*after) : minutes_.lower_bound(hour * 60);
  for (size_t appended = 0; at != minutes_.end() && HourOf(at->first) == hour && appended < most;
       ++at) {
    const auto bucket = at->second.find(shard);
    if (bucket == at->second.end()) continue;
    Append(shard, at->first, bucket->second.digest, digests)
        .set_newest_accepted_s(bucket->second.newest_accepted_s);
    ++appended;
  }
}

}  // namespace allezon::replica
