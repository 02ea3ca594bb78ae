// SPDX-License-Identifier: Apache-2.0
//
// What the store gives to peers that pull from it, and what it takes from those it pulls from.
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <array>
#include <functional>
#include <utility>

#include "absl/container/btree_set.h"
#include "absl/strings/str_cat.h"
#include "replica/store.h"
#include "replica/store_internal.h"

namespace allezon::replica {
namespace {

constexpr size_t kIdBytes = std::tuple_size_v<EventId>;
// Of one answer; replica.proto promises them.
constexpr int kIdsMax = 50'000;
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

absl::Status CheckMinutes(const std::vector<int64_t>& minutes) {
  const bool are_ordered =
      std::adjacent_find(minutes.begin(), minutes.end(), std::greater_equal<>()) == minutes.end();
  if (are_ordered && minutes.size() <= kMoreMinutesMax + 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("minutes are in order, each once, and at most ", kMoreMinutesMax, " more"));
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
  return Checked(it->status(), "reading a minute of a shard");
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
                       if (router::IsKeyed(key.event_id)) {
                         response.add_keyed_hashes(ContentHash(value.tag));
                       }
                       return true;
                     });
}

absl::Status Store::ReadEvents(const v1::ReadEventsRequest& request,
                               v1::ReadEventsResponse& response) const {
  response.Clear();
  absl::Status status = CheckRange(request.shard(), request.after_id());
  if (!status.ok()) return status;
  if (!request.ids().empty()) return ReadEventsById(request, response);
  std::vector<int64_t> minutes = {request.minute()};
  minutes.insert(minutes.end(), request.more_minutes().begin(), request.more_minutes().end());
  if (absl::Status s = CheckMinutes(minutes); !s.ok()) return s;
  std::string_view after_id = request.after_id();
  size_t bytes = 0;
  v1::Tag scratch;
  for (const int64_t minute : minutes) {
    absl::Status appended;
    status = VisitBucket(request.shard(), minute, std::exchange(after_id, {}),
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
    if (status.ok()) status = appended;
    if (!status.ok() || response.has_more()) return status;
  }
  return absl::OkStatus();
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
      return Checked(statuses[i], "looking up an event");
    }
  }
  return found;
}

absl::StatusOr<std::vector<Store::Known>> Store::LookUpIds(ShardId shard, int64_t minute,
                                                           std::string_view ids) const {
  std::vector<LogEntry> entries(ids.size() / kIdBytes);
  for (size_t i = 0; i < entries.size(); ++i) {
    entries[i].shard = shard;
    entries[i].minute = minute;
    std::copy_n(ids.data() + i * kIdBytes, kIdBytes, entries[i].id.data());
  }
  return FindKnown(entries);
}

absl::StatusOr<std::string> Store::FindMissing(const replica::FindMissing& find) const {
  const std::string_view ids = find.ids;
  absl::Status status = CheckRange(find.shard, {});
  if (status.ok()) status = CheckIds(ids);
  if (!status.ok()) return status;
  if (find.accepted_s.size() != ids.size() / kIdBytes) {
    return absl::InvalidArgumentError("each id has one time of acceptance");
  }
  const uint32_t expired_through_s = ExpiredThroughS(find.shard, find.minute);
  std::string missing;
  size_t keyed = 0;
  for (size_t at = 0; at < ids.size(); at += kLookupsMax * kIdBytes) {
    const std::string_view some = ids.substr(at, kLookupsMax * kIdBytes);
    const auto known = LookUpIds(find.shard, find.minute, some);
    if (!known.ok()) return known.status();
    for (size_t i = 0; i < known->size(); ++i) {
      const std::string_view id = some.substr(i * kIdBytes, kIdBytes);
      bool is_here = (*known)[i].found;
      if (router::IsKeyed(id)) {
        if (keyed == find.keyed_hashes.size()) {
          return absl::InvalidArgumentError("each id of a key has one content hash");
        }
        // Of two tags with one key the one with the smaller hash stays.
        is_here = is_here && (*known)[i].content_hash <= find.keyed_hashes[keyed];
        ++keyed;
        if (is_here && find.raised) {
          LogEntry wanted;
          wanted.shard = find.shard;
          std::copy_n(id.data(), kIdBytes, wanted.id.data());
          v1::Tag tag;
          std::string value;
          const auto held = ReadKnown(wanted, (*known)[i].minute, value, tag);
          if (!held.ok()) return held.status();
          is_here =
              WallS{held->accepted_s} + RaiseSlackS(absl::ToInt64Seconds(options_.retention)) >=
              WallS{find.accepted_s[at / kIdBytes + i]};
        }
      }
      if (!is_here && find.accepted_s[at / kIdBytes + i] > expired_through_s) missing.append(id);
    }
  }
  return missing;
}

absl::StatusOr<std::shared_ptr<const router::Event>> Store::FindByKey(ShardId shard,
                                                                      const EventId& id) const {
  LogEntry wanted;
  wanted.shard = shard;
  wanted.id = id;
  const absl::StatusOr<std::vector<Known>> known = FindKnown({&wanted, 1});
  if (!known.ok()) return known.status();
  if (!known->front().found) return nullptr;
  auto event = std::make_shared<router::Event>();
  v1::Tag tag;
  std::string value;
  const absl::StatusOr<LogEntry> entry = ReadKnown(wanted, known->front().minute, value, tag);
  if (!entry.ok()) return entry.status();
  event->id = id;
  event->shard = shard;
  event->accepted_s = entry->accepted_s;
  event->time_ms = entry->time_ms;
  event->tag = std::string(entry->tag);
  return event;
}

absl::StatusOr<std::vector<uint32_t>> Store::ReadNewest(
    const v1::ReadNewestRequest& request) const {
  if (request.shards_size() != request.minutes_size() ||
      static_cast<size_t>(request.shards_size()) > kExpiryBucketsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("buckets have a shard and a minute each and are at most ", kExpiryBucketsMax));
  }
  std::vector<uint32_t> newest;
  newest.reserve(static_cast<size_t>(request.shards_size()));
  for (int i = 0; i < request.shards_size(); ++i) {
    if (absl::Status status = CheckRange(request.shards(i), {}); !status.ok()) return status;
    const absl::StatusOr<Bucket> bucket = BucketOf(request.minutes(i), request.shards(i));
    if (!bucket.ok()) return bucket.status();
    newest.push_back(bucket->newest_accepted_s);
  }
  return newest;
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
  std::string joined;
  std::string damaged;
  {
    absl::MutexLock lock(&mutex_);
    joined = joined_;
    damaged = damaged_;
  }
  for (const ShardId shard : shards) {
    if (absl::Status status = CheckRange(shard, {}); !status.ok()) return status;
    joined[shard] = 1;
    damaged[shard] = 0;
  }
  rocksdb::WriteBatch batch;
  batch.Put(column_families_[kMetaCf], kJoinedKey, joined);
  batch.Put(column_families_[kMetaCf], kDamagedKey, damaged);
  if (absl::Status status = Write(batch, options_.sync_wal); !status.ok()) return status;
  absl::MutexLock lock(&mutex_);
  joined_ = std::move(joined);
  damaged_ = std::move(damaged);
  return absl::OkStatus();
}

absl::Status Store::NoteComplete(uint32_t wall_s) {
  if (!HasRoom(options_.disk_reserve_bytes)) return absl::OkStatus();  // an older note is true too
  const rocksdb::Status status =
      db_->Put({}, column_families_[kMetaCf], kCompleteKey, SecondsValue(wall_s));
  if (!status.ok()) return Checked(status, "noting up to when all is here");
  absl::MutexLock lock(&mutex_);
  complete_as_of_s_ = wall_s;
  return absl::OkStatus();
}

DiskRecord Store::record() const {
  absl::MutexLock lock(&mutex_);
  return {{joined_.begin(), joined_.end()}, {damaged_.begin(), damaged_.end()}, complete_as_of_s_};
}

}  // namespace allezon::replica
