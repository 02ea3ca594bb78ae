// SPDX-License-Identifier: Apache-2.0
//
// When digests are saved. Those of a minute that is being written to change with every commit, and
// are kept in memory; they are saved once the minute has been quiet for a while. Until then a mark
// says that its rows may be behind the log, from which a start makes them anew.
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "absl/container/btree_set.h"
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
  digests_.Open(db_.get(), column_families_[kDigestCf], column_families_[kHoursCf],
                [this](const rocksdb::Status& status, std::string_view what) {
                  return Checked(status, what);
                });
  // Of a log that ends too early hours may be ahead.
  const absl::StatusOr<std::vector<int64_t>> marked =
      digests_.Load(lacks_hours_ || mark_.has_value());
  if (!marked.ok()) {
    return absl::Status(marked.status().code(), absl::StrCat("data folder ", options_.path, ": ",
                                                             marked.status().message()));
  }
  absl::btree_set<int64_t> hours;
  for (const int64_t minute : *marked) {
    if (absl::Status status = RemakeDigests(minute); !status.ok()) return status;
    hours.insert(HourOf(minute));
  }
  for (const int64_t hour : hours) {
    if (absl::Status s = digests_.RemakeHour(hour, options_.shards); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::StatusOr<Store::Buckets> Store::BucketsOfLog(int64_t minute) const {
  Buckets buckets;
  absl::Status status =
      VisitMinute(minute, [&](const ParsedLogKey& key, const ParsedLogValue& value) {
        buckets[key.shard].Add(key.event_id, value.accepted_s, value.tag);
        return true;
      });
  if (!status.ok()) return status;
  return buckets;
}

absl::Status Store::RemakeDigests(int64_t minute) {
  absl::StatusOr<Buckets> remade = BucketsOfLog(minute);
  if (!remade.ok()) return remade.status();
  absl::Status status =
      digests_.Visit({minute, 0}, {minute + 1, 0}, [&](const BucketId& id, const Bucket&) {
        remade->try_emplace(id.shard);  // where the log has nothing of it, nothing is to be left
        return true;
      });
  if (!status.ok()) return status;
  DigestChange change(digests_);
  for (const auto& [shard, bucket] : *remade) {
    const absl::StatusOr<Bucket*> changed = change.Of(minute, shard);
    if (!changed.ok()) return changed.status();
    **changed = bucket;
  }
  if (status = change.Finish(); !status.ok()) return status;
  digests_.Apply(change, /*is_saved=*/false);
  unsaved_[minute] = options_.clock();
  return absl::OkStatus();
}

void Store::MarkUnsaved(const DigestChange& change, rocksdb::WriteBatch& batch) const {
  std::optional<int64_t> last;
  for (const auto& [id, bucket] : change.buckets()) {
    if (last == id.minute) continue;
    last = id.minute;
    if (unsaved_.contains(id.minute)) continue;
    batch.Put(column_families_[kDigestCf], MinuteKey(id.minute), {});
  }
}

void Store::NoteUnsaved(const DigestChange& change) {
  const absl::Time now = options_.clock();
  for (const auto& [id, bucket] : change.buckets()) unsaved_[id.minute] = now;
  if (unsaved_.size() <= kUnsavedMinutesMax) return;
  // Those that are quiet for longest, all at once: a commit may be of thousands of new minutes.
  std::vector<std::pair<absl::Time, int64_t>> by_age;
  by_age.reserve(unsaved_.size());
  for (const auto& [minute, written] : unsaved_) by_age.emplace_back(written, minute);
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
  for (const auto& [minute, written] : unsaved_) {
    if (written <= quiet_since) quiet.push_back(minute);
    if (quiet.size() == kSavedAtOnceMax) break;
  }
  if (!SaveDigests(quiet).ok()) return false;
  return quiet.size() == kSavedAtOnceMax;
}

absl::Status Store::SaveDigests(absl::Span<const int64_t> minutes) {
  if (minutes.empty()) return absl::OkStatus();
  rocksdb::WriteBatch batch;
  for (const int64_t minute : minutes) {
    digests_.Stage(minute, batch);
    batch.Delete(column_families_[kDigestCf], MinuteKey(minute));
  }
  // Without a sync: what is lost with the end of the log is made anew.
  if (absl::Status status = Write(batch, /*sync=*/false); !status.ok()) return status;
  for (const int64_t minute : minutes) {
    digests_.Saved(minute);
    unsaved_.erase(minute);
  }
  return absl::OkStatus();
}

void Store::SaveAllDigests() {
  std::vector<int64_t> minutes;
  for (const auto& [minute, written] : unsaved_) minutes.push_back(minute);
  // What the disk refuses is made anew by the next start.
  SaveDigests(minutes).IgnoreError();
}

absl::Status Store::CheckDigests() const {
  std::map<ShardId, Digest> shards;
  std::map<HourId, Digest> hours;
  absl::Status status = VisitMinutes([&](int64_t minute, const Digest&) -> absl::Status {
    absl::StatusOr<Buckets> found = BucketsOfLog(minute);
    if (!found.ok()) return found.status();
    std::string differs;
    absl::Status visited =
        digests_.Visit({minute, 0}, {minute + 1, 0}, [&](const BucketId& id, const Bucket& bucket) {
          const Digest log = (*found)[id.shard].digest;
          if (log != bucket.digest) {
            differs = absl::StrCat("log and digest differ in shard ", id.shard, ", minute ", minute,
                                   ": ", log.count, " events, ", bucket.digest.count, " counted");
          }
          shards[id.shard].Add(log);
          hours[{id.shard, HourOf(minute)}].Add(log);
          found->erase(id.shard);
          return differs.empty();
        });
    if (!visited.ok()) return visited;
    if (!differs.empty()) return absl::DataLossError(differs);
    if (found->empty()) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat("minute ", minute, " has events without a digest"));
  });
  for (const auto& [shard, digest] : shards) {
    if (status.ok() && digests_.ShardDigest(shard) != digest) {
      status = absl::DataLossError(absl::StrCat("the digest of shard ", shard, " is no sum"));
    }
  }
  for (ShardId shard = 0; status.ok() && shard < options_.shards; ++shard) {
    DigestIndex::SetDigests told;
    status = digests_.AppendHours(shard, std::nullopt, std::numeric_limits<size_t>::max(), told);
    for (const v1::SetDigest& hour : told) {
      const auto sum = hours.find({shard, hour.start()});
      if (sum != hours.end() && sum->second.count == hour.count() &&
          absl::Uint128Low64(sum->second.sum) == hour.sum_low()) {
        hours.erase(sum);
      } else if (status.ok()) {
        status = absl::DataLossError(
            absl::StrCat("the digest of hour ", hour.start(), " of shard ", shard, " is no sum"));
      }
    }
  }
  if (!status.ok() || hours.empty()) return status;
  return absl::DataLossError(absl::StrCat("hour ", hours.begin()->first.hour, " of shard ",
                                          hours.begin()->first.shard, " has no digest"));
}

}  // namespace allezon::replica
