// SPDX-License-Identifier: Apache-2.0
#include "replica/store.h"

#include <rocksdb/write_batch.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "replica/core/agreed_clock.h"
#include "replica/store_internal.h"
#include "rpc/log.h"

namespace allezon::replica {
namespace {

// A disk that fails again and again must not have the process do nothing but start.
constexpr absl::Duration kReopenPause = absl::Seconds(5);
// What an opening may write: the memtables that it makes of the log.
constexpr uint64_t kReopenBytes = uint64_t{64} << 20;

// What a peer's digest never is: what cannot be read is taken for another set, so that a sync looks
// closer, and meets the error where it can say so.
constexpr Digest kUnreadable{std::numeric_limits<uint64_t>::max(), 0};

// About what a write of the entries takes: each goes into the log and the view, with keys.
size_t BytesOf(absl::Span<const LogEntry> entries) {
  constexpr size_t kKeysBytes = 300;
  size_t bytes = 0;
  for (const LogEntry& entry : entries) bytes += 2 * entry.tag.size() + kKeysBytes;
  return bytes;
}

// Gives an entry of the log to `visit`; false where its tag cannot be read.
bool Give(const ParsedLogKey& key, const ParsedLogValue& value, v1::Tag& parsed,
          const std::function<void(const LogEntry&)>& visit) {
  if (!parsed.ParseFromArray(value.tag.data(), static_cast<int>(value.tag.size()))) return false;
  LogEntry entry;
  entry.shard = key.shard;
  entry.minute = key.minute;
  entry.time_ms = parsed.time_ms();
  std::copy(key.event_id.begin(), key.event_id.end(), entry.id.begin());
  entry.accepted_s = value.accepted_s;
  entry.tag = value.tag;
  entry.parsed = &parsed;
  visit(entry);
  return true;
}

}  // namespace

Store::Store(StoreOptions options, View& view)
    : options_(std::move(options)),
      view_(view),
      digests_(options_.digests_bytes),
      expired_(options_.shards),
      expired_keyed_(options_.shards) {}

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
  NoteSynced();
  for (rocksdb::ColumnFamilyHandle* handle : column_families_) {
    db_->DestroyColumnFamilyHandle(handle);
  }
  column_families_.clear();
  db_->Close();
  db_.reset();
}

absl::Status Store::Commit(absl::Span<const LogEntry> entries) {
  has_room_.store(HasRoom(options_.disk_reserve_bytes));
  if (!has_room_.load()) {
    return absl::UnavailableError(absl::StrCat("less than ", options_.disk_reserve_bytes >> 20,
                                               " MiB are free on the disk of ", options_.path));
  }
  absl::StatusOr<Staged> staged = Stage(entries);
  if (!staged.ok()) return staged.status();
  if (staged->fresh.empty() && staged->late.empty() && staged->raised.empty()) {
    return absl::OkStatus();
  }
  rocksdb::WriteBatch batch(BytesOf(staged->fresh));
  // First, since what comes instead may have the same keys.
  std::vector<LogEntry> removed;
  for (const Removal& removal : staged->removed) {
    const LogEntry& old = removal.entry;
    batch.Delete(column_families_[kLogCf], LogKey(old.minute, old.shard, router::AsBytes(old.id)));
    view_.StageRemove(old, batch);
    removed.push_back(old);
  }
  std::vector<LogEntry> kept = std::move(staged->late);
  for (const Raise& raise : staged->raised) {
    const LogEntry& entry = raise.entry;
    batch.Put(column_families_[kLogCf],
              LogKey(entry.minute, entry.shard, router::AsBytes(entry.id)), raise.value);
    kept.push_back(entry);
  }
  if (!kept.empty()) view_.StageAgain(kept, batch);
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
  MarkUnsaved(*staged->digests, batch);
  view_.Stage(staged->fresh, batch);
  if (absl::Status status = Write(batch, options_.sync_wal); !status.ok()) return status;
  digests_.Apply(*staged->digests, /*is_saved=*/false);
  NoteUnsaved(*staged->digests);
  view_.Committed(staged->fresh, removed);
  return absl::OkStatus();
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
  return Checked(it->status(), "reading a minute");
}

absl::Status Store::ReadMinute(int64_t minute,
                               const std::function<void(const LogEntry&)>& visit) const {
  v1::Tag parsed;
  return VisitMinute(minute, [&](const ParsedLogKey& key, const ParsedLogValue& value) {
    return Give(key, value, parsed, visit);
  });
}

absl::Status Store::ReadBucket(int64_t minute, ShardId shard,
                               const std::function<void(const LogEntry&)>& visit) const {
  v1::Tag parsed;
  bool is_readable = true;
  absl::Status status =
      VisitBucket(shard, minute, {}, [&](const ParsedLogKey& key, const ParsedLogValue& value) {
        is_readable = Give(key, value, parsed, visit);
        return is_readable;
      });
  if (!status.ok() || is_readable) return status;
  return absl::DataLossError(absl::StrCat("an event of shard ", shard, ", minute ", minute, " in ",
                                          options_.path, " cannot be read"));
}

absl::StatusOr<Digest> Store::MinuteDigest(int64_t minute) const {
  return digests_.MinuteDigest(minute);
}

absl::StatusOr<Digest> Store::BucketDigest(int64_t minute, ShardId shard) const {
  const absl::StatusOr<Bucket> bucket = BucketOf(minute, shard);
  if (!bucket.ok()) return bucket.status();
  return bucket->digest;
}

Digest Store::ShardDigest(ShardId shard) const { return digests_.ShardDigest(shard); }

Digest Store::HourDigest(ShardId shard, int64_t hour) const {
  return digests_.HourDigest(shard, hour).value_or(kUnreadable);
}

Digest Store::MinuteDigest(ShardId shard, int64_t minute) const {
  return BucketDigest(minute, shard).value_or(kUnreadable);
}

uint64_t Store::EventCount() const { return digests_.event_count(); }

absl::Status Store::VisitMinutes(
    absl::FunctionRef<absl::Status(int64_t, const Digest&)> visit) const {
  std::optional<int64_t> minute;
  Digest digest;
  absl::Status ended;
  absl::Status status =
      digests_.Visit(kFirstBucket, kLastBucket, [&](const BucketId& id, const Bucket& bucket) {
        if (minute && id.minute != *minute) {
          ended = visit(*minute, std::exchange(digest, {}));
          if (!ended.ok()) return false;
        }
        minute = id.minute;
        digest.Add(bucket.digest);
        return true;
      });
  if (status.ok()) status = ended;
  if (!status.ok() || !minute) return status;
  return visit(*minute, digest);
}

uint32_t Store::ExpiredThroughS(ShardId shard, int64_t minute) const {
  absl::MutexLock lock(&mutex_);
  return expired_[shard].Find(minute).through_s;
}

bool Store::HasExpired(const v1::ExpiredRange& range) const {
  const ExpiredMark mark{range.through_s(), range.removed_through_s(), range.expired_at_s()};
  absl::MutexLock lock(&mutex_);
  return range.shard() < expired_.size() &&
         expired_[range.shard()].Has(range.from_minute(), range.to_minute(), mark);
}

uint64_t Store::ExpiredHash(ShardId shard) const {
  absl::MutexLock lock(&mutex_);
  return expired_[shard].hash();
}

uint32_t Store::NewestAcceptedS(ShardId shard, int64_t minute) const {
  const absl::StatusOr<Bucket> bucket = BucketOf(minute, shard);
  return bucket.ok() ? bucket->newest_accepted_s : 0;
}

uint64_t Store::ExpiredKeyed(ShardId shard) const {
  absl::MutexLock lock(&mutex_);
  return expired_keyed_[shard];
}

uint32_t Store::RemovedThroughS(ShardId shard, int64_t minute) const {
  absl::MutexLock lock(&mutex_);
  return expired_[shard].Find(minute).removed_through_s;
}

uint32_t Store::ExpiredAtS(absl::Span<const ShardId> shards, int64_t minute) const {
  uint32_t latest = 0;
  absl::MutexLock lock(&mutex_);
  for (const ShardId shard : shards) {
    latest = std::max(latest, expired_[shard].Find(minute).expired_at_s);
  }
  return latest;
}

int64_t Store::NewestTimeMs() const {
  // This node never expires its newest minute by itself, so the start of that one is a safe lower
  // bound that needs no record of its own. Where a peer's expiry was adopted, it may be lower
  // still; and where it cannot be read, none is as safe.
  const auto newest = digests_.NewestMinute();
  if (!newest.ok() || !*newest) return std::numeric_limits<int64_t>::min();
  return **newest * router::kMinuteMs;
}

uint64_t Store::Property(const std::string& name) const {
  uint64_t value = 0;
  db_->GetAggregatedIntProperty(name, &value);
  return value;
}

}  // namespace allezon::replica
