// SPDX-License-Identifier: Apache-2.0
//
// What becomes of a damaged folder: how damage is found, what a start makes of it, and when what it
// lost is back. docs/design/damage.md has the rules and their reasons.
#include <rocksdb/env.h>
#include <rocksdb/sst_file_reader.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "replica/damage.h"
#include "replica/store.h"
#include "replica/store_internal.h"
#include "rpc/log.h"

namespace allezon::replica {

// --- while it is open ---

absl::Status Store::Checked(const rocksdb::Status& status, std::string_view what) const {
  absl::Status checked = FromRocks(status, what);
  if (absl::IsDataLoss(checked)) NoteDamage(std::string(checked.message()));
  return checked;
}

void Store::NoteDamage(std::string_view detail) const {
  absl::MutexLock lock(&damage_mutex_);
  if (has_damage_) return;
  has_damage_ = true;
  if (!HasOthers()) {
    rpc::LogError("the data folder is damaged, and no other replica has what it lost",
                  {{"path", options_.path}, {"detail", detail}});
    return;
  }
  const absl::Status marked =
      WriteDamageMark(options_.path, {DamageMark::Extent::kData, std::string(detail)});
  rpc::LogError(
      marked.ok() ? "the data folder is damaged; it is made anew from other replicas"
                  : "the data folder is damaged, and cannot be marked",
      {{"path", options_.path}, {"detail", detail}, {"marked", std::string(marked.message())}});
  if (marked.ok()) damage_ = std::string(detail);
}

std::string Store::damage() const {
  absl::MutexLock lock(&damage_mutex_);
  return damage_;
}

std::vector<Store::TableFile> Store::TableFiles() const {
  std::vector<rocksdb::LiveFileMetaData> live;
  db_->GetLiveFilesMetaData(&live);
  std::vector<TableFile> files;
  files.reserve(live.size());
  for (const rocksdb::LiveFileMetaData& file : live) {
    files.push_back({absl::StrCat(file.db_path, file.name), file.size});
  }
  return files;
}

absl::Status Store::CheckTableFile(const TableFile& file) const {
  rocksdb::SstFileReader reader{rocksdb::Options()};
  rocksdb::Status status = reader.Open(file.path);
  if (status.ok()) status = reader.VerifyChecksum();
  if (status.ok()) return absl::OkStatus();
  // A compaction may have taken it away meanwhile.
  const std::vector<TableFile> files = TableFiles();
  const bool is_live = std::any_of(files.begin(), files.end(),
                                   [&](const TableFile& other) { return other.path == file.path; });
  if (!is_live) return absl::OkStatus();
  // One that is not there, or is too short, is as damaged as one with a wrong byte.
  if (!status.IsCorruption() && !status.IsPathNotFound()) {
    return FromRocks(status, absl::StrCat("checking ", file.path));
  }
  const std::string detail = absl::StrCat(file.path, ": ", status.ToString());
  NoteDamage(detail);
  return absl::DataLossError(detail);
}

void Store::RemoveWhatIsBack(absl::Span<const ShardId> held) const {
  {
    absl::MutexLock lock(&mutex_);
    const bool is_back = std::all_of(held.begin(), held.end(), [&](ShardId shard) {
      mutex_.AssertHeld();
      return joined_[shard] != 0;
    });
    if (!is_back) return;
  }
  const absl::StatusOr<bool> removed = RemoveSetAside(options_.path);
  if (!removed.ok()) {
    rpc::LogWarn("what was set aside of a damaged folder is not removed",
                 {{"detail", std::string(removed.status().message())}});
  } else if (*removed) {
    rpc::LogInfo("all that a damaged folder held is back; what was set aside is removed",
                 {{"path", options_.path}});
  }
}

// With --wal=async only an end in order syncs all that was acknowledged.
void Store::NoteSynced() {
  if (options_.sync_wal || column_families_.empty()) return;
  rocksdb::WriteOptions write;
  write.sync = true;
  rocksdb::Status status = db_->SyncWAL();
  if (status.ok()) status = db_->Delete(write, column_families_[kMetaCf], kUnsyncedKey);
  if (status.ok()) return;
  rpc::LogWarn("not all that was acknowledged is synced",
               {{"path", options_.path}, {"detail", status.ToString()}});
}

// --- at a start ---

absl::Status Store::MarkUnreadable(const absl::Status& why, bool has_opened) const {
  if (!absl::IsDataLoss(why)) return why;
  if (!HasOthers() && !options_.accept_data_loss) {
    return absl::DataLossError(
        absl::StrCat(why.message(),
                     "; the folder is damaged and no other replica has what it holds: restore it "
                     "from a copy, or start with --accept_data_loss to go on with what can still "
                     "be read"));
  }
  DamageMark mark{DamageMark::Extent::kLog, std::string(why.message())};
  if (has_opened || mark_.has_value()) mark.extent = DamageMark::Extent::kData;
  // It is empty and new, and still cannot be read: that is not for a program to mend.
  if (mark_.has_value() && mark_->extent == DamageMark::Extent::kEmpty) return why;
  if (absl::Status s = WriteDamageMark(options_.path, mark); !s.ok()) return s;
  rpc::LogError("the data folder is damaged", {{"path", options_.path}, {"detail", mark.detail}});
  return absl::AbortedError(absl::StrCat(why.message(), "; the folder was marked as damaged"));
}

absl::Status Store::PrepareDamaged() {
  absl::StatusOr<std::optional<DamageMark>> mark = ReadDamageMark(options_.path);
  if (absl::IsDataLoss(mark.status())) {
    mark = DamageMark{DamageMark::Extent::kData, std::string(mark.status().message())};
  }
  if (!mark.ok()) return mark.status();
  mark_ = *std::move(mark);
  if (!mark_.has_value()) {
    absl::StatusOr<bool> torn = LogEndsTorn(options_.path);
    if (!torn.ok()) return torn.status();
    ends_torn_ = *torn;
    return absl::OkStatus();
  }
  if (mark_->extent != DamageMark::Extent::kData) return absl::OkStatus();
  // Nobody else may have it open while its files move.
  rocksdb::Env* const env = rocksdb::Env::Default();
  rocksdb::FileLock* lock = nullptr;
  const rocksdb::Status locked = env->LockFile(absl::StrCat(options_.path, "/LOCK"), &lock);
  if (!locked.ok()) return FromRocks(locked, absl::StrCat("data folder ", options_.path));
  absl::Status status = SetAside(options_.path);
  mark_->extent = DamageMark::Extent::kEmpty;
  if (status.ok()) status = WriteDamageMark(options_.path, *mark_);
  env->UnlockFile(lock);
  if (status.ok()) {
    rpc::LogWarn("a damaged data folder is set aside, and an empty one takes its place",
                 {{"path", options_.path}, {"detail", mark_->detail}});
  }
  return status;
}

// In one batch: from here on the folder itself says what it is worth, and the mark may go.
absl::Status Store::RecordDamage() {
  const std::string where = absl::StrCat("data folder ", options_.path);
  rocksdb::ColumnFamilyHandle* meta = column_families_[kMetaCf];
  std::string unsynced;
  const rocksdb::Status asked = db_->Get({}, meta, kUnsyncedKey, &unsynced);
  if (!asked.ok() && !asked.IsNotFound()) return FromRocks(asked, where);
  std::string lost;
  if (mark_.has_value()) {
    lost = mark_->detail;
  } else if (asked.ok()) {
    lost = "its last process ended without syncing what it had acknowledged (--wal=async)";
  }
  if (!lost.empty() && !HasOthers() && !options_.accept_data_loss) {
    return absl::DataLossError(absl::StrCat(where, ": ", lost));
  }
  const bool is_in_doubt = HasOthers() && (!lost.empty() || ends_torn_);
  const bool is_as_before = !is_in_doubt && !options_.accept_data_loss && asked.IsNotFound();
  if (is_as_before && options_.sync_wal && !ends_torn_) return absl::OkStatus();
  rocksdb::WriteBatch batch;
  absl::MutexLock lock(&mutex_);
  if (is_in_doubt) {
    joined_.assign(options_.shards, '\0');
    complete_as_of_s_ = 0;
    if (!lost.empty()) damaged_.assign(options_.shards, '\1');
  }
  if (options_.accept_data_loss) damaged_.assign(options_.shards, '\0');
  batch.Put(meta, kJoinedKey, joined_);
  batch.Put(meta, kDamagedKey, damaged_);
  batch.Put(meta, kCompleteKey, SecondsValue(complete_as_of_s_));
  if (options_.sync_wal) {
    batch.Delete(meta, kUnsyncedKey);
  } else {
    batch.Put(meta, kUnsyncedKey, absl::StrCat(incarnation_));
  }
  rocksdb::WriteOptions write;
  write.sync = true;
  if (absl::Status s = FromRocks(db_->Write(write, &batch), where); !s.ok()) return s;
  if (!lost.empty()) {
    rpc::LogError(options_.accept_data_loss
                      ? "what a damaged data folder lost is given up where no peer has it"
                      : "a damaged data folder counts for nothing until its peers were pulled from",
                  {{"path", options_.path}, {"detail", lost}});
  } else if (ends_torn_) {
    rpc::LogWarn("the log ends within a record, as a write that was cut short leaves it",
                 {{"path", options_.path}, {"compared_with_peers", HasOthers()}});
  }
  return absl::OkStatus();
}

}  // namespace allezon::replica
