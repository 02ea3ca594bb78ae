// SPDX-License-Identifier: Apache-2.0
//
// What the tests of the store and the committer share: temporary folders, entries made from tags, a
// view that remembers.
#pragma once

#include <gtest/gtest.h>
#include <rocksdb/write_batch.h>

#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "replica/expiry_plan.h"
#include "replica/store.h"
#include "replica/view.h"
#include "router/writer.h"

namespace allezon::replica {

// Minutes that hold anything, in order.
inline std::vector<int64_t> MinutesOf(const Store& store) {
  std::vector<int64_t> minutes;
  const absl::Status status = store.VisitMinutes([&](int64_t minute, const Digest&) {
    minutes.push_back(minute);
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  return minutes;
}

// A folder that goes when the test does.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "allezon-test-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A data folder that no store has open, to make an older one of it.
class RawFolder {
 public:
  explicit RawFolder(const std::string& path) {
    std::vector<std::string> names;
    EXPECT_TRUE(rocksdb::DB::ListColumnFamilies({}, path, &names).ok());
    std::vector<rocksdb::ColumnFamilyDescriptor> families;
    for (const std::string& name : names) families.push_back({name, {}});
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    rocksdb::DB* db = nullptr;
    EXPECT_TRUE(rocksdb::DB::Open({}, path, families, &handles, &db).ok());
    db_.reset(db);
    for (size_t i = 0; i < names.size(); ++i) handles_[names[i]] = handles[i];
  }
  ~RawFolder() {
    for (const auto& [name, handle] : handles_) db_->DestroyColumnFamilyHandle(handle);
  }
  RawFolder(const RawFolder&) = delete;
  RawFolder& operator=(const RawFolder&) = delete;

  void Put(const std::string& family, const std::string& key, const std::string& value) {
    EXPECT_TRUE(db_->Put({}, handles_.at(family), key, value).ok());
  }
  void Drop(const std::string& family) {
    EXPECT_TRUE(db_->DropColumnFamily(handles_.at(family)).ok());
  }

 private:
  std::unique_ptr<rocksdb::DB> db_;
  std::map<std::string, rocksdb::ColumnFamilyHandle*> handles_;
};

// What a crash would leave of a RocksDB folder that is in use. Its background work goes on while
// files are copied, so all is copied again until nothing came, went or grew meanwhile.
inline void CopyAsOfACrash(const std::string& from, const std::string& to) {
  namespace fs = std::filesystem;
  constexpr int kTriesMax = 100;
  const auto list = [&](std::error_code& error) {
    std::map<std::string, uintmax_t> sizes;
    for (fs::directory_iterator at(from, error), end; !error && at != end; at.increment(error)) {
      const std::string name = at->path().filename();
      if (name.starts_with("LOG")) continue;  // what RocksDB tells of itself
      sizes[name] = at->file_size(error);
    }
    return sizes;
  };
  for (int i = 0; i < kTriesMax; ++i) {
    fs::remove_all(to);
    std::error_code error;
    const auto before = list(error);
    if (!error) fs::copy(from, to, error);
    if (!error && list(error) == before && !error) return;
  }
  ADD_FAILURE() << from << " does not come to rest";
}

// What the thread of a committer does from time to time, until nothing is left to do.
inline void MaintainAll(Store& store) {
  while (store.Maintain()) {
  }
}

inline v1::ExpiredRange Range(ShardId shard, int64_t from, int64_t to, uint32_t through_s,
                              uint32_t at_s = 0) {
  v1::ExpiredRange range;
  range.set_shard(shard);
  range.set_from_minute(from);
  range.set_to_minute(to);
  range.set_through_s(through_s);
  range.set_removed_through_s(through_s);
  range.set_expired_at_s(at_s);
  return range;
}

// Plans and does it; the number of steps.
inline int ExpireAll(Store& store, std::vector<v1::ExpiredRange> ranges, bool only_whole = false) {
  ExpiryPlan plan(store, {std::move(ranges), only_whole});
  for (int steps = 0;; ++steps) {
    const absl::StatusOr<std::optional<ExpiryStep>> step = plan.Next();
    EXPECT_TRUE(step.ok()) << step.status();
    if (!step.ok() || !*step) return steps;
    const absl::Status status = store.Expire(**step);
    EXPECT_TRUE(status.ok()) << status;
  }
}

// Expires what the store finds that may be, by its own word alone.
inline int ExpireOld(Store& store, WallS horizon_s) {
  std::vector<v1::ExpiredRange> ranges;
  for (const ExpiryCandidate& candidate : store.FindExpirable(horizon_s)) {
    ranges.push_back(Range(candidate.bucket.shard, candidate.bucket.minute,
                           candidate.bucket.minute + 1, candidate.newest_accepted_s, 1));
  }
  return ExpireAll(store, std::move(ranges), /*only_whole=*/true);
}

// Owns what its entries borrow.
class Entries {
 public:
  // A VIEW of `cookie`; an empty key gets a random id.
  const LogEntry& Add(const std::string& cookie, int64_t time_ms, const std::string& key = "",
                      uint32_t accepted_s = 1000, int price = 1, uint32_t shards = 128) {
    v1::Tag& tag = tags_.emplace_back();
    tag.set_cookie(cookie);
    tag.set_time_ms(time_ms);
    tag.set_action(v1::ACTION_VIEW);
    tag.set_device(v1::DEVICE_PC);
    tag.mutable_product_info()->set_price(price);
    LogEntry& entry = entries_.emplace_back();
    entry.shard = router::ShardOf(cookie, shards);
    entry.minute = router::MinuteOf(time_ms);
    entry.time_ms = time_ms;
    entry.id = key.empty() ? router::NewEventId(absl::Now()) : router::KeyedEventId(key, cookie);
    entry.accepted_s = accepted_s;
    entry.tag = bytes_.emplace_back(tag.SerializeAsString());
    entry.parsed = &tag;
    return entry;
  }
  absl::Span<const LogEntry> all() const { return entries_; }

 private:
  std::vector<LogEntry> entries_;
  std::deque<v1::Tag> tags_;
  std::deque<std::string> bytes_;
};

// Keeps a row an event in its column family (key and tag of the log) and counts what it was told.
class RememberingView : public View {
 public:
  void Configure(rocksdb::ColumnFamilyOptions&) override {}
  absl::Status Open(const ViewContext& context) override {
    context_ = context;
    return absl::OkStatus();
  }
  void Stage(absl::Span<const LogEntry> entries, rocksdb::WriteBatch& batch) override {
    for (const LogEntry& entry : entries) {
      batch.Put(context_.column_family, KeyOf(entry),
                rocksdb::Slice(entry.tag.data(), entry.tag.size()));
    }
  }
  void StageRemove(const LogEntry& old, rocksdb::WriteBatch& batch) override {
    batch.Delete(context_.column_family, KeyOf(old));
  }
  void Committed(absl::Span<const LogEntry> added, absl::Span<const LogEntry> gone) override {
    committed += added.size();
    for (const LogEntry& old : gone) lost_some.push_back(old.minute);
  }
  void StageAgain(absl::Span<const LogEntry> entries, rocksdb::WriteBatch& batch) override {
    Stage(entries, batch);
  }
  void StageExpire(absl::Span<const ExpiredBucket>, absl::Span<const int64_t>,
                   rocksdb::WriteBatch&) override {}
  void Expired(absl::Span<const ExpiredBucket> buckets,
               absl::Span<const int64_t> minutes) override {
    expired.insert(expired.end(), buckets.begin(), buckets.end());
    emptied.insert(emptied.end(), minutes.begin(), minutes.end());
  }
  void Tick(absl::Time) override {}
  void Close() override { ++closed; }

  int Rows() const { return static_cast<int>(AllRows().size()); }
  std::map<std::string, std::string> AllRows() const {
    std::unique_ptr<rocksdb::Iterator> it(context_.db->NewIterator({}, context_.column_family));
    std::map<std::string, std::string> rows;
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      rows[it->key().ToString()] = it->value().ToString();
    }
    return rows;
  }

  size_t committed = 0;
  int closed = 0;
  std::vector<ExpiredBucket> expired;
  std::vector<int64_t> emptied;
  std::vector<int64_t> lost_some;

 private:
  static std::string KeyOf(const LogEntry& entry) {
    return LogKey(entry.minute, entry.shard, router::AsBytes(entry.id));
  }

  ViewContext context_;
};

}  // namespace allezon::replica
