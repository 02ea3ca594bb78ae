// SPDX-License-Identifier: Apache-2.0
//
// An ordered map that lies in a column family, of which so much is in memory as there is room for:
// what was set lately, and where all of it has room, everything. Then nothing is read from disk.
//
// `Traits` has Key, ordered as its encoding, Value, of which a default one is as good as none, and
// these static functions, as BucketRows (digest_index.h) has them:
// - Encode, Decode, EncodeValue, DecodeValue: the rows; nullopt where bytes are none;
// - IsForeign: whether a key of the column family is none of the map's;
// - IsEmpty: whether a value is as good as none;
// - After: the next key that there can be.
//
// Set, Stage and Stored are for one writer, which alone may change the rows on disk; everything
// else is thread-safe. Its lock is not held while the disk is read, but by Last.
#pragma once

#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace allezon::replica {

template <typename Traits>
class SpilledMap {
 public:
  using Key = typename Traits::Key;
  using Value = typename Traits::Value;

  // What an entry takes in memory, nodes of the tree that are not full included.
  static constexpr size_t kEntryBytes = (sizeof(Key) + sizeof(Value) + 16) * 3 / 2;
  // Entries that are looked at for what may leave: whenever one is set, and now and then.
  static constexpr int kLooks = 64, kLooksMax = 10'000;

  // What is not on disk yet stays in memory, whatever the bound says.
  explicit SpilledMap(size_t bytes_max) : entries_max_(bytes_max / kEntryBytes) {}

  // `check` makes a status of RocksDB's, and is told what was read.
  using Check = std::function<absl::Status(const rocksdb::Status&, std::string_view)>;
  void Open(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* family, Check check) {
    db_ = db;
    family_ = family;
    check_ = std::move(check);
  }
  // While it is opened, in any order: there is such a row on disk.
  void Loaded(const Key& key, const Value& value) {
    absl::MutexLock lock(&mutex_);
    ++count_;
    if (entries_.size() >= entries_max_) return;
    ++resident_;
    entries_[key] = {value, /*is_stored=*/true};
  }

  // Empty where there is none. kUnavailable, kDataLoss: the disk.
  absl::StatusOr<Value> Find(const Key& key) const {
    {
      absl::MutexLock lock(&mutex_);
      if (const auto found = entries_.find(key); found != entries_.end()) {
        found->second.is_used = true;
        return found->second.value;
      }
      if (IsWhole()) return Value();
    }
    std::string row;
    const rocksdb::Status got = db_->Get({}, family_, Traits::Encode(key), &row);
    if (got.IsNotFound()) return Value();
    if (!got.ok()) return check_(got, "reading a digest");
    const std::optional<Value> value = Traits::DecodeValue(row);
    if (!value) return absl::DataLossError("a digest cannot be read");
    return *value;
  }

  // `before` is what it was. `is_stored`: so it is on disk already.
  void Set(const Key& key, const Value& before, const Value& value, bool is_stored) {
    absl::MutexLock lock(&mutex_);
    const bool was_there = !Traits::IsEmpty(before), is_there = !Traits::IsEmpty(value);
    count_ = count_ + (is_there ? 1 : 0) - (was_there ? 1 : 0);
    const auto [entry, is_new] = entries_.try_emplace(key);
    const bool was_resident = !is_new && !Traits::IsEmpty(entry->second.value);
    resident_ = resident_ + (is_there ? 1 : 0) - (was_resident ? 1 : 0);
    entry->second = {value, is_stored, /*is_used=*/true};
    if (!is_there && is_stored) entries_.erase(entry);
    MakeRoom(kLooks);
  }

  // Adds to the batch what is not on disk yet of [from, to).
  void Stage(const Key& from, const Key& to, rocksdb::WriteBatch& batch) const {
    absl::MutexLock lock(&mutex_);
    for (auto at = entries_.lower_bound(from); at != entries_.end() && at->first < to; ++at) {
      if (!at->second.is_stored) StageRow(at->first, at->second.value, batch);
    }
  }
  void StageRow(const Key& key, const Value& value, rocksdb::WriteBatch& batch) const {
    if (Traits::IsEmpty(value)) {
      batch.Delete(family_, Traits::Encode(key));
    } else {
      batch.Put(family_, Traits::Encode(key), Traits::EncodeValue(value));
    }
  }
  // The same is on disk now.
  void Stored(const Key& from, const Key& to) {
    absl::MutexLock lock(&mutex_);
    for (auto at = entries_.lower_bound(from); at != entries_.end() && at->first < to;) {
      at->second.is_stored = true;
      at = Traits::IsEmpty(at->second.value) ? entries_.erase(at) : std::next(at);
    }
    MakeRoom(kLooksMax);
  }

  // None where it is empty. Errors as above.
  absl::StatusOr<std::optional<Key>> Last() const {
    const Cursor stays(*this);
    std::unique_ptr<rocksdb::Iterator> row(db_->NewIterator({}, family_));
    absl::MutexLock lock(&mutex_);
    std::optional<Key> last;
    for (auto at = entries_.rbegin(); at != entries_.rend() && !last; ++at) {
      if (!Traits::IsEmpty(at->second.value)) last = at->first;
    }
    if (IsWhole()) return last;
    for (row->SeekToLast(); row->Valid(); row->Prev()) {
      if (Traits::IsForeign(row->key().ToStringView())) continue;
      const std::optional<Key> key = Traits::Decode(row->key().ToStringView());
      if (!key) return absl::DataLossError("a digest cannot be read");
      if (last && *key < *last) return last;
      if (!entries_.contains(*key)) return key;
    }
    if (!row->status().ok()) return check_(row->status(), "reading digests");
    return last;
  }

  // Walks through what is there, in order. What is set meanwhile may be seen as it was or as it is.
  // Nothing leaves memory while there is one. Not thread-safe; the map must outlive it.
  class Cursor {
   public:
    explicit Cursor(const SpilledMap& map) : map_(map) {
      absl::MutexLock lock(&map_.mutex_);
      ++map_.readers_;
      is_whole_ = map_.IsWhole();
    }
    ~Cursor() {
      absl::MutexLock lock(&map_.mutex_);
      --map_.readers_;
      map_.MakeRoom(kLooksMax);
    }
    Cursor(const Cursor&) = delete;
    Cursor& operator=(const Cursor&) = delete;

    // Goes to the first that is not before `key`. False where there is none; or status() says why.
    bool Seek(const Key& key) {
      Key from = key;
      while (SeekDisk(from)) {
        absl::MutexLock lock(&map_.mutex_);
        auto at = map_.entries_.lower_bound(from);
        // What was taken out is there as an empty one, until the disk does not hold it any more.
        while (at != map_.entries_.end() && Traits::IsEmpty(at->second.value) &&
               (!disk_ || at->first < disk_->first)) {
          ++at;
        }
        const bool in_memory = at != map_.entries_.end() && (!disk_ || !(disk_->first < at->first));
        if (!in_memory) {
          if (disk_) current_ = *disk_;
          return disk_.has_value();
        }
        if (!Traits::IsEmpty(at->second.value)) {
          current_ = {at->first, at->second.value};
          return true;
        }
        from = Traits::After(at->first);
      }
      return false;
    }
    bool Next() { return Seek(Traits::After(current_.first)); }

    const Key& key() const { return current_.first; }
    const Value& value() const { return current_.second; }
    const absl::Status& status() const { return status_; }

   private:
    // Leaves the first row that is not before `from` in disk_, if there is one. False: it cannot be
    // read.
    bool SeekDisk(const Key& from) {
      if (is_whole_) return true;
      if (sought_ && !(from < *sought_) && (!disk_ || !(disk_->first < from))) return true;
      const bool is_next = disk_ && sought_ && !(from < *sought_);
      if (rows_ == nullptr) rows_.reset(map_.db_->NewIterator({}, map_.family_));
      sought_ = from;
      disk_.reset();
      if (is_next) rows_->Next();
      const std::string key = Traits::Encode(from);
      if (!is_next || (rows_->Valid() && rows_->key().compare(key) < 0)) rows_->Seek(key);
      while (rows_->Valid() && Traits::IsForeign(rows_->key().ToStringView())) rows_->Next();
      if (!rows_->Valid()) {
        status_ = map_.check_(rows_->status(), "reading digests");
        return status_.ok();
      }
      const auto row = Traits::Decode(rows_->key().ToStringView());
      const auto value = Traits::DecodeValue(rows_->value().ToStringView());
      if (!row || !value) {
        status_ = absl::DataLossError("a digest cannot be read");
        return false;
      }
      disk_.emplace(*row, *value);
      return true;
    }

    const SpilledMap& map_;
    bool is_whole_ = false;
    std::unique_ptr<rocksdb::Iterator> rows_;
    std::optional<Key> sought_;                  // disk_ is the first row that is not before it
    std::optional<std::pair<Key, Value>> disk_;  // where rows_ is
    std::pair<Key, Value> current_;
    absl::Status status_;
  };

  size_t resident() const {
    absl::MutexLock lock(&mutex_);
    return entries_.size();
  }

 private:
  struct Entry {
    Value value;
    bool is_stored = false;
    mutable bool is_used = false;  // since it was last looked at for what may leave
  };

  // Whether everything is in memory.
  bool IsWhole() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return resident_ == count_; }

  // Lets entries leave that are on disk and were not used for a round; looks at so many at most.
  void MakeRoom(int looks) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (; readers_ == 0 && entries_.size() > entries_max_ && looks > 0; --looks) {
      auto at = hand_ ? entries_.lower_bound(*hand_) : entries_.begin();
      if (at == entries_.end()) at = entries_.begin();
      hand_ = Traits::After(at->first);
      if (!at->second.is_stored || std::exchange(at->second.is_used, false)) continue;
      --resident_;
      entries_.erase(at);
    }
  }

  const size_t entries_max_;
  rocksdb::DB* db_ = nullptr;
  rocksdb::ColumnFamilyHandle* family_ = nullptr;
  Check check_;
  mutable absl::Mutex mutex_;
  mutable absl::btree_map<Key, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  mutable std::optional<Key> hand_ ABSL_GUARDED_BY(mutex_);
  mutable size_t readers_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t count_ ABSL_GUARDED_BY(mutex_) = 0;             // that are not empty, wherever they are
  mutable size_t resident_ ABSL_GUARDED_BY(mutex_) = 0;  // of those in entries_
};

}  // namespace allezon::replica
