// SPDX-License-Identifier: Apache-2.0
//
// What the store takes away: minutes that retention allows, and those that a peer took.
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "replica/store.h"
#include "replica/store_internal.h"
#include "rpc/log.h"

namespace allezon::replica {
namespace {

// A minute is taken when its newest event is older than the retention and this share of it more.
// Copies of one keyed event may carry acceptances that differ by what a client waits between its
// tries; up to the margin they are all covered by what is recorded as taken, on every replica.
constexpr int kMarginDivisor = 24;

// What is looked up ahead at a time ends with the minute that reaches one of these.
constexpr size_t kDoomedMinutesMax = 32;
constexpr uint64_t kDoomedEventsMax = 100'000;
// And it is looked for in so many minutes at a time, for which commits wait.
constexpr int kMinutesLookedAtMax = 1'000;
// What is taken at once ends with the minute by which it has so many idempotency keys.
constexpr size_t kKeysInStepMax = 1'000;

}  // namespace

bool Store::Maintain() {
  has_room_.store(HasRoom(options_.disk_reserve_bytes));  // also while nothing is committed
  if (db_failed_.load()) return false;
  const bool more = SaveQuietDigests();
  return TakeDoomed() || more;
}

void Store::LookAhead() {
  for (Doomed& doomed : FindDoomed()) {
    const absl::Status status =
        VisitMinute(doomed.minute, [&](const ParsedLogKey& key, const ParsedLogValue&) {
          if (router::IsKeyed(key.event_id)) {
            doomed.keys.push_back(KeyedKey(key.shard, key.event_id));
          }
          return true;
        });
    if (!status.ok()) {
      rpc::LogWarn("a minute cannot be read, and stays",
                   {{"minute", doomed.minute}, {"detail", std::string(status.message())}});
      continue;
    }
    absl::MutexLock lock(&mutex_);
    doomed_.push_back(std::move(doomed));
  }
}

std::vector<Store::Doomed> Store::FindDoomed() {
  const absl::Time oldest_kept = options_.clock() - options_.retention;
  const int64_t oldest_left_s =
      absl::ToUnixSeconds(oldest_kept - options_.retention / kMarginDivisor);
  std::vector<Doomed> found;
  uint64_t events = 0;
  absl::MutexLock lock(&mutex_);
  const auto& minutes = buckets_.minutes();
  // One batch after the other, so that what was found is still so when its turn comes.
  if (!doomed_.empty() || minutes.empty()) return found;
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
    if (looked_at == kMinutesLookedAtMax || found.size() == kDoomedMinutesMax ||
        events >= kDoomedEventsMax) {
      look_from_minute_ = minute;
      break;
    }
    Digest digest;
    uint32_t newest_accepted_s = 0;
    for (const auto& [shard, bucket] : shards) {
      digest.Add(bucket.digest);
      newest_accepted_s = std::max(newest_accepted_s, bucket.newest_accepted_s);
    }
    if (newest_accepted_s >= oldest_left_s) continue;
    events += digest.count;
    // It is above the newest acceptance, and fits: it is between that and now.
    const auto through_s = static_cast<uint32_t>(absl::ToUnixSeconds(oldest_kept));
    found.push_back({minute, through_s, digest, {}});
  }
  return found;
}

bool Store::TakeDoomed() {
  bool more = false;
  const std::vector<Doomed> doomed = NextDoomed(more);
  rocksdb::WriteBatch batch;
  std::vector<Taking> taken;
  for (const Doomed& minute : doomed) {
    // What came since makes it too young.
    if (MinuteDigest(minute.minute) != minute.digest) continue;
    absl::StatusOr<Taking> taking = StageTake(minute.minute, minute.through_s, &minute.keys, batch);
    if (taking.ok()) taken.push_back(*std::move(taking));
  }
  // What fails is told by healthy(), and found again.
  return (taken.empty() || WriteTaken(taken, batch).ok()) && more;
}

std::vector<Store::Doomed> Store::NextDoomed(bool& more) {
  std::vector<Doomed> next;
  size_t keys = 0;
  absl::MutexLock lock(&mutex_);
  while (!doomed_.empty() && keys < kKeysInStepMax) {
    keys += doomed_.front().keys.size();
    next.push_back(std::move(doomed_.front()));
    doomed_.pop_front();
  }
  more = !doomed_.empty();
  return next;
}

absl::Status Store::TakeMinute(int64_t minute, uint32_t taken_through_s) {
  rocksdb::WriteBatch batch;
  absl::StatusOr<Taking> taking = StageTake(minute, taken_through_s, /*keys=*/nullptr, batch);
  if (!taking.ok()) return taking.status();
  return WriteTaken({&*taking, 1}, batch);
}

absl::Status Store::AdoptTaken(absl::Span<const v1::TakenMinute> minutes) {
  const int64_t oldest_kept_s = absl::ToUnixSeconds(options_.clock() - options_.retention);
  // Most are minutes of which nothing is here: those go with one write.
  rocksdb::WriteBatch records;
  std::vector<Taking> recorded;
  for (const v1::TakenMinute& taken : minutes) {
    const uint32_t through_s = taken.taken_through_s();
    if (through_s <= TakenThroughS(taken.minute()) || through_s > oldest_kept_s) continue;
    if (MinuteDigest(taken.minute()).count > 0) {
      absl::Status status = TakeMinute(taken.minute(), through_s);
      if (!status.ok()) return status;
      continue;
    }
    absl::StatusOr<Taking> taking = StageTake(taken.minute(), through_s, /*keys=*/nullptr, records);
    if (!taking.ok()) return taking.status();
    recorded.push_back(*std::move(taking));
  }
  return recorded.empty() ? absl::OkStatus() : WriteTaken(recorded, records);
}

absl::StatusOr<Store::Taking> Store::StageTake(int64_t minute, uint32_t through_s,
                                               const std::vector<std::string>* keys,
                                               rocksdb::WriteBatch& batch) const {
  Taking taking{minute, std::max(through_s, TakenThroughS(minute)), {}, false};
  bool takes_all = true;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = buckets_.minutes().find(minute);
    if (found != buckets_.minutes().end()) {
      for (const auto& [shard, bucket] : found->second) {
        taking.buckets.try_emplace(shard);
        takes_all = takes_all && bucket.newest_accepted_s <= taking.through_s;
      }
    }
  }
  if (keys != nullptr && takes_all) {
    for (const std::string& key : *keys) batch.Delete(column_families_[kKeyedCf], key);
    StageTakeWhole(taking, batch);
  } else if (!taking.buckets.empty()) {
    absl::Status status = StageTakeEvents(taking, takes_all, batch);
    if (!status.ok()) return status;
  }
  batch.Put(column_families_[kTakenCf], MinuteKey(minute), SecondsValue(taking.through_s));
  view_.StageTakeMinute(minute, taking.through_s, batch);
  return taking;
}

absl::Status Store::StageTakeEvents(Taking& taking, bool takes_all,
                                    rocksdb::WriteBatch& batch) const {
  absl::Status status =
      VisitMinute(taking.minute, [&](const ParsedLogKey& key, const ParsedLogValue& value) {
        if (value.accepted_s > taking.through_s) {
          taking.buckets[key.shard].Add(key.event_id, value.accepted_s, value.tag);
          return true;
        }
        if (!takes_all) {
          batch.Delete(column_families_[kLogCf], LogKey(taking.minute, key.shard, key.event_id));
        }
        if (router::IsKeyed(key.event_id)) {
          batch.Delete(column_families_[kKeyedCf], KeyedKey(key.shard, key.event_id));
        }
        return true;
      });
  if (!status.ok()) return status;
  if (takes_all) {
    StageTakeWhole(taking, batch);
    return absl::OkStatus();
  }
  for (const auto& [shard, bucket] : taking.buckets) {
    StageBucket(taking.minute, shard, bucket, batch);
  }
  return absl::OkStatus();
}

void Store::StageTakeWhole(Taking& taking, rocksdb::WriteBatch& batch) const {
  // One range tombstone instead of one for each event. That of the digests takes a mark too.
  const std::string begin = MinuteKey(taking.minute), end = MinuteKey(taking.minute + 1);
  batch.DeleteRange(column_families_[kLogCf], begin, end);
  batch.DeleteRange(column_families_[kDigestCf], begin, end);
  taking.all = true;
}

absl::Status Store::WriteTaken(absl::Span<const Taking> taken, rocksdb::WriteBatch& batch) {
  if (absl::Status status = Write(batch, options_.sync_wal); !status.ok()) return status;
  {
    absl::MutexLock lock(&mutex_);
    for (const Taking& taking : taken) {
      for (const auto& [shard, bucket] : taking.buckets) {
        buckets_.Set(taking.minute, shard, bucket);
      }
      taken_through_s_[taking.minute] = taking.through_s;
    }
  }
  for (const Taking& taking : taken) {
    if (taking.all) unsaved_.erase(taking.minute);
    view_.MinuteTaken(taking.minute, taking.through_s);
  }
  return absl::OkStatus();
}

}  // namespace allezon::replica
