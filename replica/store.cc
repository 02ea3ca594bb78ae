// SPDX-License-Identifier: Apache-2.0
#include "replica/store.h"

#include <rocksdb/write_batch.h>

#include <algorithm>
#include <limits>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "replica/store_internal.h"

namespace allezon::replica {

Store::Store(StoreOptions options, View& view) : options_(std::move(options)), view_(view) {}

Store::~Store() { Close(); }

void Store::Close() {
  if (db_ == nullptr) return;
  view_.Close();
  for (rocksdb::ColumnFamilyHandle* handle : column_families_) {
    db_->DestroyColumnFamilyHandle(handle);
  }
  column_families_.clear();
  db_->Close();
  db_.reset();
}

absl::StatusOr<std::vector<bool>> Store::FindKnown(absl::Span<const LogEntry> entries) const {
  const size_t n = entries.size();
  std::vector<std::string> keys(n);
  std::vector<rocksdb::Slice> slices(n);
  std::vector<rocksdb::ColumnFamilyHandle*> families(n);
  for (size_t i = 0; i < n; ++i) {
    // A keyed id is known whatever minute it came with, since the key and the cookie alone say that
    // it is the same tag.
    const std::string_view id = router::AsBytes(entries[i].id);
    const bool keyed = router::IsKeyed(id);
    keys[i] =
        keyed ? KeyedKey(entries[i].shard, id) : LogKey(entries[i].minute, entries[i].shard, id);
    slices[i] = keys[i];
    families[i] = column_families_[keyed ? kKeyedCf : kLogCf];
  }
  std::vector<rocksdb::PinnableSlice> values(n);
  std::vector<rocksdb::Status> statuses(n);
  db_->MultiGet({}, n, families.data(), slices.data(), values.data(), statuses.data());
  std::vector<bool> known(n);
  for (size_t i = 0; i < n; ++i) {
    if (!statuses[i].ok() && !statuses[i].IsNotFound()) {
      return FromRocks(statuses[i], "looking up an event");
    }
    known[i] = statuses[i].ok();
  }
  return known;
}

absl::StatusOr<Store::Staged> Store::Stage(absl::Span<const LogEntry> entries) const {
  absl::StatusOr<std::vector<bool>> known = FindKnown(entries);
  if (!known.ok()) return known.status();
  Staged staged;
  staged.fresh.reserve(entries.size());
  absl::flat_hash_set<std::pair<ShardId, EventId>> in_batch;
  in_batch.reserve(entries.size());
  absl::MutexLock lock(&mutex_);
  for (size_t i = 0; i < entries.size(); ++i) {
    const LogEntry& entry = entries[i];
    if ((*known)[i] || !in_batch.emplace(entry.shard, entry.id).second) continue;
    // What retention took does not come back by a late copy.
    const auto taken = taken_through_s_.find(entry.minute);
    if (taken != taken_through_s_.end() && entry.accepted_s <= taken->second) continue;
    const auto [bucket, first] = staged.buckets.try_emplace({entry.minute, entry.shard});
    if (first) {
      const auto minute = minutes_.find(entry.minute);
      if (minute != minutes_.end()) {
        const auto shard = minute->second.find(entry.shard);
        if (shard != minute->second.end()) bucket->second = shard->second;
      }
    }
    bucket->second.Add(router::AsBytes(entry.id), entry.accepted_s, entry.tag);
    staged.fresh.push_back(entry);
  }
  return staged;
}

absl::Status Store::Commit(absl::Span<const LogEntry> entries) {
  absl::StatusOr<Staged> staged = Stage(entries);
  if (!staged.ok()) return staged.status();
  if (staged->fresh.empty()) return absl::OkStatus();
  rocksdb::WriteBatch batch;
  for (const LogEntry& entry : staged->fresh) {
    const std::string_view id = router::AsBytes(entry.id);
    batch.Put(column_families_[kLogCf], LogKey(entry.minute, entry.shard, id),
              LogValue(entry.accepted_s, entry.tag));
    if (router::IsKeyed(id)) {
      batch.Put(column_families_[kKeyedCf], KeyedKey(entry.shard, id), MinuteKey(entry.minute));
    }
  }
  for (const auto& [key, bucket] : staged->buckets) {
    batch.Put(column_families_[kDigestCf], BucketKey(key.first, key.second), BucketValue(bucket));
  }
  view_.Stage(staged->fresh, batch);
  if (absl::Status status = Write(batch); !status.ok()) return status;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [key, bucket] : staged->buckets) minutes_[key.first][key.second] = bucket;
    event_count_ += staged->fresh.size();
  }
  view_.Committed(staged->fresh);
  return absl::OkStatus();
}

absl::Status Store::Write(rocksdb::WriteBatch& batch) {
  rocksdb::WriteOptions write;
  write.sync = options_.sync_wal;
  const rocksdb::Status status = db_->Write(write, &batch);
  healthy_.store(status.ok(), std::memory_order_relaxed);
  if (status.ok()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("the disk refuses a write: ", status.ToString()));
}

bool Store::Maintain() {
  // RocksDB refuses all writes after one failed; once the cause has gone (room on the disk), it
  // goes on where it was.
  if (!healthy() && db_->Resume().ok()) healthy_.store(true, std::memory_order_relaxed);
  int64_t minute = 0;
  uint32_t taken_through_s = 0;
  if (!healthy() || !MinuteToTake(&minute, &taken_through_s)) return false;
  return TakeMinute(minute, taken_through_s).ok();
}

bool Store::MinuteToTake(int64_t* minute, uint32_t* taken_through_s) const {
  const int64_t newest_ms = NewestTimeMs();
  const int64_t oldest_kept_s = absl::ToUnixSeconds(options_.clock() - options_.retention);
  absl::MutexLock lock(&mutex_);
  for (const auto& [candidate, shards] : minutes_) {
    if ((candidate + 1) * router::kMinuteMs >
        newest_ms - absl::ToInt64Milliseconds(options_.retention)) {
      return false;
    }
    uint32_t newest_accepted_s = 0;
    for (const auto& [shard, bucket] : shards) {
      newest_accepted_s = std::max(newest_accepted_s, bucket.newest_accepted_s);
    }
    if (newest_accepted_s >= oldest_kept_s) continue;
    *minute = candidate;
    *taken_through_s = newest_accepted_s;
    return true;
  }
  return false;
}

absl::Status Store::TakeMinute(int64_t minute, uint32_t taken_through_s) {
  rocksdb::WriteBatch batch;
  std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator({}, column_families_[kLogCf]));
  const std::string end = MinuteKey(minute + 1);
  for (it->Seek(MinuteKey(minute)); it->Valid() && it->key().compare(end) < 0; it->Next()) {
    const auto key = ParseLogKey(it->key().ToStringView());
    if (key && router::IsKeyed(key->event_id)) {
      batch.Delete(column_families_[kKeyedCf], KeyedKey(key->shard, key->event_id));
    }
  }
  if (!it->status().ok()) return FromRocks(it->status(), "reading a minute to take");
  batch.DeleteRange(column_families_[kLogCf], MinuteKey(minute), end);
  batch.DeleteRange(column_families_[kDigestCf], MinuteKey(minute), end);
  batch.Put(column_families_[kTakenCf], MinuteKey(minute), SecondsValue(taken_through_s));
  view_.StageTakeMinute(minute, taken_through_s, batch);
  if (absl::Status status = Write(batch); !status.ok()) return status;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [shard, bucket] : minutes_[minute]) event_count_ -= bucket.digest.count;
    minutes_.erase(minute);
    taken_through_s_[minute] = taken_through_s;
  }
  view_.MinuteTaken(minute, taken_through_s);
  return absl::OkStatus();
}

absl::Status Store::ReadMinute(int64_t minute,
                               const std::function<void(const LogEntry&)>& visit) const {
  std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator({}, column_families_[kLogCf]));
  const std::string end = MinuteKey(minute + 1);
  v1::Tag parsed;
  for (it->Seek(MinuteKey(minute)); it->Valid() && it->key().compare(end) < 0; it->Next()) {
    const auto key = ParseLogKey(it->key().ToStringView());
    const auto value = ParseLogValue(it->value().ToStringView());
    if (!key || !value ||
        !parsed.ParseFromArray(value->tag.data(), static_cast<int>(value->tag.size()))) {
      return absl::DataLossError(
          absl::StrCat("an event of minute ", minute, " in ", options_.path, " cannot be read"));
    }
    LogEntry entry;
    entry.shard = key->shard;
    entry.minute = minute;
    entry.time_ms = parsed.time_ms();
    std::copy(key->event_id.begin(), key->event_id.end(), entry.id.begin());
    entry.accepted_s = value->accepted_s;
    entry.tag = value->tag;
    entry.parsed = &parsed;
    visit(entry);
  }
  return FromRocks(it->status(), "reading a minute");
}

Digest Store::MinuteDigest(int64_t minute) const {
  absl::MutexLock lock(&mutex_);
  Digest sum;
  const auto found = minutes_.find(minute);
  if (found == minutes_.end()) return sum;
  for (const auto& [shard, bucket] : found->second) sum.Add(bucket.digest);
  return sum;
}

std::vector<int64_t> Store::Minutes() const {
  absl::MutexLock lock(&mutex_);
  std::vector<int64_t> minutes;
  minutes.reserve(minutes_.size());
  for (const auto& [minute, shards] : minutes_) minutes.push_back(minute);
  return minutes;
}

uint32_t Store::TakenThroughS(int64_t minute) const {
  absl::MutexLock lock(&mutex_);
  const auto found = taken_through_s_.find(minute);
  return found == taken_through_s_.end() ? 0 : found->second;
}

int64_t Store::NewestTimeMs() const {
  // The newest minute is never taken, so its start is a safe lower bound that needs no record of
  // its own.
  absl::MutexLock lock(&mutex_);
  if (minutes_.empty()) return std::numeric_limits<int64_t>::min();
  return minutes_.rbegin()->first * router::kMinuteMs;
}

Bucket Store::BucketOf(int64_t minute, ShardId shard) const {
  absl::MutexLock lock(&mutex_);
  const auto found = minutes_.find(minute);
  if (found == minutes_.end()) return {};
  const auto bucket = found->second.find(shard);
  return bucket == found->second.end() ? Bucket{} : bucket->second;
}

uint64_t Store::EventCount() const {
  absl::MutexLock lock(&mutex_);
  return event_count_;
}

absl::Status Store::CheckDigests() const {
  for (const int64_t minute : Minutes()) {
    absl::flat_hash_map<ShardId, Bucket> found;
    absl::Status status = ReadMinute(minute, [&](const LogEntry& entry) {
      found[entry.shard].Add(router::AsBytes(entry.id), entry.accepted_s, entry.tag);
    });
    if (!status.ok()) return status;
    absl::MutexLock lock(&mutex_);
    const Shards& recorded = minutes_.at(minute);
    for (const auto& [shard, bucket] : recorded) {
      if (!(found[shard].digest == bucket.digest)) {
        return absl::DataLossError(
            absl::StrCat("log and digest differ in shard ", shard, ", minute ", minute, ": ",
                         found[shard].digest.count, " events, ", bucket.digest.count, " counted"));
      }
    }
    if (found.size() != recorded.size()) {
      return absl::DataLossError(absl::StrCat("minute ", minute, " has events without a digest"));
    }
  }
  return absl::OkStatus();
}

uint64_t Store::Property(const std::string& name) const {
  uint64_t value = 0;
  db_->GetAggregatedIntProperty(name, &value);
  return value;
}

}  // namespace allezon::replica
