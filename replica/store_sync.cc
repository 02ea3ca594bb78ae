// SPDX-License-Identifier: Apache-2.0
//
// What the store gives to peers that pull from it, and what it takes from those it pulls from.
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <array>

#include "absl/container/btree_set.h"
#include "absl/strings/str_cat.h"
#include "replica/store.h"
#include "replica/store_internal.h"

namespace allezon::replica {
namespace {

constexpr size_t kIdBytes = std::tuple_size_v<EventId>;
// Of one answer; replica.proto promises them.
constexpr int kIdsMax = 50'000;
constexpr int kTakenMax = 10'000;
constexpr size_t kPageBytesMax = 1 << 20;
// Keys that are looked up at once.
constexpr size_t kLookupsMax = 256;

// Appends the event; its size in bytes, or kDataLoss.
absl::StatusOr<size_t> AppendEvent(ShardId shard, std::string_view id, const ParsedLogValue& value,
                                   v1::Tag& scratch, v1::ReadEventsResponse& response) {
  if (!scratch.ParseFromArray(value.tag.data(), static_cast<int>(value.tag.size()))) {
    return absl::DataLossError(absl::StrCat("an event of shard ", shard, " cannot be read"));
  }
  v1::Event& event = *response.add_events();
  event.set_shard(shard);
  event.set_id(id.data(), id.size());
  event.set_accepted_s(value.accepted_s);
  event.set_time_ms(scratch.time_ms());
  event.set_tag(value.tag.data(), value.tag.size());
  return event.ByteSizeLong();
}

absl::Status CheckIds(std::string_view ids) {
  if (ids.size() % kIdBytes == 0 && ids.size() / kIdBytes <= kIdsMax) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("ids have 16 bytes each and are at most ", kIdsMax));
}

}  // namespace

absl::Status Store::CheckRange(ShardId shard, std::string_view after_id) const {
  if (shard >= options_.shards) {
    return absl::InvalidArgumentError(absl::StrCat("shard ", shard, " does not exist"));
  }
  if (!after_id.empty() && after_id.size() != kIdBytes) {
    return absl::InvalidArgumentError("an event id has 16 bytes");
  }
  return absl::OkStatus();
}

absl::Status Store::VisitBucket(ShardId shard, int64_t minute, std::string_view after_id,
                                const VisitEvent& visit) const {
  std::string begin = LogKey(minute, shard, after_id);
  if (!after_id.empty()) begin.push_back('\0');  // the next key
  const std::string end = BucketKey(minute, shard + 1);
  const rocksdb::Slice end_slice(end);
  rocksdb::ReadOptions options;
  options.iterate_upper_bound = &end_slice;
  options.background_purge_on_iterator_cleanup = true;  // a read deletes no files
  std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options, column_families_[kLogCf]));
  for (it->Seek(begin); it->Valid(); it->Next()) {
    const auto key = ParseLogKey(it->key().ToStringView());
    const auto value = ParseLogValue(it->value().ToStringView());
    if (!key || !value) {
      return absl::DataLossError(absl::StrCat("an event of shard ", shard, ", minute ", minute,
                                              " in ", options_.path, " cannot be read"));
    }
    if (!visit(*key, *value)) return absl::OkStatus();
  }
  return FromRocks(it->status(), "reading a minute of a shard");
}

absl::Status Store::ReadDigests(const v1::ReadDigestsRequest& request,
                                v1::ReadDigestsResponse& response) const {
  response.clear_digests();
  if (request.level() != v1::DIGEST_LEVEL_SHARD && request.level() != v1::DIGEST_LEVEL_HOUR &&
      request.level() != v1::DIGEST_LEVEL_MINUTE) {
    return absl::InvalidArgumentError("digests are by shard, hour or minute");
  }
  const absl::btree_set<ShardId> shards(request.shards().begin(), request.shards().end());
  for (const ShardId shard : shards) {
    if (absl::Status status = CheckRange(shard, {}); !status.ok()) return status;
  }
  absl::MutexLock lock(&mutex_);
  for (const ShardId shard : shards) {
    buckets_.AppendDigests(request.level(), shard, request.hour(), response.mutable_digests());
  }
  return absl::OkStatus();
}

absl::Status Store::ReadIds(const v1::ReadIdsRequest& request,
                            v1::ReadIdsResponse& response) const {
  response.Clear();
  absl::Status status = CheckRange(request.shard(), request.after_id());
  if (!status.ok()) return status;
  std::string& ids = *response.mutable_ids();
  return VisitBucket(request.shard(), request.minute(), request.after_id(),
                     [&](const ParsedLogKey& key, const ParsedLogValue& value) {
                       if (response.accepted_s_size() == kIdsMax) {
                         response.set_has_more(true);
                         return false;
                       }
                       ids.append(key.event_id);
                       response.add_accepted_s(value.accepted_s);
                       return true;
                     });
}

absl::Status Store::ReadEvents(const v1::ReadEventsRequest& request,
                               v1::ReadEventsResponse& response) const {
  response.Clear();
  absl::Status status = CheckRange(request.shard(), request.after_id());
  if (!status.ok()) return status;
  if (!request.ids().empty()) return ReadEventsById(request, response);
  size_t bytes = 0;
  v1::Tag scratch;
  absl::Status appended;
  status = VisitBucket(request.shard(), request.minute(), request.after_id(),
                       [&](const ParsedLogKey& key, const ParsedLogValue& value) {
                         if (bytes >= kPageBytesMax) {
                           response.set_has_more(true);
                           return false;
                         }
                         const auto size =
                             AppendEvent(request.shard(), key.event_id, value, scratch, response);
                         if (!size.ok()) appended = size.status();
                         bytes += size.value_or(0);
                         return size.ok();
                       });
  return status.ok() ? appended : status;
}

absl::Status Store::ReadEventsById(const v1::ReadEventsRequest& request,
                                   v1::ReadEventsResponse& response) const {
  const std::string_view ids = request.ids();
  if (absl::Status status = CheckIds(ids); !status.ok()) return status;
  size_t bytes = 0;
  v1::Tag scratch;
  for (size_t at = 0; at < ids.size(); at += kLookupsMax * kIdBytes) {
    const std::string_view some = ids.substr(at, kLookupsMax * kIdBytes);
    const auto found = LookUp(request.shard(), request.minute(), some);
    if (!found.ok()) return found.status();
    for (size_t i = 0; i < found->size(); ++i) {
      if (!(*found)[i]) continue;
      const auto value = ParseLogValue(*(*found)[i]);
      if (!value) {
        return absl::DataLossError(
            absl::StrCat("an event of shard ", request.shard(), " cannot be read"));
      }
      const std::string_view id = some.substr(i * kIdBytes, kIdBytes);
      const auto size = AppendEvent(request.shard(), id, *value, scratch, response);
      if (!size.ok()) return size.status();
      bytes += *size;
      if (bytes < kPageBytesMax) continue;
      response.set_has_more(at + (i + 1) * kIdBytes < ids.size());
      return absl::OkStatus();
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::optional<std::string>>> Store::LookUp(ShardId shard, int64_t minute,
                                                                      std::string_view ids) const {
  const size_t n = ids.size() / kIdBytes;
  std::vector<std::string> keys(n);
  std::vector<rocksdb::Slice> slices(n);
  for (size_t i = 0; i < n; ++i) {
    keys[i] = LogKey(minute, shard, ids.substr(i * kIdBytes, kIdBytes));
    slices[i] = keys[i];
  }
  std::vector<rocksdb::PinnableSlice> values(n);
  std::vector<rocksdb::Status> statuses(n);
  db_->MultiGet({}, column_families_[kLogCf], n, slices.data(), values.data(), statuses.data());
  std::vector<std::optional<std::string>> found(n);
  for (size_t i = 0; i < n; ++i) {
    if (statuses[i].ok()) {
      found[i] = values[i].ToString();
    } else if (!statuses[i].IsNotFound()) {
      return FromRocks(statuses[i], "looking up an event");
    }
  }
  return found;
}

absl::StatusOr<std::string> Store::FindMissing(ShardId shard, int64_t minute, std::string_view ids,
                                               absl::Span<const uint32_t> accepted_s) const {
  absl::Status status = CheckRange(shard, {});
  if (status.ok()) status = CheckIds(ids);
  if (!status.ok()) return status;
  if (accepted_s.size() != ids.size() / kIdBytes) {
    return absl::InvalidArgumentError("each id has one time of acceptance");
  }
  const uint32_t taken_through_s = TakenThroughS(minute);
  std::string missing;
  std::string keyed_here;
  size_t here = 0;
  for (size_t at = 0; at < ids.size(); at += kLookupsMax * kIdBytes) {
    const std::string_view some = ids.substr(at, kLookupsMax * kIdBytes);
    const auto found = LookUp(shard, minute, some);
    if (!found.ok()) return found.status();
    for (size_t i = 0; i < found->size(); ++i) {
      const std::string_view id = some.substr(i * kIdBytes, kIdBytes);
      here += (*found)[i].has_value();
      if (accepted_s[at / kIdBytes + i] <= taken_through_s) continue;
      if (!(*found)[i]) {
        missing.append(id);
      } else if (router::IsKeyed(id)) {
        keyed_here.append(id);
      }
    }
  }
  // The same ids, and yet the caller found the digests to differ.
  const bool same_ids = here == accepted_s.size() && here == BucketOf(minute, shard).digest.count;
  return same_ids ? keyed_here : missing;
}

absl::Status Store::ReadTaken(const v1::ReadTakenRequest& request,
                              v1::ReadTakenResponse& response) const {
  response.Clear();
  absl::MutexLock lock(&mutex_);
  auto it = request.has_after_minute() ? taken_through_s_.upper_bound(request.after_minute())
                                       : taken_through_s_.begin();
  for (; it != taken_through_s_.end() && response.minutes_size() < kTakenMax; ++it) {
    v1::TakenMinute& taken = *response.add_minutes();
    taken.set_minute(it->first);
    taken.set_taken_through_s(it->second);
  }
  response.set_has_more(it != taken_through_s_.end());
  return absl::OkStatus();
}

absl::Status Store::ReadRows(const v1::ReadRowsRequest& request,
                             v1::ReadRowsResponse& response) const {
  response.Clear();
  if (absl::Status status = CheckRange(request.shard(), {}); !status.ok()) return status;
  std::vector<v1::ViewRow> rows;
  absl::Status status = view_.ReadRows(request.shard(), request.after_key(), kPageBytesMax, &rows,
                                       response.mutable_last_key());
  if (!status.ok()) return status;
  for (v1::ViewRow& row : rows) *response.add_rows() = std::move(row);
  return absl::OkStatus();
}

absl::Status Store::PutRows(ShardId shard, absl::Span<const v1::ViewRow> rows) {
  if (absl::Status status = CheckRange(shard, {}); !status.ok()) return status;
  if (rows.empty()) return absl::OkStatus();
  rocksdb::WriteBatch batch;
  if (absl::Status status = view_.StageRows(shard, rows, batch); !status.ok()) return status;
  return Write(batch, options_.sync_wal);
}

absl::Status Store::RecordJoined(absl::Span<const ShardId> shards) {
  std::string record;
  {
    absl::MutexLock lock(&mutex_);
    record = joined_;
  }
  for (const ShardId shard : shards) {
    if (absl::Status status = CheckRange(shard, {}); !status.ok()) return status;
    record[shard] = 1;
  }
  rocksdb::WriteBatch batch;
  batch.Put(column_families_[kMetaCf], kJoinedKey, record);
  if (absl::Status status = Write(batch, options_.sync_wal); !status.ok()) return status;
  absl::MutexLock lock(&mutex_);
  joined_ = std::move(record);
  return absl::OkStatus();
}

absl::Status Store::NoteComplete(uint32_t wall_s) {
  if (!HasRoom(options_.disk_reserve_bytes)) return absl::OkStatus();  // an older note is true too
  const rocksdb::Status status =
      db_->Put({}, column_families_[kMetaCf], kCompleteKey, SecondsValue(wall_s));
  if (!status.ok()) return FromRocks(status, "noting up to when all is here");
  absl::MutexLock lock(&mutex_);
  complete_as_of_s_ = wall_s;
  return absl::OkStatus();
}

std::vector<bool> Store::joined() const {
  absl::MutexLock lock(&mutex_);
  return {joined_.begin(), joined_.end()};
}

uint32_t Store::complete_as_of_s() const {
  absl::MutexLock lock(&mutex_);
  return complete_as_of_s_;
}

}  // namespace allezon::replica
