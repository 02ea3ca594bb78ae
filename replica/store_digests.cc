// SPDX-License-Identifier: Apache-2.0
//
// The digests on disk. Those of a minute that is being written to change with every commit, and are
// kept in memory; they are saved once the minute has been quiet for a while. Until then a mark says
// that its rows may be behind the log, from which a start makes them anew.
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "replica/store.h"
#include "replica/store_internal.h"

namespace allezon::replica {
namespace {

constexpr absl::Duration kSaveAfter = absl::Seconds(10);
// Bounds what a start makes anew where events come in for many minutes.
constexpr size_t kUnsavedMinutesMax = 1'000;
// One look saves so many at most, so that commits do not wait for long.
constexpr size_t kSavedAtOnceMax = 20;

}  // namespace

absl::Status Store::LoadDigests() {
  std::vector<int64_t> marked;
  {
    absl::MutexLock lock(&mutex_);
    std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator({}, column_families_[kDigestCf]));
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      if (const auto minute = ParseMinuteKey(it->key().ToStringView())) {
        marked.push_back(*minute);
        continue;
      }
      const auto key = ParseBucketKey(it->key().ToStringView());
      const auto bucket = ParseBucketValue(it->value().ToStringView());
      if (!key || !bucket) {
        return absl::DataLossError(
            absl::StrCat("data folder ", options_.path, " has a digest that cannot be read"));
      }
      buckets_.Set(key->minute, key->shard, *bucket);
    }
    if (!it->status().ok()) return Checked(it->status(), "reading digests");
  }
  for (const int64_t minute : marked) {
    if (absl::Status status = RemakeDigests(minute); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<BucketIndex::Shards> Store::BucketsOfLog(int64_t minute) const {
  BucketIndex::Shards buckets;
  absl::Status status =
      VisitMinute(minute, [&](const ParsedLogKey& key, const ParsedLogValue& value) {
        buckets[key.shard].Add(key.event_id, value.accepted_s, value.tag);
        return true;
      });
  if (!status.ok()) return status;
  return buckets;
}

absl::Status Store::RemakeDigests(int64_t minute) {
  const absl::StatusOr<BucketIndex::Shards> remade = BucketsOfLog(minute);
  if (!remade.ok()) return remade.status();
  Unsaved& unsaved = unsaved_[minute];
  unsaved.written = options_.clock();
  absl::MutexLock lock(&mutex_);
  if (const auto found = buckets_.minutes().find(minute); found != buckets_.minutes().end()) {
    for (const auto& [shard, bucket] : found->second) {
      if (!remade->contains(shard)) unsaved.emptied.insert(shard);
    }
  }
  for (const ShardId shard : unsaved.emptied) buckets_.Set(minute, shard, {});
  for (const auto& [shard, bucket] : *remade) buckets_.Set(minute, shard, bucket);
  return absl::OkStatus();
}

void Store::MarkUnsaved(const Staged& staged, rocksdb::WriteBatch& batch) const {
  absl::flat_hash_set<int64_t> marked;
  for (const auto& [key, bucket] : staged.buckets) {
    const int64_t minute = key.first;
    if (unsaved_.contains(minute) || !marked.insert(minute).second) continue;
    batch.Put(column_families_[kDigestCf], MinuteKey(minute), {});
  }
}

void Store::NoteUnsaved(const Staged& staged) {
  const absl::Time now = options_.clock();
  for (const auto& [key, bucket] : staged.buckets) {
    Unsaved& unsaved = unsaved_[key.first];
    unsaved.written = now;
    if (bucket.digest.count == 0) unsaved.emptied.insert(key.second);
  }
  if (unsaved_.size() <= kUnsavedMinutesMax) return;
  // Those that are quiet for longest, all at once: a commit may be of thousands of new minutes.
  std::vector<std::pair<absl::Time, int64_t>> by_age;
  by_age.reserve(unsaved_.size());
  for (const auto& [minute, unsaved] : unsaved_) by_age.emplace_back(unsaved.written, minute);
  const auto end = by_age.begin() + static_cast<ptrdiff_t>(by_age.size() - kUnsavedMinutesMax);
  std::nth_element(by_age.begin(), end, by_age.end());
  std::vector<int64_t> minutes;
  for (auto at = by_age.begin(); at != end; ++at) minutes.push_back(at->second);
  // What the disk refuses stays unsaved.
  SaveDigests(minutes).IgnoreError();
}

bool Store::SaveQuietDigests() {
  const absl::Time quiet_since = options_.clock() - kSaveAfter;
  std::vector<int64_t> quiet;
  for (const auto& [minute, unsaved] : unsaved_) {
    if (unsaved.written <= quiet_since) quiet.push_back(minute);
    if (quiet.size() == kSavedAtOnceMax) break;
  }
  if (!SaveDigests(quiet).ok()) return false;
  return quiet.size() == kSavedAtOnceMax;
}

absl::Status Store::SaveDigests(absl::Span<const int64_t> minutes) {
  if (minutes.empty()) return absl::OkStatus();
  rocksdb::WriteBatch batch;
  for (const int64_t minute : minutes) {
    for (const ShardId shard : unsaved_.at(minute).emptied) StageBucket(minute, shard, {}, batch);
    absl::MutexLock lock(&mutex_);
    if (const auto found = buckets_.minutes().find(minute); found != buckets_.minutes().end()) {
      for (const auto& [shard, bucket] : found->second) StageBucket(minute, shard, bucket, batch);
    }
    batch.Delete(column_families_[kDigestCf], MinuteKey(minute));
  }
  // Without a sync: what is lost with the end of the log is made anew.
  if (absl::Status status = Write(batch, /*sync=*/false); !status.ok()) return status;
  for (const int64_t minute : minutes) unsaved_.erase(minute);
  return absl::OkStatus();
}

void Store::SaveAllDigests() {
  std::vector<int64_t> minutes;
  for (const auto& [minute, unsaved] : unsaved_) minutes.push_back(minute);
  // What the disk refuses is made anew by the next start.
  SaveDigests(minutes).IgnoreError();
}

absl::Status Store::CheckDigests() const {
  return VisitMinutes([this](int64_t minute, const Digest&) -> absl::Status {
    absl::StatusOr<BucketIndex::Shards> found = BucketsOfLog(minute);
    if (!found.ok()) return found.status();
    absl::MutexLock lock(&mutex_);
    const BucketIndex::Shards& recorded = buckets_.minutes().at(minute);
    for (const auto& [shard, bucket] : recorded) {
      if (!((*found)[shard].digest == bucket.digest)) {
        return absl::DataLossError(absl::StrCat(
            "log and digest differ in shard ", shard, ", minute ", minute, ": ",
            (*found)[shard].digest.count, " events, ", bucket.digest.count, " counted"));
      }
    }
    if (found->size() != recorded.size()) {
      return absl::DataLossError(absl::StrCat("minute ", minute, " has events without a digest"));
    }
    return absl::OkStatus();
  });
}

}  // namespace allezon::replica
