// SPDX-License-Identifier: Apache-2.0
#include "replica/digest_index.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"

namespace allezon::replica {
namespace {

using router::ShardId;

// Of the bytes; most sets have one hour for sixty minutes.
constexpr size_t kHoursShare = 8;
// Rows of hours that are written at once when they are made.
constexpr uint32_t kHoursBatch = 1'000;
constexpr int64_t kFirst = std::numeric_limits<int64_t>::min();
constexpr int64_t kLast = std::numeric_limits<int64_t>::max();

v1::SetDigest& Append(ShardId shard, int64_t start, const Digest& digest,
                      DigestIndex::SetDigests& digests) {
  v1::SetDigest& added = *digests.Add();
  added.set_shard(shard);
  added.set_start(start);
  added.set_count(digest.count);
  added.set_sum_low(absl::Uint128Low64(digest.sum));
  added.set_sum_high(absl::Uint128High64(digest.sum));
  return added;
}

// Replaces `before` by `after` in a sum.
void Shift(const Digest& before, const Digest& after, Digest& sum) {
  sum.Remove(before);
  sum.Add(after);
}

// Sums of hours as buckets come by in order, written whenever there are many.
class HourMaker {
 public:
  HourMaker(rocksdb::DB& db, rocksdb::ColumnFamilyHandle* family) : db_(db), family_(family) {}

  rocksdb::Status Add(const BucketId& id, const Digest& digest) {
    if (HourOf(id.minute) != hour_) {
      if (const auto s = End(); !s.ok()) return s;
      hour_ = HourOf(id.minute);
    }
    sums_[id.shard].Add(digest);
    return rocksdb::Status::OK();
  }
  // Also of the last one.
  rocksdb::Status End() {
    for (const auto& [shard, sum] : sums_) {
      batch_.Put(family_, HourKey(shard, *hour_), DigestValue(sum));
    }
    sums_.clear();
    if (batch_.Count() < kHoursBatch) return rocksdb::Status::OK();
    return Write();
  }
  rocksdb::Status Write() {
    const rocksdb::Status status = db_.Write({}, &batch_);
    batch_.Clear();
    return status;
  }

 private:
  rocksdb::DB& db_;
  rocksdb::ColumnFamilyHandle* const family_;
  std::optional<int64_t> hour_;
  absl::btree_map<ShardId, Digest> sums_;
  rocksdb::WriteBatch batch_;
};

}  // namespace

DigestIndex::DigestIndex(size_t bytes_max)
    : buckets_(bytes_max - bytes_max / kHoursShare), hours_(bytes_max / kHoursShare) {}

void DigestIndex::Open(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* buckets,
                       rocksdb::ColumnFamilyHandle* hours, SpilledMap<BucketRows>::Check check) {
  db_ = db;
  buckets_family_ = buckets;
  hours_family_ = hours;
  check_ = check;
  buckets_.Open(db, buckets, check);
  hours_.Open(db, hours, std::move(check));
}

absl::StatusOr<std::vector<int64_t>> DigestIndex::Load(bool make_hours) {
  std::vector<int64_t> marked;
  HourMaker hours(*db_, hours_family_);
  if (make_hours) {
    // What is there may be of a making that broke off.
    const std::string begin = HourKey(0, kFirst);
    const std::string end(begin.size() + 1, '\xff');
    const auto s = db_->DeleteRange({}, hours_family_, begin, end);
    if (!s.ok()) return check_(s, "making digests of hours");
  }
  std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator({}, buckets_family_));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    if (const auto minute = ParseMinuteKey(it->key().ToStringView())) {
      marked.push_back(*minute);
      continue;
    }
    const auto id = ParseBucketKey(it->key().ToStringView());
    const auto bucket = ParseBucketValue(it->value().ToStringView());
    if (!id || !bucket) return absl::DataLossError("a digest cannot be read");
    buckets_.Loaded(*id, *bucket);
    if (make_hours) {
      if (const auto s = hours.Add(*id, bucket->digest); !s.ok()) return check_(s, "digests");
    }
    absl::MutexLock lock(&mutex_);
    shards_[id->shard].Add(bucket->digest);
    event_count_ += bucket->digest.count;
    newest_minute_ = id->minute;
  }
  if (!it->status().ok()) return check_(it->status(), "reading digests");
  if (make_hours) {
    rocksdb::Status s = hours.End();
    if (s.ok()) s = hours.Write();
    if (!s.ok()) return check_(s, "making digests of hours");
  }
  if (absl::Status status = LoadHours(); !status.ok()) return status;
  return marked;
}

absl::Status DigestIndex::LoadHours() {
  std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator({}, hours_family_));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const auto id = ParseHourKey(it->key().ToStringView());
    const auto digest = ParseDigestValue(it->value().ToStringView());
    if (!id || !digest) return absl::DataLossError("a digest of an hour cannot be read");
    hours_.Loaded(*id, *digest);
  }
  return check_(it->status(), "reading digests of hours");
}

absl::Status DigestIndex::RemakeHour(int64_t hour, uint32_t shards) {
  std::vector<Digest> sums(shards);
  absl::Status status =
      Visit({hour * 60, 0}, {hour * 60 + 60, 0}, [&](const BucketId& id, const Bucket& bucket) {
        if (id.shard < shards) sums[id.shard].Add(bucket.digest);
        return true;
      });
  for (ShardId shard = 0; status.ok() && shard < shards; ++shard) {
    const absl::StatusOr<Digest> before = hours_.Find({shard, hour});
    status = before.status();
    if (!status.ok() || *before == sums[shard]) continue;
    hours_.Set({shard, hour}, *before, sums[shard], /*is_stored=*/false);
    unsaved_hours_[hour].insert(shard);
  }
  return status;
}

absl::StatusOr<Bucket> DigestIndex::Find(int64_t minute, ShardId shard) const {
  return buckets_.Find({minute, shard});
}

Digest DigestIndex::ShardDigest(ShardId shard) const {
  absl::MutexLock lock(&mutex_);
  const auto found = shards_.find(shard);
  return found == shards_.end() ? Digest() : found->second;
}

absl::StatusOr<Digest> DigestIndex::HourDigest(ShardId shard, int64_t hour) const {
  return hours_.Find({shard, hour});
}

absl::StatusOr<Digest> DigestIndex::MinuteDigest(int64_t minute) const {
  Digest sum;
  absl::Status status =
      Visit({minute, 0}, {minute + 1, 0}, [&](const BucketId&, const Bucket& bucket) {
        sum.Add(bucket.digest);
        return true;
      });
  if (!status.ok()) return status;
  return sum;
}

uint64_t DigestIndex::event_count() const {
  absl::MutexLock lock(&mutex_);
  return event_count_;
}

absl::StatusOr<std::optional<int64_t>> DigestIndex::NewestMinute() const {
  uint64_t applied = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (newest_minute_ || event_count_ == 0) return newest_minute_;
    applied = applied_;
  }
  const absl::StatusOr<std::optional<BucketId>> last = buckets_.Last();
  if (!last.ok()) return last.status();
  if (!*last) return std::nullopt;
  absl::MutexLock lock(&mutex_);
  if (applied_ == applied) newest_minute_ = (*last)->minute;
  return (*last)->minute;
}

absl::Status DigestIndex::Visit(
    const BucketId& from, const BucketId& to,
    absl::FunctionRef<bool(const BucketId&, const Bucket&)> visit) const {
  SpilledMap<BucketRows>::Cursor at(buckets_);
  for (bool there = at.Seek(from); there && at.key() < to; there = at.Next()) {
    if (!visit(at.key(), at.value())) break;
  }
  return at.status();
}

void DigestIndex::AppendShard(ShardId shard, SetDigests& digests) const {
  if (const Digest digest = ShardDigest(shard); digest.count > 0) Append(shard, 0, digest, digests);
}

absl::Status DigestIndex::AppendHours(ShardId shard, std::optional<int64_t> after, size_t most,
                                      SetDigests& digests) const {
  if (after == kLast) return absl::OkStatus();
  SpilledMap<HourRows>::Cursor at(hours_);
  bool there = most > 0 && at.Seek({shard, after ? *after + 1 : kFirst});
  for (; there && at.key().shard == shard; there = most > 0 && at.Next()) {
    Append(shard, at.key().hour, at.value(), digests);
    --most;
  }
  return at.status();
}

absl::Status DigestIndex::AppendMinutes(ShardId shard, int64_t hour, std::optional<int64_t> after,
                                        size_t most, SetDigests& digests) const {
  const absl::StatusOr<Digest> sum = hours_.Find({shard, hour});
  if (!sum.ok()) return sum.status();
  // Of many hours that are asked for, most may hold nothing of this shard.
  uint64_t left = sum->count;
  if (left == 0 || after == kLast) return absl::OkStatus();
  SpilledMap<BucketRows>::Cursor at(buckets_);
  const int64_t from = std::max(hour * 60, after ? *after + 1 : kFirst);
  bool there = most > 0 && at.Seek({from, shard});
  while (there && at.key().minute < hour * 60 + 60) {
    const int64_t minute = at.key().minute;
    if (at.key().shard < shard) {
      there = at.Seek({minute, shard});
      continue;
    }
    if (at.key().shard == shard) {
      Append(shard, minute, at.value().digest, digests)
          .set_newest_accepted_s(at.value().newest_accepted_s);
      left -= std::min(left, at.value().digest.count);
      if (--most == 0 || left == 0) break;
    }
    there = at.Seek({minute + 1, shard});
  }
  return at.status();
}

// --- changes ---

absl::StatusOr<Bucket*> DigestChange::Of(int64_t minute, ShardId shard) {
  const auto [found, is_new] = buckets_.try_emplace({minute, shard});
  if (is_new) {
    const absl::StatusOr<Bucket> before = index_->buckets_.Find({minute, shard});
    if (!before.ok()) return before.status();
    found->second = {*before, *before};
  }
  return &found->second.after;
}

absl::Status DigestChange::Finish() {
  for (const auto& [id, bucket] : buckets_) {
    const auto [hour, is_new] = hours_.try_emplace({id.shard, HourOf(id.minute)});
    if (is_new) {
      const absl::StatusOr<Digest> before = index_->hours_.Find(hour->first);
      if (!before.ok()) return before.status();
      hour->second = {*before, *before};
    }
    Shift(bucket.before.digest, bucket.after.digest, hour->second.after);
  }
  return absl::OkStatus();
}

void DigestIndex::Apply(const DigestChange& change, bool is_saved) {
  for (const auto& [id, hour] : change.hours_) {
    hours_.Set(id, hour.before, hour.after, is_saved);
    if (is_saved) continue;
    unsaved_hours_[id.hour].insert(id.shard);
  }
  for (const auto& [id, bucket] : change.buckets_) {
    buckets_.Set(id, bucket.before, bucket.after, is_saved);
  }
  absl::MutexLock lock(&mutex_);
  ++applied_;
  bool is_newest_emptied = false;
  for (const auto& [id, bucket] : change.buckets_) {
    Shift(bucket.before.digest, bucket.after.digest, shards_[id.shard]);
    event_count_ += bucket.after.digest.count - bucket.before.digest.count;
    if (bucket.after.digest.count == 0) {
      is_newest_emptied = is_newest_emptied || newest_minute_ == id.minute;
    } else if (newest_minute_) {
      newest_minute_ = std::max(*newest_minute_, id.minute);
    }
  }
  if (is_newest_emptied) newest_minute_.reset();
}

void DigestIndex::StageChange(const DigestChange& change, rocksdb::WriteBatch& batch) const {
  for (const auto& [id, bucket] : change.buckets_) buckets_.StageRow(id, bucket.after, batch);
  for (const auto& [id, hour] : change.hours_) hours_.StageRow(id, hour.after, batch);
}

void DigestIndex::Stage(int64_t minute, rocksdb::WriteBatch& batch) const {
  buckets_.Stage({minute, 0}, {minute + 1, 0}, batch);
  const auto unsaved = unsaved_hours_.find(HourOf(minute));
  if (unsaved == unsaved_hours_.end()) return;
  for (const ShardId shard : unsaved->second) {
    hours_.Stage({shard, unsaved->first}, {shard, unsaved->first + 1}, batch);
  }
}

void DigestIndex::Saved(int64_t minute) {
  buckets_.Stored({minute, 0}, {minute + 1, 0});
  const auto unsaved = unsaved_hours_.find(HourOf(minute));
  if (unsaved == unsaved_hours_.end()) return;
  for (const ShardId shard : unsaved->second) {
    hours_.Stored({shard, unsaved->first}, {shard, unsaved->first + 1});
  }
  unsaved_hours_.erase(unsaved);
}

}  // namespace allezon::replica
