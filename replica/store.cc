// SPDX-License-Identifier: Apache-2.0
#include "replica/store.h"

#include <rocksdb/write_batch.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "replica/store_internal.h"
#include "rpc/log.h"

namespace allezon::replica {
namespace {

// A disk that fails again and again must not have the process do nothing but start.
constexpr absl::Duration kReopenPause = absl::Seconds(5);
// What an opening may write: the memtables that it makes of the log.
constexpr uint64_t kReopenBytes = uint64_t{64} << 20;

// About what a write of the entries takes: each goes into the log and the view, with keys.
size_t BytesOf(absl::Span<const LogEntry> entries) {
  constexpr size_t kKeysBytes = 300;
  size_t bytes = 0;
  for (const LogEntry& entry : entries) bytes += 2 * entry.tag.size() + kKeysBytes;
  return bytes;
}

}  // namespace

Store::Store(StoreOptions options, View& view) : options_(std::move(options)), view_(view) {}

Store::~Store() { Close(); }

void Store::Close() {
  if (db_ == nullptr) return;
  view_.Close();
  if (!db_failed_.load()) SaveAllDigests();
  if (db_failed_.load() || Property("rocksdb.background-errors") > 0) {
    // RocksDB cannot end in order after a write that failed half-way. What is durable is; it is
    // left as a crash would leave it, referenced so that it is no leak.
    using Abandoned = std::pair<rocksdb::DB*, std::vector<rocksdb::ColumnFamilyHandle*>>;
    static auto& abandoned = *std::make_unique<std::vector<Abandoned>>().release();
    abandoned.emplace_back(db_.release(), std::exchange(column_families_, {}));
    rpc::LogWarn("the disk refuses writes; left as after a crash", {{"path", options_.path}});
    return;
  }
  for (rocksdb::ColumnFamilyHandle* handle : column_families_) {
    db_->DestroyColumnFamilyHandle(handle);
  }
  column_families_.clear();
  db_->Close();
  db_.reset();
}

absl::StatusOr<std::vector<Store::Known>> Store::FindKnown(
    absl::Span<const LogEntry> entries) const {
  const size_t n = entries.size();
  std::string keys;  // one after the other
  keys.reserve(n * kLogKeyBytes);
  std::vector<rocksdb::Slice> slices(n);
  std::vector<rocksdb::ColumnFamilyHandle*> families(n);
  for (size_t i = 0; i < n; ++i) {
    // A keyed id is known whatever minute it came with, since the key and the cookie alone say that
    // it is the same tag.
    const std::string_view id = router::AsBytes(entries[i].id);
    const bool keyed = router::IsKeyed(id);
    const char* const key = keys.data() + keys.size();
    if (keyed) {
      AppendKeyedKey(entries[i].shard, id, keys);
    } else {
      AppendLogKey(entries[i].minute, entries[i].shard, id, keys);
    }
    slices[i] = {key, static_cast<size_t>(keys.data() + keys.size() - key)};
    families[i] = column_families_[keyed ? kKeyedCf : kLogCf];
  }
  std::vector<rocksdb::PinnableSlice> values(n);
  std::vector<rocksdb::Status> statuses(n);
  db_->MultiGet({}, n, families.data(), slices.data(), values.data(), statuses.data());
  std::vector<Known> known(n);
  for (size_t i = 0; i < n; ++i) {
    if (!statuses[i].ok() && !statuses[i].IsNotFound()) {
      return FromRocks(statuses[i], "looking up an event");
    }
    known[i].found = statuses[i].ok();
    if (!known[i].found || families[i] != column_families_[kKeyedCf]) continue;
    const auto value = ParseKeyedValue(values[i].ToStringView());
    if (!value) return absl::DataLossError("what is known of an idempotency key cannot be read");
    known[i].minute = value->minute;
    known[i].content_hash = value->content_hash;
  }
  return known;
}

absl::StatusOr<Store::Staged> Store::Stage(absl::Span<const LogEntry> entries) const {
  absl::StatusOr<std::vector<Known>> known = FindKnown(entries);
  if (!known.ok()) return known.status();
  Staged staged;
  staged.fresh.reserve(entries.size());
  // Indexes into `fresh`, and which of those come instead of an event that is in the set.
  absl::flat_hash_map<std::pair<ShardId, EventId>, size_t> in_batch;
  in_batch.reserve(entries.size());
  std::vector<std::pair<size_t, int64_t>> replacing;
  {
    absl::MutexLock lock(&mutex_);
    for (size_t i = 0; i < entries.size(); ++i) {
      const LogEntry& entry = entries[i];
      const bool keyed = router::IsKeyed(router::AsBytes(entry.id));
      const bool found = (*known)[i].found;
      if (found && !(keyed && ContentHash(entry.tag) < (*known)[i].content_hash)) continue;
      // What retention took does not come back by a late copy.
      const auto taken = taken_through_s_.find(entry.minute);
      if (taken != taken_through_s_.end() && entry.accepted_s <= taken->second) continue;
      const auto [at, first] = in_batch.try_emplace({entry.shard, entry.id}, staged.fresh.size());
      if (first) {
        if (found) replacing.emplace_back(staged.fresh.size(), (*known)[i].minute);
        staged.fresh.push_back(entry);
      } else if (LogEntry& rival = staged.fresh[at->second];
                 keyed && ContentHash(entry.tag) < ContentHash(rival.tag)) {
        rival = entry;
      }
    }
  }
  for (const auto& [index, minute] : replacing) {
    absl::Status status = StageRemoval(staged.fresh[index], minute, staged);
    if (!status.ok()) return status;
  }
  StageBuckets(staged);
  return staged;
}

absl::Status Store::StageRemoval(const LogEntry& by, int64_t minute, Staged& staged) const {
  auto found = LookUp(by.shard, minute, router::AsBytes(by.id));
  if (!found.ok()) return found.status();
  Removal& removal = staged.removed.emplace_back();
  if ((*found)[0]) removal.value = *std::move((*found)[0]);
  const auto value = ParseLogValue(removal.value);
  if (!value ||
      !removal.tag.ParseFromArray(value->tag.data(), static_cast<int>(value->tag.size()))) {
    return absl::DataLossError(absl::StrCat("an event of minute ", minute, " in ", options_.path,
                                            " is known by its key and cannot be read"));
  }
  removal.entry = {.shard = by.shard,
                   .minute = minute,
                   .time_ms = removal.tag.time_ms(),
                   .id = by.id,
                   .accepted_s = value->accepted_s,
                   .tag = value->tag,
                   .parsed = &removal.tag};
  return absl::OkStatus();
}

void Store::StageBuckets(Staged& staged) const {
  absl::MutexLock lock(&mutex_);
  const auto bucket_of = [&](const LogEntry& entry)
                             ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) -> Bucket& {
    const auto [bucket, first] = staged.buckets.try_emplace({entry.minute, entry.shard});
    if (first) bucket->second = buckets_.Find(entry.minute, entry.shard);
    return bucket->second;
  };
  for (const Removal& removal : staged.removed) {
    bucket_of(removal.entry).Remove(router::AsBytes(removal.entry.id), removal.entry.tag);
  }
  for (const LogEntry& entry : staged.fresh) {
    bucket_of(entry).Add(router::AsBytes(entry.id), entry.accepted_s, entry.tag);
  }
}

absl::Status Store::Commit(absl::Span<const LogEntry> entries) {
  has_room_.store(HasRoom(options_.disk_reserve_bytes));
  if (!has_room_.load()) {
    return absl::UnavailableError(absl::StrCat("less than ", options_.disk_reserve_bytes >> 20,
                                               " MiB are free on the disk of ", options_.path));
  }
  absl::StatusOr<Staged> staged = Stage(entries);
  if (!staged.ok()) return staged.status();
  if (staged->fresh.empty()) return absl::OkStatus();
  rocksdb::WriteBatch batch(BytesOf(staged->fresh));
  // First, since what comes instead may have the same keys.
  std::vector<int64_t> lost_some;
  for (const Removal& removal : staged->removed) {
    const LogEntry& old = removal.entry;
    batch.Delete(column_families_[kLogCf], LogKey(old.minute, old.shard, router::AsBytes(old.id)));
    view_.StageRemove(old, batch);
    lost_some.push_back(old.minute);
  }
  std::string log_key;
  for (const LogEntry& entry : staged->fresh) {
    const std::string_view id = router::AsBytes(entry.id);
    log_key.clear();
    AppendLogKey(entry.minute, entry.shard, id, log_key);
    const std::string accepted = SecondsValue(entry.accepted_s);
    const rocksdb::Slice key(log_key);
    const rocksdb::Slice value[] = {accepted, {entry.tag.data(), entry.tag.size()}};
    batch.Put(column_families_[kLogCf], rocksdb::SliceParts(&key, 1),
              rocksdb::SliceParts(value, std::size(value)));
    if (router::IsKeyed(id)) {
      batch.Put(column_families_[kKeyedCf], KeyedKey(entry.shard, id),
                KeyedValue(entry.minute, ContentHash(entry.tag)));
    }
  }
  MarkUnsaved(*staged, batch);
  view_.Stage(staged->fresh, batch);
  if (absl::Status status = Write(batch, options_.sync_wal); !status.ok()) return status;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [key, bucket] : staged->buckets) buckets_.Set(key.first, key.second, bucket);
  }
  NoteUnsaved(*staged);
  view_.Committed(staged->fresh);
  if (!lost_some.empty()) {
    std::sort(lost_some.begin(), lost_some.end());
    lost_some.erase(std::unique(lost_some.begin(), lost_some.end()), lost_some.end());
    view_.Removed(lost_some);
  }
  return absl::OkStatus();
}

void Store::StageBucket(int64_t minute, ShardId shard, const Bucket& bucket,
                        rocksdb::WriteBatch& batch) const {
  if (bucket.digest.count == 0) {
    batch.Delete(column_families_[kDigestCf], BucketKey(minute, shard));
  } else {
    batch.Put(column_families_[kDigestCf], BucketKey(minute, shard), BucketValue(bucket));
  }
}

bool Store::HasRoom(uint64_t bytes) const {
  struct statvfs disk {};
  // Where the question fails, the write will tell.
  return statvfs(options_.path.c_str(), &disk) != 0 ||
         uint64_t{disk.f_bavail} * disk.f_frsize >= bytes;
}

bool Store::NeedsReopen() const {
  return db_failed_.load() &&
         absl::Now() - absl::FromUnixMicros(db_failed_at_us_.load()) > kReopenPause &&
         HasRoom(std::max(options_.disk_reserve_bytes, kReopenBytes));
}

absl::Status Store::Write(rocksdb::WriteBatch& batch, bool sync) {
  rocksdb::WriteOptions write;
  write.sync = sync;
  const rocksdb::Status status = db_->Write(write, &batch);
  if (status.ok()) return absl::OkStatus();
  if (!db_failed_.load()) {
    db_failed_at_us_.store(absl::ToUnixMicros(absl::Now()));
    db_failed_.store(true);
    rpc::LogError("a write failed, and all will until the data folder is opened anew",
                  {{"path", options_.path}, {"detail", status.ToString()}});
  }
  return absl::UnavailableError(absl::StrCat("the disk refuses a write: ", status.ToString()));
}

absl::Status Store::VisitMinute(int64_t minute, const VisitInMinute& visit) const {
  std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator({}, column_families_[kLogCf]));
  const std::string end = MinuteKey(minute + 1);
  for (it->Seek(MinuteKey(minute)); it->Valid() && it->key().compare(end) < 0; it->Next()) {
    const auto key = ParseLogKey(it->key().ToStringView());
    const auto value = ParseLogValue(it->value().ToStringView());
    if (!key || !value || !visit(*key, *value)) {
      return absl::DataLossError(
          absl::StrCat("an event of minute ", minute, " in ", options_.path, " cannot be read"));
    }
  }
  return FromRocks(it->status(), "reading a minute");
}

absl::Status Store::ReadMinute(int64_t minute,
                               const std::function<void(const LogEntry&)>& visit) const {
  v1::Tag parsed;
  return VisitMinute(minute, [&](const ParsedLogKey& key, const ParsedLogValue& value) {
    if (!parsed.ParseFromArray(value.tag.data(), static_cast<int>(value.tag.size()))) return false;
    LogEntry entry;
    entry.shard = key.shard;
    entry.minute = minute;
    entry.time_ms = parsed.time_ms();
    std::copy(key.event_id.begin(), key.event_id.end(), entry.id.begin());
    entry.accepted_s = value.accepted_s;
    entry.tag = value.tag;
    entry.parsed = &parsed;
    visit(entry);
    return true;
  });
}

Digest Store::MinuteDigest(int64_t minute) const {
  absl::MutexLock lock(&mutex_);
  return buckets_.MinuteDigest(minute);
}

Digest Store::ShardDigest(ShardId shard) const {
  absl::MutexLock lock(&mutex_);
  return buckets_.ShardDigest(shard);
}

Digest Store::HourDigest(ShardId shard, int64_t hour) const {
  absl::MutexLock lock(&mutex_);
  return buckets_.HourDigest(shard, hour);
}

Digest Store::MinuteDigest(ShardId shard, int64_t minute) const {
  return BucketOf(minute, shard).digest;
}

Bucket Store::BucketOf(int64_t minute, ShardId shard) const {
  absl::MutexLock lock(&mutex_);
  return buckets_.Find(minute, shard);
}

uint64_t Store::EventCount() const {
  absl::MutexLock lock(&mutex_);
  return buckets_.event_count();
}

std::vector<int64_t> Store::Minutes() const {
  absl::MutexLock lock(&mutex_);
  std::vector<int64_t> minutes;
  minutes.reserve(buckets_.minutes().size());
  for (const auto& [minute, shards] : buckets_.minutes()) minutes.push_back(minute);
  return minutes;
}

uint32_t Store::TakenThroughS(int64_t minute) const {
  absl::MutexLock lock(&mutex_);
  const auto found = taken_through_s_.find(minute);
  return found == taken_through_s_.end() ? 0 : found->second;
}

int64_t Store::NewestTimeMs() const {
  // This node never takes its newest minute by itself, so the start of that one is a safe lower
  // bound that needs no record of its own. Where it took what a peer took, it may be lower still.
  absl::MutexLock lock(&mutex_);
  if (buckets_.minutes().empty()) return std::numeric_limits<int64_t>::min();
  return buckets_.minutes().rbegin()->first * router::kMinuteMs;
}

uint64_t Store::Property(const std::string& name) const {
  uint64_t value = 0;
  db_->GetAggregatedIntProperty(name, &value);
  return value;
}

}  // namespace allezon::replica
