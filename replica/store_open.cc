// SPDX-License-Identifier: Apache-2.0
//
// Opening a data folder: RocksDB's settings with their reasons, whose folder it is, the digests.
#include <rocksdb/cache.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/listener.h>
#include <rocksdb/slice_transform.h>
#include <rocksdb/table.h>
#include <rocksdb/write_buffer_manager.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "replica/background.h"
#include "replica/store.h"
#include "replica/store_internal.h"
#include "rpc/log.h"

namespace allezon::replica {
namespace {

constexpr char kFormatKey[] = "format";
constexpr char kStoreIdKey[] = "store_id";
constexpr char kIncarnationKey[] = "incarnation";
// Bits of bloom filter a key: about 1 % false positives; each one costs a dedupe look-up a block
// read.
constexpr double kBloomBitsPerKey = 10;
// The WAL is cut by flushing the column family that holds it back; bounds start-up time.
constexpr uint64_t kWalBytesMax = uint64_t{256} << 20;

// RocksDB would go on by itself once a disk has room again; but its log then begins in the middle
// of what it could not write, and with assertions on, as Debian has it, that ends the process.
class NoRecovery final : public rocksdb::EventListener {
 public:
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason, rocksdb::Status,
                            bool* auto_recovery) override {
    *auto_recovery = false;
  }
};

// RocksDB compacts on threads of one kind, and flushes on those of another. A memtable that is not
// flushed before the next ones are full holds writes up, so it gets more of the processor.
class BackgroundGivesWay final : public rocksdb::EventListener {
 public:
  void OnCompactionBegin(rocksdb::DB*, const rocksdb::CompactionJobInfo&) override {
    GiveWay(Share::kTenth);
  }
  void OnFlushBegin(rocksdb::DB*, const rocksdb::FlushJobInfo&) override { GiveWay(Share::kThird); }
};

// What a compaction or a flush finds damaged.
class TellsDamage final : public rocksdb::EventListener {
 public:
  explicit TellsDamage(std::function<void(std::string_view)> tell) : tell_(std::move(tell)) {}
  void OnBackgroundError(rocksdb::BackgroundErrorReason, rocksdb::Status* status) override {
    if (status->IsCorruption()) tell_(status->ToString());
  }

 private:
  const std::function<void(std::string_view)> tell_;
};

// RocksDB's warnings, among those of the process. A log file of its own would end the process, with
// those assertions, once the disk had been full.
class ProcessLog final : public rocksdb::Logger {
 public:
  explicit ProcessLog(std::string path)
      : Logger(rocksdb::InfoLogLevel::WARN_LEVEL), path_(std::move(path)) {}

  void Logv(const char* format, va_list arguments) override {
    Logv(rocksdb::InfoLogLevel::WARN_LEVEL, format, arguments);
  }
  void Logv(rocksdb::InfoLogLevel level, const char* format, va_list arguments) override {
    // It gives headers to every logger, whatever its level.
    if (level < GetInfoLogLevel() || level == rocksdb::InfoLogLevel::HEADER_LEVEL) return;
    char text[kLineBytesMax];
    vsnprintf(text, sizeof text, format, arguments);
    rpc::LogWarn("RocksDB", {{"path", path_}, {"detail", text}});
  }

 private:
  static constexpr size_t kLineBytesMax = 1024;
  const std::string path_;
};

rocksdb::DBOptions DbOptions(const StoreOptions& store,
                             const std::shared_ptr<rocksdb::Cache>& cache, bool is_marked) {
  rocksdb::DBOptions options;
  options.info_log = std::make_shared<ProcessLog>(store.path);
  options.write_buffer_manager =
      std::make_shared<rocksdb::WriteBufferManager>(store.memtables_bytes, cache);
  options.listeners.push_back(std::make_shared<NoRecovery>());
  options.listeners.push_back(std::make_shared<BackgroundGivesWay>());
  options.max_bgerror_resume_count = 0;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.max_total_wal_size = kWalBytesMax;
  // A record that ends too early is what a power cut leaves behind the last sync. Anything else is
  // damage, which has to be noticed before what is in front of it may be used.
  options.wal_recovery_mode = is_marked ? rocksdb::WALRecoveryMode::kPointInTimeRecovery
                                        : rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  // A WAL file that vanished is noticed instead of being taken for an empty one.
  options.track_and_verify_wals_in_manifest = true;
  // Compaction writes reach the disk in small steps, so that a WAL sync never queues behind a whole
  // file.
  options.bytes_per_sync = 1 << 20;
  options.max_background_jobs = 2;
  options.max_open_files = 1024;
  return options;
}

rocksdb::ColumnFamilyOptions SharedOptions(const StoreOptions& options,
                                           const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  // Filters and indexes are counted in the cache, so that memory has one bound.
  table.cache_index_and_filter_blocks = true;
  table.pin_l0_filter_and_index_blocks_in_cache = true;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(kBloomBitsPerKey));
  table.format_version = 5;
  rocksdb::ColumnFamilyOptions shared;
  shared.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  shared.write_buffer_size = options.write_buffer_bytes;
  // A second memtable fills while the first one is flushed; a third one keeps writers from waiting.
  shared.max_write_buffer_number = 3;
  shared.level_compaction_dynamic_level_bytes = true;
  // Fast where data still moves, small where it stays.
  shared.compression = rocksdb::kLZ4Compression;
  shared.bottommost_compression = rocksdb::kZSTD;
  return shared;
}

// The minute and shard of a key with that many bytes. RocksDB 7.8 keeps one hint a prefix for both
// a memtable's rows and its range tombstones, and follows one into the other table: so no key that
// begins a range tombstone (a minute or a bucket) may be one that has a prefix.
class BucketPrefix final : public rocksdb::SliceTransform {
 public:
  explicit BucketPrefix(size_t key_bytes) : key_bytes_(key_bytes) {}
  const char* Name() const override { return "allezon.BucketPrefix"; }
  rocksdb::Slice Transform(const rocksdb::Slice& key) const override {
    return {key.data(), kBucketKeyBytes};
  }
  bool InDomain(const rocksdb::Slice& key) const override { return key.size() == key_bytes_; }

 private:
  const size_t key_bytes_;
};

// What comes in belongs to few minutes: an insert begins its search where the last one of the same
// (minute, shard) went, instead of at the top of the whole memtable.
void SearchFromBucket(rocksdb::ColumnFamilyOptions& options, size_t key_bytes) {
  options.memtable_insert_with_hint_prefix_extractor = std::make_shared<BucketPrefix>(key_bytes);
}

rocksdb::ColumnFamilyOptions LogOptions(rocksdb::ColumnFamilyOptions shared) {
  // Most look-ups are for ids that are not there: the memtable answers them from a filter too.
  shared.memtable_prefix_bloom_size_ratio = 0.05;
  shared.memtable_whole_key_filtering = true;
  // Retention leaves range tombstones; files that are mostly dead go soon.
  shared.periodic_compaction_seconds = 0;
  return shared;
}

// What `meta` says of whose folder it is, and must say at each start.
struct Belonging {
  const char* key;
  std::string value;
  const char* flag = nullptr;  // of a setting; none: it says whose the folder is
  bool may_lack = true;        // in folders of older versions
};

std::vector<Belonging> BelongingsOf(const StoreOptions& options) {
  return {{"cluster", options.cluster},
          {"service", options.service, nullptr, /*may_lack=*/false},
          {"instance", options.instance},
          {"shards", absl::StrCat(options.shards), "--shards", /*may_lack=*/false},
          {"rf", absl::StrCat(options.replication_factor), "--rf"},
          {"write_quorum", absl::StrCat(options.write_quorum), "--write_quorum"}};
}

absl::Status CheckFolder(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (!fs::exists(path, error)) {
    fs::create_directories(path, error);
    if (error) {
      return absl::UnavailableError(
          absl::StrCat("data folder ", path, " cannot be made: ", error.message()));
    }
    return absl::OkStatus();
  }
  if (!fs::is_directory(path, error)) {
    return absl::FailedPreconditionError(absl::StrCat("data folder ", path, " is not a folder"));
  }
  auto files = fs::directory_iterator(path, error);
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("data folder ", path, " cannot be read: ", error.message()));
  }
  // LOCK and LOG come first in a folder whose first start was cut short.
  bool holds_other = false;
  for (const auto& file : files) {
    const std::string name = file.path().filename().string();
    if (name == "CURRENT" || IsOfDamage(name)) return absl::OkStatus();
    const bool ours = name == "LOCK" || name.starts_with("LOG") || name == "IDENTITY" ||
                      name.starts_with("MANIFEST-") || name.ends_with(".dbtmp");
    holds_other = holds_other || !ours;
  }
  if (holds_other) {
    return absl::FailedPreconditionError(absl::StrCat(
        "data folder ", path, " is not empty and holds no allezon data; name an empty one"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status FromRocks(const rocksdb::Status& status, std::string_view what) {
  if (status.ok()) return absl::OkStatus();
  const std::string message =
      absl::StrCat(absl::string_view(what.data(), what.size()), ": ", status.ToString());
  if (status.IsCorruption()) return absl::DataLossError(message);
  if (status.IsInvalidArgument() || status.IsNotSupported()) {
    return absl::FailedPreconditionError(message);
  }
  return absl::UnavailableError(message);
}

absl::Status Store::OpenDb() {
  cache_ = rocksdb::NewLRUCache(options_.block_cache_bytes);
  const rocksdb::ColumnFamilyOptions shared = SharedOptions(options_, cache_);
  rocksdb::ColumnFamilyOptions view_options = shared;
  view_.Configure(view_options);
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors(kColumnFamilies);
  descriptors[kMetaCf] = {rocksdb::kDefaultColumnFamilyName, shared};
  descriptors[kLogCf] = {"log", LogOptions(shared)};
  SearchFromBucket(descriptors[kLogCf].options, kLogKeyBytes);
  descriptors[kDigestCf] = {"digest", shared};
  SearchFromBucket(descriptors[kDigestCf].options, kBucketKeyBytes);
  descriptors[kTakenCf] = {"taken", shared};
  descriptors[kKeyedCf] = {"keyed", LogOptions(shared)};
  descriptors[kViewCf] = {"view", view_options};
  descriptors[kExpiredCf] = {"expired", shared};
  descriptors[kHoursCf] = {"hours", shared};
  rocksdb::DB* db = nullptr;
  rocksdb::DBOptions options = DbOptions(options_, cache_, mark_.has_value());
  options.listeners.push_back(
      std::make_shared<TellsDamage>([this](std::string_view detail) { NoteDamage(detail); }));
  const rocksdb::Status status =
      rocksdb::DB::Open(options, options_.path, descriptors, &column_families_, &db);
  db_.reset(db);
  // Of a folder that is there: what CURRENT or the manifest names is not.
  if (status.IsPathNotFound()) {
    return absl::DataLossError(
        absl::StrCat("data folder ", options_.path, ": ", status.ToString()));
  }
  return FromRocks(status, absl::StrCat("data folder ", options_.path));
}

// What is written of whose folder it is changes with its incarnation in one batch.
absl::Status Store::CheckIdentity() {
  const std::string where = absl::StrCat("data folder ", options_.path);
  rocksdb::ColumnFamilyHandle* meta = column_families_[kMetaCf];
  rocksdb::WriteBatch batch;
  std::string format;
  const rocksdb::Status status = db_->Get({}, meta, kFormatKey, &format);
  if (status.IsNotFound()) {
    store_id_ =
        absl::BytesToHexString(absl::string_view(router::NewEventId(absl::Now()).data(), 16));
    batch.Put(meta, kFormatKey, absl::StrCat(kFormatVersion));
    batch.Put(meta, kStoreIdKey, store_id_);
    for (const Belonging& one : BelongingsOf(options_)) batch.Put(meta, one.key, one.value);
  } else if (!status.ok()) {
    return FromRocks(status, where);
  } else if (absl::Status s = CheckIdentity(format, batch); !s.ok()) {
    return s;
  }
  if (absl::Status s = NewIncarnation(batch); !s.ok()) return s;
  rocksdb::WriteOptions write;
  write.sync = true;
  return FromRocks(db_->Write(write, &batch), where);
}

// Of a folder that has data. What an older version did not write is added to the batch.
absl::Status Store::CheckIdentity(std::string_view format, rocksdb::WriteBatch& batch) {
  const std::string where = absl::StrCat("data folder ", options_.path);
  rocksdb::ColumnFamilyHandle* meta = column_families_[kMetaCf];
  if (format == absl::StrCat(kFormatVersionByMinute) ||
      format == absl::StrCat(kFormatVersionNoHours)) {
    lacks_hours_ = true;  // ConvertFolder makes it one of this format
  } else if (format != absl::StrCat(kFormatVersion)) {
    return absl::FailedPreconditionError(
        absl::StrCat(where, " has format ", absl::string_view(format.data(), format.size()),
                     ", this program ", kFormatVersion));
  }
  std::string settings_found, settings;
  for (const Belonging& one : BelongingsOf(options_)) {
    std::string value;
    const rocksdb::Status got = db_->Get({}, meta, one.key, &value);
    if (got.IsNotFound() && one.may_lack) {
      batch.Put(meta, one.key, one.value);
      continue;
    }
    if (!got.ok()) return FromRocks(got, absl::StrCat(where, ", ", one.key));
    if (value == one.value) continue;
    if (one.flag == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat(where, " belongs to ", one.key, " ", value, ", not ", one.value,
                       ": name the right folder with --data, or an empty one"));
    }
    absl::StrAppend(&settings_found, " ", one.flag, "=", value);
    absl::StrAppend(&settings, " ", one.flag, "=", one.value);
  }
  if (!settings.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        where, " was written with", settings_found, ", not", settings,
        ": they are for the life of the data, so start with the old ones, or every node of the "
        "service with an empty folder"));
  }
  return FromRocks(db_->Get({}, meta, kStoreIdKey, &store_id_), absl::StrCat(where, ", store_id"));
}

// Whatever the clock says it is higher than all before.
absl::Status Store::NewIncarnation(rocksdb::WriteBatch& batch) {
  const std::string where = absl::StrCat("data folder ", options_.path);
  rocksdb::ColumnFamilyHandle* meta = column_families_[kMetaCf];
  std::string before;
  const rocksdb::Status status = db_->Get({}, meta, kIncarnationKey, &before);
  if (!status.ok() && !status.IsNotFound()) return FromRocks(status, where);
  if (status.ok() && !absl::SimpleAtoi(before, &previous_incarnation_)) {
    return absl::DataLossError(absl::StrCat(where, " has an incarnation that cannot be read"));
  }
  const int64_t now = std::max<int64_t>(0, absl::ToUnixNanos(options_.clock()));
  incarnation_ = std::max(previous_incarnation_ + 1, static_cast<uint64_t>(now));
  batch.Put(meta, kIncarnationKey, absl::StrCat(incarnation_));
  return absl::OkStatus();
}

absl::Status Store::RecordIncarnation(uint64_t incarnation) {
  rocksdb::WriteBatch batch;
  batch.Put(column_families_[kMetaCf], kIncarnationKey, absl::StrCat(incarnation));
  return Write(batch, /*sync=*/true);
}

// What was removed by minute, on whosever word, says nothing of what other replicas of a shard
// have: it tells only that the minutes are gone for whoever asks. What peers still hold of them is
// pulled, and expires anew, by shard.
absl::Status Store::ConvertFolder() {
  if (!lacks_hours_) return absl::OkStatus();
  const std::string where = absl::StrCat("data folder ", options_.path);
  rocksdb::WriteBatch batch;
  absl::MutexLock lock(&mutex_);
  std::unique_ptr<rocksdb::Iterator> taken(db_->NewIterator({}, column_families_[kTakenCf]));
  for (taken->SeekToFirst(); taken->Valid(); taken->Next()) {
    const auto minute = ParseMinuteKey(taken->key().ToStringView());
    const auto through_s = ParseSecondsValue(taken->value().ToStringView());
    if (!minute || !through_s) {
      return absl::DataLossError(
          absl::StrCat(where, " has a record of retention that cannot be read"));
    }
    const ExpiredMark mark{
        0, *through_s,
        *through_s + static_cast<uint32_t>(absl::ToInt64Seconds(options_.retention))};
    for (ShardId shard = 0; shard < options_.shards; ++shard) {
      if (joined_[shard] != 0) expired_[shard].Join(*minute, *minute + 1, mark);
    }
    batch.Delete(column_families_[kTakenCf], taken->key());
  }
  if (!taken->status().ok()) return FromRocks(taken->status(), where);
  for (ShardId shard = 0; shard < options_.shards; ++shard) {
    for (const auto& [from, range] : expired_[shard].ranges()) {
      batch.Put(column_families_[kExpiredCf], ExpiredKey(shard, from), ExpiredValue(range));
    }
  }
  batch.Put(column_families_[kMetaCf], kFormatKey, absl::StrCat(kFormatVersion));
  rocksdb::WriteOptions write;
  write.sync = true;
  rpc::LogInfo("data folder converted", {{"path", options_.path}, {"format", kFormatVersion}});
  return FromRocks(db_->Write(write, &batch), where);
}

absl::Status Store::LoadExpired() {
  absl::MutexLock lock(&mutex_);
  std::unique_ptr<rocksdb::Iterator> expired(db_->NewIterator({}, column_families_[kExpiredCf]));
  for (expired->SeekToFirst(); expired->Valid(); expired->Next()) {
    const auto key = ParseExpiredKey(expired->key().ToStringView());
    const auto range = ParseExpiredValue(expired->value().ToStringView());
    if (!key || key->shard >= options_.shards || !range) {
      return absl::DataLossError(absl::StrCat("data folder ", options_.path,
                                              " has a record of retention that cannot be read"));
    }
    expired_[key->shard].Join(key->minute, range->to, range->mark);
  }
  return FromRocks(expired->status(), "reading what retention expired");
}

absl::Status Store::LoadJoined() {
  const std::string where = absl::StrCat("data folder ", options_.path);
  absl::MutexLock lock(&mutex_);
  rocksdb::ColumnFamilyHandle* meta = column_families_[kMetaCf];
  rocksdb::Status status = db_->Get({}, meta, kJoinedKey, &joined_);
  if (status.IsNotFound()) joined_.assign(options_.shards, '\0');
  if (!status.ok() && !status.IsNotFound()) return FromRocks(status, where);
  status = db_->Get({}, meta, kDamagedKey, &damaged_);
  if (status.IsNotFound()) damaged_.assign(options_.shards, '\0');
  if (!status.ok() && !status.IsNotFound()) return FromRocks(status, where);
  std::string complete;
  status = db_->Get({}, meta, kCompleteKey, &complete);
  if (status.IsNotFound()) complete = SecondsValue(0);
  if (!status.ok() && !status.IsNotFound()) return FromRocks(status, where);
  const auto complete_as_of_s = ParseSecondsValue(complete);
  if (joined_.size() != options_.shards || damaged_.size() != options_.shards ||
      !complete_as_of_s) {
    return absl::DataLossError(
        absl::StrCat(where, " has a record of what it is a replica of that cannot be read"));
  }
  complete_as_of_s_ = *complete_as_of_s;
  return absl::OkStatus();
}

absl::Status Store::OpenFolder() {
  if (absl::Status s = CheckFolder(options_.path); !s.ok()) return s;
  if (absl::Status s = PrepareDamaged(); !s.ok()) return s;
  if (absl::Status s = OpenDb(); !s.ok()) return MarkUnreadable(s, /*has_opened=*/false);
  const auto load = [this] {
    if (absl::Status s = CheckIdentity(); !s.ok()) return s;
    if (absl::Status s = LoadDigests(); !s.ok()) return s;
    if (absl::Status s = LoadExpired(); !s.ok()) return s;
    if (absl::Status s = LoadJoined(); !s.ok()) return s;
    if (absl::Status s = ConvertFolder(); !s.ok()) return s;
    return RecordDamage();
  };
  if (absl::Status s = load(); !s.ok()) return MarkUnreadable(s, /*has_opened=*/true);
  ViewContext context;
  context.db = db_.get();
  context.column_family = column_families_[kViewCf];
  context.log = this;
  context.note_damage = [this](std::string_view detail) { NoteDamage(detail); };
  if (absl::Status s = view_.Open(context); !s.ok()) return MarkUnreadable(s, /*has_opened=*/true);
  return mark_.has_value() ? RemoveDamageMark(options_.path) : absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Store>> Store::Open(StoreOptions options, View& view) {
  std::unique_ptr<Store> store(new Store(std::move(options), view));
  if (absl::Status s = store->OpenFolder(); !s.ok()) return s;
  return store;
}

}  // namespace allezon::replica
