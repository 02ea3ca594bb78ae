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
constexpr int kMinutesLookedAtMax = 1'000;  // by one look for what may go
// Buckets that are planned before their keys are read, and that are looked at for it at once.
constexpr size_t kPlannedMax = 10'000;
constexpr size_t kLookedAtMax = 50'000;

}  // namespace

bool Store::Maintain() {
  has_room_.store(HasRoom(options_.disk_reserve_bytes));  // also while nothing is committed
  if (db_failed_.load()) return false;
  return SaveQuietDigests();
}

std::vector<ExpiryCandidate> Store::FindExpirable(WallS horizon_s) {
  std::vector<ExpiryCandidate> found;
  const auto newest = digests_.NewestMinute();
  if (!newest.ok() || !*newest) return found;
  const int64_t newest_ms = **newest * router::kMinuteMs;
  const int64_t kept_ms = absl::ToInt64Milliseconds(options_.retention);
  // A replay may leave many minutes that are old and young at once: a part of them at a time.
  const int64_t from = std::exchange(look_from_minute_, kFirstBucket.minute);
  std::optional<int64_t> minute;
  size_t of_minute = 0;  // in `found`
  int looked_at = 0;
  absl::Status status =
      digests_.Visit({from, 0}, kLastBucket, [&](const BucketId& id, const Bucket& bucket) {
        if (minute != id.minute) {
          minute = id.minute;
          of_minute = 0;
          if ((id.minute + 1) * router::kMinuteMs > newest_ms - kept_ms) return false;
          if (looked_at++ == kMinutesLookedAtMax) {
            look_from_minute_ = id.minute;
            return false;
          }
        }
        if (WallS{bucket.newest_accepted_s} > horizon_s) return true;
        if (found.size() == kExpiryBucketsMax) {
          // A minute is looked at whole, unless it alone has more.
          if (of_minute < found.size()) found.resize(found.size() - of_minute);
          look_from_minute_ = id.minute;
          return false;
        }
        ++of_minute;
        found.push_back({{id.shard, id.minute}, bucket.newest_accepted_s});
        return true;
      });
  // Damage was noted; what the disk fails to give is looked at again.
  if (!status.ok()) found.clear();
  return found;
}

// --- planning ---

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
  // Of a decision that is of whole buckets each bucket is recorded, and there is nothing else.
  if (expire_.only_whole) next_range_ = expire_.ranges.size();
  std::vector<std::pair<int64_t, int64_t>> minutes;
  for (const v1::ExpiredRange& range : expire_.ranges) {
    if (range.shard() >= store_.options_.shards || range.through_s() == 0) continue;
    ranges_[range.shard()].Join(range.from_minute(), range.to_minute(), MarkOf(range));
    minutes.emplace_back(range.from_minute(), range.to_minute());
  }
  std::sort(minutes.begin(), minutes.end());
  for (const auto& [from, to] : minutes) {
    if (ahead_.empty() || from > ahead_.back().second) {
      ahead_.push_back({{from, 0}, to});
    } else {
      ahead_.back().second = std::max(ahead_.back().second, to);
    }
  }
}

void ExpiryPlan::PlanBucket(const BucketId& id, const Bucket& bucket) {
  const auto found = ranges_.find(id.shard);
  if (found == ranges_.end()) return;
  const ExpiredMark mark = found->second.Find(id.minute);
  if (bucket.oldest_accepted_s > mark.through_s) return;  // there is nothing to go
  buckets_.push_back({{id.shard, id.minute}, mark, bucket.digest, {}});
}

absl::Status ExpiryPlan::LookAhead() {
  while (buckets_.empty() && !ahead_.empty()) {
    auto& [from, to] = ahead_.front();
    bool is_whole = true;
    size_t looked_at = 0;
    absl::Status status =
        store_.digests_.Visit(from, {to, 0}, [&](const BucketId& id, const Bucket& bucket) {
          from = id;
          is_whole = buckets_.size() < kPlannedMax && looked_at++ < kLookedAtMax;
          if (is_whole) PlanBucket(id, bucket);
          return is_whole;
        });
    if (!status.ok()) return status;
    if (is_whole) ahead_.pop_front();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<ExpiryStep>> ExpiryPlan::Next() {
  ExpiryStep step;
  step.only_whole = expire_.only_whole;
  size_t keys = 0;
  while (step.buckets.size() < kStepBucketsMax && keys < kStepKeysMax) {
    if (absl::Status status = LookAhead(); !status.ok()) return status;
    if (buckets_.empty()) break;
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
  explicit Expiring(const DigestIndex& index) : digests(index) {}

  std::vector<ExpiredBucket> buckets;
  std::map<BucketId, Bucket> left;    // of each of them
  DigestChange digests;               // to what is left
  std::vector<int64_t> emptied;       // minutes that nothing is left of
  std::map<ShardId, uint64_t> keyed;  // how many events with keys go
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
  expiring.left[{minute, shard}] = left;
  expired.is_empty = left.digest.count == 0;
  if (expired.removed.count > 0) expiring.buckets.push_back(expired);
  return absl::OkStatus();
}

absl::Status Store::StageExpiredBucket(const PlannedBucket& planned, Expiring& expiring,
                                       rocksdb::WriteBatch& batch) const {
  const auto [shard, minute] = planned.bucket;
  const absl::StatusOr<Bucket> bucket = BucketOf(minute, shard);
  if (!bucket.ok()) return bucket.status();
  if (bucket->digest.count == 0) return absl::OkStatus();
  if (bucket->newest_accepted_s > planned.mark.through_s) {
    return StageExpiredPart(planned, expiring, batch);
  }
  absl::StatusOr<std::vector<std::string>> keys = planned.keys;
  if (bucket->digest != planned.digest) keys = KeysOf(minute, shard);
  if (!keys.ok()) return keys.status();
  for (const std::string& key : *keys) batch.Delete(column_families_[kKeyedCf], key);
  expiring.keyed[shard] += keys->size();
  expiring.left[{minute, shard}] = {};
  expiring.buckets.push_back({shard, minute, bucket->digest, true});
  return absl::OkStatus();
}

// One range tombstone for neighbours that go whole, instead of one for each event.
absl::Status Store::StageExpiredLog(Expiring& expiring, rocksdb::WriteBatch& batch) const {
  rocksdb::ColumnFamilyHandle* const log = column_families_[kLogCf];
  std::string begin, end;
  const auto flush = [&] {
    if (!begin.empty()) batch.DeleteRange(log, begin, end);
    begin.clear();
  };
  std::map<int64_t, std::vector<ShardId>> whole;
  for (const auto& [id, left] : expiring.left) {
    if (left.digest.count == 0) whole[id.minute].push_back(id.shard);
  }
  for (const auto& [minute, shards] : whole) {
    size_t held = 0;
    absl::Status status =
        digests_.Visit({minute, 0}, {minute + 1, 0}, [&](const BucketId&, const Bucket&) {
          ++held;
          return true;
        });
    if (!status.ok()) return status;
    if (held == shards.size()) {
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
  return absl::OkStatus();
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
  Expiring expiring(digests_);
  std::vector<v1::ExpiredRange> ranges = step.ranges;
  for (const PlannedBucket& planned : step.buckets) {
    const auto [shard, minute] = planned.bucket;
    // What came since makes it too young.
    const absl::StatusOr<Bucket> bucket = BucketOf(minute, shard);
    if (!bucket.ok()) return bucket.status();
    if (step.only_whole && bucket->newest_accepted_s > planned.mark.through_s) continue;
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
  if (absl::Status status = StageExpiredLog(expiring, batch); !status.ok()) return status;
  for (const auto& [id, left] : expiring.left) {
    const absl::StatusOr<Bucket*> bucket = expiring.digests.Of(id.minute, id.shard);
    if (!bucket.ok()) return bucket.status();
    **bucket = left;
  }
  if (absl::Status status = expiring.digests.Finish(); !status.ok()) return status;
  digests_.StageChange(expiring.digests, batch);
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
    digests_.Apply(expiring->digests, /*is_saved=*/true);
    for (const auto& [shard, count] : expiring->keyed) expired_keyed_[shard] += count;
    for (const auto& [shard, record] : expiring->records) {
      expired_[shard].Replace(record.before, record.now);
    }
  }
  for (const int64_t minute : expiring->emptied) unsaved_.erase(minute);
  view_.Expired(expiring->buckets, expiring->emptied);
  return absl::OkStatus();
}

}  // namespace allezon::replica
