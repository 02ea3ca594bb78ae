// SPDX-License-Identifier: Apache-2.0
//
// What the store removes: buckets that retention expires, by this node's decision or by a peer's.
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "replica/expiry_plan.h"
#include "replica/store.h"
#include "replica/store_internal.h"
#include "rpc/log.h"

namespace allezon::replica {
namespace {

// Of one step: it ends with the bucket that reaches one of these.
constexpr size_t kStepBucketsMax = 1'024;
constexpr size_t kStepKeysMax = 1'000;
constexpr size_t kStepRangesMax = 1'000;
// Looked at at a time, for which commits wait.
constexpr int kMinutesLookedAtMax = 1'000;

}  // namespace

bool Store::Maintain() {
  has_room_.store(HasRoom(options_.disk_reserve_bytes));  // also while nothing is committed
  if (db_failed_.load()) return false;
  return SaveQuietDigests();
}

std::vector<ExpiryCandidate> Store::FindExpirable(WallS horizon_s) {
  std::vector<ExpiryCandidate> found;
  absl::MutexLock lock(&mutex_);
  const auto& minutes = buckets_.minutes();
  if (minutes.empty()) return found;
  const int64_t newest_ms = minutes.rbegin()->first * router::kMinuteMs;
  // A replay may leave many minutes that are old and young at once: a part of them at a time.
  auto at = minutes.lower_bound(look_from_minute_);
  look_from_minute_ = std::numeric_limits<int64_t>::min();
  for (int looked_at = 0; at != minutes.end(); ++at, ++looked_at) {
    const auto& [minute, shards] = *at;
    if ((minute + 1) * router::kMinuteMs >
        newest_ms - absl::ToInt64Milliseconds(options_.retention)) {
      break;
    }
    if (looked_at == kMinutesLookedAtMax || found.size() + shards.size() > kExpiryBucketsMax) {
      look_from_minute_ = minute;
      break;
    }
    for (const auto& [shard, bucket] : shards) {
      if (WallS{bucket.newest_accepted_s} > horizon_s) continue;
      found.push_back({{shard, minute}, bucket.newest_accepted_s});
    }
  }
  return found;
}

// --- planning ---

void Store::AppendBuckets(const v1::ExpiredRange& range, std::vector<PlannedBucket>& found) const {
  int64_t from = range.from_minute();
  while (true) {
    absl::MutexLock lock(&mutex_);
    const auto& minutes = buckets_.minutes();
    auto at = minutes.lower_bound(from);
    for (int looked_at = 0; looked_at < kMinutesLookedAtMax; ++looked_at, ++at) {
      if (at == minutes.end() || at->first >= range.to_minute()) return;
      from = at->first + 1;
      const auto bucket = at->second.find(range.shard());
      if (bucket == at->second.end()) continue;
      if (bucket->second.oldest_accepted_s > range.through_s()) continue;  // there is nothing to go
      found.push_back({{range.shard(), at->first}, MarkOf(range), bucket->second.digest, {}});
    }
  }
}

std::vector<PlannedBucket> Store::BucketsOf(const ExpireRanges& expire) const {
  std::vector<PlannedBucket> found;
  for (const v1::ExpiredRange& range : expire.ranges) {
    if (range.shard() < options_.shards && range.through_s() != 0) AppendBuckets(range, found);
  }
  // In the order of the log, so that whole minutes go at once.
  std::sort(found.begin(), found.end(), [](const PlannedBucket& a, const PlannedBucket& b) {
    return std::pair(a.bucket.minute, a.bucket.shard) < std::pair(b.bucket.minute, b.bucket.shard);
  });
  return found;
}

absl::StatusOr<std::vector<std::string>> Store::KeysOf(int64_t minute, ShardId shard) const {
  std::vector<std::string> keys;
  absl::Status status =
      VisitBucket(shard, minute, {}, [&](const ParsedLogKey& key, const ParsedLogValue&) {
        if (router::IsKeyed(key.event_id)) keys.push_back(KeyedKey(shard, key.event_id));
        return true;
      });
  if (!status.ok()) return status;
  return keys;
}

ExpiryPlan::ExpiryPlan(const Store& store, ExpireRanges expire)
    : store_(store), expire_(std::move(expire)) {
  std::vector<PlannedBucket> buckets = store_.BucketsOf(expire_);
  buckets_.assign(std::make_move_iterator(buckets.begin()), std::make_move_iterator(buckets.end()));
  // Of a decision that is of whole buckets each bucket is recorded, and there is nothing else.
  if (expire_.only_whole) expire_.ranges.clear();
}

absl::StatusOr<std::optional<ExpiryStep>> ExpiryPlan::Next() {
  ExpiryStep step;
  step.only_whole = expire_.only_whole;
  size_t keys = 0;
  while (!buckets_.empty() && step.buckets.size() < kStepBucketsMax && keys < kStepKeysMax) {
    PlannedBucket bucket = std::move(buckets_.front());
    buckets_.pop_front();
    auto found = store_.KeysOf(bucket.bucket.minute, bucket.bucket.shard);
    if (!found.ok()) return found.status();
    bucket.keys = *std::move(found);
    keys += bucket.keys.size();
    step.buckets.push_back(std::move(bucket));
  }
  if (!step.buckets.empty()) return step;
  const size_t end = std::min(next_range_ + kStepRangesMax, expire_.ranges.size());
  for (; next_range_ < end; ++next_range_) step.ranges.push_back(expire_.ranges[next_range_]);
  if (step.ranges.empty()) return std::nullopt;
  return step;
}

// --- a step ---

struct Store::Expiring {
  std::vector<ExpiredBucket> buckets;
  std::map<std::pair<int64_t, ShardId>, Bucket> left;  // of each of them, by minute and shard
  std::vector<int64_t> emptied;                        // minutes that nothing is left of
  std::map<ShardId, uint64_t> keyed;                   // how many events with keys go
  // Of each shard, what is recorded in the place of what.
  struct Record {
    ExpiredRanges before;
    ExpiredRanges now;
  };
  std::map<ShardId, Record> records;
};

absl::Status Store::StageExpiredPart(const PlannedBucket& planned, Expiring& expiring,
                                     rocksdb::WriteBatch& batch) const {
  const auto [shard, minute] = planned.bucket;
  ExpiredBucket expired{shard, minute, {}, false};
  Bucket left;
  absl::Status status =
      VisitBucket(shard, minute, {}, [&](const ParsedLogKey& key, const ParsedLogValue& value) {
        if (value.accepted_s > planned.mark.through_s) {
          left.Add(key.event_id, value.accepted_s, value.tag);
          return true;
        }
        expired.removed.Add(key.event_id, value.tag);
        batch.Delete(column_families_[kLogCf], LogKey(minute, shard, key.event_id));
        if (router::IsKeyed(key.event_id)) {
          batch.Delete(column_families_[kKeyedCf], KeyedKey(shard, key.event_id));
          ++expiring.keyed[shard];
        }
        return true;
      });
  if (!status.ok()) return status;
  StageBucket(minute, shard, left, batch);
  expiring.left[{minute, shard}] = left;
  expired.is_empty = left.digest.count == 0;
  if (expired.removed.count > 0) expiring.buckets.push_back(expired);
  return absl::OkStatus();
}

absl::Status Store::StageExpiredBucket(const PlannedBucket& planned, Expiring& expiring,
                                       rocksdb::WriteBatch& batch) const {
  const auto [shard, minute] = planned.bucket;
  const Bucket bucket = BucketOf(minute, shard);
  if (bucket.digest.count == 0) return absl::OkStatus();
  if (bucket.newest_accepted_s > planned.mark.through_s) {
    return StageExpiredPart(planned, expiring, batch);
  }
  absl::StatusOr<std::vector<std::string>> keys = planned.keys;
  if (bucket.digest != planned.digest) keys = KeysOf(minute, shard);
  if (!keys.ok()) return keys.status();
  for (const std::string& key : *keys) batch.Delete(column_families_[kKeyedCf], key);
  expiring.keyed[shard] += keys->size();
  StageBucket(minute, shard, {}, batch);
  expiring.left[{minute, shard}] = {};
  expiring.buckets.push_back({shard, minute, bucket.digest, true});
  return absl::OkStatus();
}

// One range tombstone for neighbours that go whole, instead of one for each event.
void Store::StageExpiredLog(Expiring& expiring, rocksdb::WriteBatch& batch) const {
  rocksdb::ColumnFamilyHandle* const log = column_families_[kLogCf];
  absl::MutexLock lock(&mutex_);
  std::string begin, end;
  const auto flush = [&] {
    if (!begin.empty()) batch.DeleteRange(log, begin, end);
    begin.clear();
  };
  std::map<int64_t, std::vector<ShardId>> whole;
  for (const auto& [key, left] : expiring.left) {
    if (left.digest.count == 0) whole[key.first].push_back(key.second);
  }
  for (const auto& [minute, shards] : whole) {
    const auto held = buckets_.minutes().find(minute);
    if (held == buckets_.minutes().end() || held->second.size() == shards.size()) {
      expiring.emptied.push_back(minute);
      // That of the digests takes a mark too.
      batch.DeleteRange(column_families_[kDigestCf], MinuteKey(minute), MinuteKey(minute + 1));
      if (begin.empty() || end != MinuteKey(minute)) {
        flush();
        begin = MinuteKey(minute);
      }
      end = MinuteKey(minute + 1);
      continue;
    }
    flush();
    for (const ShardId shard : shards) {
      if (begin.empty() || end != BucketKey(minute, shard)) {
        flush();
        begin = BucketKey(minute, shard);
      }
      end = BucketKey(minute, shard + 1);
    }
    flush();
  }
  flush();
}

void Store::StageExpiredRecords(const std::vector<v1::ExpiredRange>& ranges, Expiring& expiring,
                                rocksdb::WriteBatch& batch) const {
  std::map<ShardId, std::vector<const v1::ExpiredRange*>> by_shard;
  for (const v1::ExpiredRange& range : ranges) {
    if (range.shard() < options_.shards) by_shard[range.shard()].push_back(&range);
  }
  absl::MutexLock lock(&mutex_);
  for (const auto& [shard, of] : by_shard) {
    int64_t from = of.front()->from_minute(), to = of.front()->to_minute();
    for (const v1::ExpiredRange* range : of) {
      from = std::min(from, range->from_minute());
      to = std::max(to, range->to_minute());
    }
    Expiring::Record& record = expiring.records[shard];
    record.before = expired_[shard].Touching(from, to);
    record.now = record.before;
    for (const v1::ExpiredRange* range : of) {
      record.now.Join(range->from_minute(), range->to_minute(), MarkOf(*range));
    }
    rocksdb::ColumnFamilyHandle* const family = column_families_[kExpiredCf];
    for (const auto& [begin, range] : record.before.ranges()) {
      const auto kept = record.now.ranges().find(begin);
      if (kept == record.now.ranges().end()) batch.Delete(family, ExpiredKey(shard, begin));
    }
    for (const auto& [begin, range] : record.now.ranges()) {
      const auto same = record.before.ranges().find(begin);
      if (same != record.before.ranges().end() && same->second == range) continue;
      batch.Put(family, ExpiredKey(shard, begin), ExpiredValue(range));
    }
  }
}

absl::StatusOr<Store::Expiring> Store::StageExpiry(const ExpiryStep& step,
                                                   rocksdb::WriteBatch& batch) const {
  Expiring expiring;
  std::vector<v1::ExpiredRange> ranges = step.ranges;
  for (const PlannedBucket& planned : step.buckets) {
    const auto [shard, minute] = planned.bucket;
    // What came since makes it too young.
    if (step.only_whole && BucketOf(minute, shard).newest_accepted_s > planned.mark.through_s) {
      continue;
    }
    absl::Status status = StageExpiredBucket(planned, expiring, batch);
    if (!status.ok()) return status;
    v1::ExpiredRange& range = ranges.emplace_back();
    range.set_shard(shard);
    range.set_from_minute(minute);
    range.set_to_minute(minute + 1);
    range.set_through_s(planned.mark.through_s);
    range.set_removed_through_s(planned.mark.removed_through_s);
    range.set_expired_at_s(planned.mark.expired_at_s);
  }
  StageExpiredLog(expiring, batch);
  StageExpiredRecords(ranges, expiring, batch);
  view_.StageExpire(expiring.buckets, expiring.emptied, batch);
  return expiring;
}

absl::Status Store::Expire(const ExpiryStep& step) {
  rocksdb::WriteBatch batch;
  absl::StatusOr<Expiring> expiring = StageExpiry(step, batch);
  if (!expiring.ok()) return expiring.status();
  if (absl::Status status = Write(batch, options_.sync_wal); !status.ok()) return status;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [key, left] : expiring->left) buckets_.Set(key.first, key.second, left);
    for (const auto& [shard, count] : expiring->keyed) expired_keyed_[shard] += count;
    for (const auto& [shard, record] : expiring->records) {
      expired_[shard].Replace(record.before, record.now);
    }
  }
  for (const auto& [key, left] : expiring->left) {
    const auto unsaved = unsaved_.find(key.first);
    if (unsaved != unsaved_.end() && left.digest.count == 0) {
      unsaved->second.emptied.insert(key.second);
    }
  }
  for (const int64_t minute : expiring->emptied) unsaved_.erase(minute);
  view_.Expired(expiring->buckets, expiring->emptied);
  return absl::OkStatus();
}

}  // namespace allezon::replica
