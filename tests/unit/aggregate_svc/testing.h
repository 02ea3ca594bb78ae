// SPDX-License-Identifier: Apache-2.0
//
// The view on a RocksDB of its own and a log that is a map, so that a test can stop between the
// steps of a commit, which the real store takes at once.
#pragma once

#include <gtest/gtest.h>
#include <rocksdb/db.h>
#include <rocksdb/iterator.h>
#include <rocksdb/utilities/stackable_db.h>
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "aggregate_svc/aggregate_view.h"
#include "replica/view.h"
#include "router/shard.h"

namespace allezon::aggregate_svc {

// An event and what its log entry borrows.
struct OwnedEvent {
  replica::LogEntry entry;
  v1::Tag tag;
  std::string bytes;
};

inline std::unique_ptr<OwnedEvent> MakeOwned(int64_t minute, uint32_t shard, v1::Action action,
                                             const std::string& origin, const std::string& brand,
                                             const std::string& category, int32_t price,
                                             uint32_t accepted_s = 1000) {
  auto event = std::make_unique<OwnedEvent>();
  event->tag.set_time_ms(minute * router::kMinuteMs);
  event->tag.set_cookie("c");
  event->tag.set_action(action);
  event->tag.set_origin(origin);
  event->tag.mutable_product_info()->set_brand_id(brand);
  event->tag.mutable_product_info()->set_category_id(category);
  event->tag.mutable_product_info()->set_price(price);
  event->bytes = event->tag.SerializeAsString();
  event->entry = {.shard = shard,
                  .minute = minute,
                  .time_ms = event->tag.time_ms(),
                  .id = router::NewEventId(absl::Now()),
                  .accepted_s = accepted_s,
                  .tag = event->bytes,
                  .parsed = &event->tag};
  return event;
}

// Thread-safe.
class MapLog final : public replica::LogReader {
 public:
  void Add(std::unique_ptr<OwnedEvent> event) {
    absl::MutexLock lock(&mutex_);
    minutes_[event->entry.minute].push_back(std::move(event));
  }
  // What it was; null where it was not there.
  std::unique_ptr<OwnedEvent> Remove(int64_t minute, const replica::EventId& id) {
    absl::MutexLock lock(&mutex_);
    return RemoveLocked(minute, id);
  }
  // One event in the place of another, at once, as the store commits it.
  std::unique_ptr<OwnedEvent> Replace(int64_t old_minute, std::unique_ptr<OwnedEvent> event) {
    absl::MutexLock lock(&mutex_);
    std::unique_ptr<OwnedEvent> old = RemoveLocked(old_minute, event->entry.id);
    minutes_[event->entry.minute].push_back(std::move(event));
    return old;
  }
  // The log's half of what retention does; when it did is told apart.
  replica::ExpiredBucket Expire(int64_t minute, uint32_t shard, uint32_t through_s) {
    absl::MutexLock lock(&mutex_);
    replica::ExpiredBucket bucket;
    bucket.shard = shard;
    bucket.minute = minute;
    auto& events = minutes_[minute];
    std::erase_if(events, [&](const auto& event) {
      if (event->entry.shard != shard) return false;
      if (event->entry.accepted_s > through_s) {
        bucket.is_empty = false;
        return false;
      }
      bucket.removed.Add(router::AsBytes(event->entry.id), event->entry.tag);
      return true;
    });
    if (events.empty()) minutes_.erase(minute);
    return bucket;
  }
  void SetExpiredAt(int64_t minute, uint32_t shard, uint32_t expired_at_s) {
    absl::MutexLock lock(&mutex_);
    expired_at_s_[{minute, shard}] = expired_at_s;
  }
  std::vector<uint32_t> ShardsOf(int64_t minute) const {
    absl::MutexLock lock(&mutex_);
    std::set<uint32_t> shards;
    const auto found = minutes_.find(minute);
    if (found == minutes_.end()) return {};
    for (const auto& event : found->second) shards.insert(event->entry.shard);
    return {shards.begin(), shards.end()};
  }
  // How often each was called.
  mutable std::atomic<int> minutes_read = 0;
  mutable std::atomic<int> buckets_read = 0;

  absl::Status ReadMinute(
      int64_t minute, const std::function<void(const replica::LogEntry&)>& visit) const override {
    ++minutes_read;
    return Read(
        minute, [](uint32_t) { return true; }, visit);
  }
  absl::Status ReadBucket(
      int64_t minute, replica::ShardId shard,
      const std::function<void(const replica::LogEntry&)>& visit) const override {
    ++buckets_read;
    return Read(
        minute, [&](uint32_t of) { return of == shard; }, visit);
  }
  absl::StatusOr<replica::Digest> MinuteDigest(int64_t minute) const override {
    return DigestOf(minute, [](uint32_t) { return true; });
  }
  absl::StatusOr<replica::Digest> BucketDigest(int64_t minute,
                                               replica::ShardId shard) const override {
    return DigestOf(minute, [&](uint32_t of) { return of == shard; });
  }
  absl::Status VisitMinutes(
      absl::FunctionRef<absl::Status(int64_t, const replica::Digest&)> visit) const override {
    std::vector<int64_t> minutes;
    {
      absl::MutexLock lock(&mutex_);
      for (const auto& [minute, events] : minutes_) minutes.push_back(minute);
    }
    for (const int64_t minute : minutes) {
      if (absl::Status status = visit(minute, *MinuteDigest(minute)); !status.ok()) return status;
    }
    return absl::OkStatus();
  }
  uint32_t RemovedThroughS(replica::ShardId, int64_t) const override { return 0; }
  uint32_t ExpiredAtS(absl::Span<const replica::ShardId> shards, int64_t minute) const override {
    absl::MutexLock lock(&mutex_);
    uint32_t latest = 0;
    for (const uint32_t shard : shards) {
      const auto found = expired_at_s_.find({minute, shard});
      if (found != expired_at_s_.end()) latest = std::max(latest, found->second);
    }
    return latest;
  }
  int64_t NewestTimeMs() const override { return 0; }

 private:
  std::unique_ptr<OwnedEvent> RemoveLocked(int64_t minute, const replica::EventId& id)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto found = minutes_.find(minute);
    if (found == minutes_.end()) return nullptr;
    auto& events = found->second;
    const auto event = std::find_if(events.begin(), events.end(),
                                    [&](const auto& one) { return one->entry.id == id; });
    if (event == events.end()) return nullptr;
    std::unique_ptr<OwnedEvent> removed = std::move(*event);
    events.erase(event);
    if (events.empty()) minutes_.erase(found);
    return removed;
  }
  absl::Status Read(int64_t minute, const std::function<bool(uint32_t)>& counts,
                    const std::function<void(const replica::LogEntry&)>& visit) const {
    absl::MutexLock lock(&mutex_);
    const auto found = minutes_.find(minute);
    if (found == minutes_.end()) return absl::OkStatus();
    for (const auto& event : found->second) {
      if (counts(event->entry.shard)) visit(event->entry);
    }
    return absl::OkStatus();
  }
  replica::Digest DigestOf(int64_t minute, const std::function<bool(uint32_t)>& counts) const {
    absl::MutexLock lock(&mutex_);
    replica::Digest digest;
    const auto found = minutes_.find(minute);
    if (found == minutes_.end()) return digest;
    for (const auto& event : found->second) {
      if (!counts(event->entry.shard)) continue;
      digest.Add(router::AsBytes(event->entry.id), event->entry.tag);
    }
    return digest;
  }

  mutable absl::Mutex mutex_;
  std::map<int64_t, std::vector<std::unique_ptr<OwnedEvent>>> minutes_ ABSL_GUARDED_BY(mutex_);
  // By minute and shard.
  std::map<std::pair<int64_t, uint32_t>, uint32_t> expired_at_s_ ABSL_GUARDED_BY(mutex_);
};

// A database that refuses writes or iterators while it is told to, does something before the next
// write, and counts.
class RefusingDb final : public rocksdb::StackableDB {
 public:
  using StackableDB::StackableDB;
  using StackableDB::Write;
  rocksdb::Status Write(const rocksdb::WriteOptions& options, rocksdb::WriteBatch* batch) override {
    if (const auto first = std::exchange(before_next, nullptr)) first();
    if (refuses) return rocksdb::Status::IOError("refused");
    ++writes;
    return StackableDB::Write(options, batch);
  }
  using StackableDB::NewIterator;
  rocksdb::Iterator* NewIterator(const rocksdb::ReadOptions& options,
                                 rocksdb::ColumnFamilyHandle* family) override {
    ++iterators;
    if (refuses_iterators) return rocksdb::NewErrorIterator(rocksdb::Status::IOError("refused"));
    return StackableDB::NewIterator(options, family);
  }
  std::atomic<bool> refuses = false;
  std::atomic<bool> refuses_iterators = false;
  std::atomic<int> writes = 0;
  std::atomic<int> iterators = 0;
  std::function<void()> before_next;  // set while nothing is written
};

class ViewInDb {
 public:
  explicit ViewInDb(AggregateViewOptions options) : options_(options) {
    std::string pattern = (std::filesystem::temp_directory_path() / "allezon-test-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
    Open();
  }
  ~ViewInDb() {
    Drop();
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  // Begins again with what is on disk, with or without the view's goodbye.
  void Restart(bool close) {
    if (close) view_->Close();
    Drop();
    Open();
  }

  void Commit(std::vector<std::unique_ptr<OwnedEvent>> events) {
    std::vector<replica::LogEntry> entries;
    for (auto& event : events) {
      entries.push_back(event->entry);
      log_.Add(std::move(event));
    }
    view_->Committed(entries, {});
  }
  void Commit(std::unique_ptr<OwnedEvent> event) {
    std::vector<std::unique_ptr<OwnedEvent>> events;
    events.push_back(std::move(event));
    Commit(std::move(events));
  }

  // `rival` comes with the key of an event of `old_minute`.
  void Replace(int64_t old_minute, std::unique_ptr<OwnedEvent> rival) {
    const replica::LogEntry added = rival->entry;
    const std::unique_ptr<OwnedEvent> old = log_.Replace(old_minute, std::move(rival));
    if (old == nullptr) std::abort();
    view_->Committed({&added, 1}, {&old->entry, 1});
  }

  // Retention's steps, as the store takes them.
  struct Expiry {
    std::vector<replica::ExpiredBucket> buckets;
    std::vector<int64_t> emptied;
    uint32_t at_s = 0;
  };
  Expiry StageExpire(int64_t minute, const std::vector<uint32_t>& shards, uint32_t through_s) {
    Expiry expiry;
    expiry.at_s = through_s;
    for (const uint32_t shard : shards) {
      expiry.buckets.push_back(log_.Expire(minute, shard, through_s));
    }
    if (log_.ShardsOf(minute).empty()) expiry.emptied.push_back(minute);
    rocksdb::WriteBatch batch;
    view_->StageExpire(expiry.buckets, expiry.emptied, batch);
    Must(db_->Write({}, &batch));
    return expiry;
  }
  void FinishExpire(const Expiry& expiry) {
    for (const replica::ExpiredBucket& bucket : expiry.buckets) {
      log_.SetExpiredAt(bucket.minute, bucket.shard, expiry.at_s);
    }
    view_->Expired(expiry.buckets, expiry.emptied);
  }
  void Expire(int64_t minute, const std::vector<uint32_t>& shards, uint32_t through_s) {
    FinishExpire(StageExpire(minute, shards, through_s));
  }

  // The view's keys and values.
  std::map<std::string, std::string> Stored() const {
    std::map<std::string, std::string> stored;
    std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator({}, handles_[1]));
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      stored[it->key().ToString()] = it->value().ToString();
    }
    return stored;
  }
  void Overwrite(const std::string& key, const std::string& value) {
    Must(db_->Put({}, handles_[1], key, value));
  }

  void Delete(const std::string& key) { Must(db_->Delete({}, handles_[1], key)); }

  void FailWrites(bool fail) { db_->refuses = fail; }
  void FailLookups(bool fail) { db_->refuses_iterators = fail; }
  // Of the view, and of what is done here, since it was opened.
  int writes() const { return db_->writes; }
  int lookups() const { return db_->iterators; }
  // Of whoever writes next, in its thread.
  void BeforeNextWrite(std::function<void()> what) { db_->before_next = std::move(what); }

  AggregateView& view() { return *view_; }
  MapLog& log() { return log_; }

 private:
  static void Must(const rocksdb::Status& status) {
    if (!status.ok()) std::abort();
  }

  void Open() {
    view_ = std::make_unique<AggregateView>(options_);
    rocksdb::DBOptions options;
    options.create_if_missing = true;
    options.create_missing_column_families = true;
    std::vector<rocksdb::ColumnFamilyDescriptor> families(2);
    families[0].name = rocksdb::kDefaultColumnFamilyName;
    families[1].name = "view";
    view_->Configure(families[1].options);
    rocksdb::DB* db = nullptr;
    Must(rocksdb::DB::Open(options, path_, families, &handles_, &db));
    db_ = std::make_unique<RefusingDb>(db);
    const replica::ViewContext context{db_.get(), handles_[1], &log_};
    if (const absl::Status status = view_->Open(context); !status.ok()) std::abort();
  }
  void Drop() {
    view_.reset();
    for (auto* handle : handles_) Must(db_->DestroyColumnFamilyHandle(handle));
    handles_.clear();
    db_.reset();
  }

  const AggregateViewOptions options_;
  std::string path_;
  MapLog log_;
  std::vector<rocksdb::ColumnFamilyHandle*> handles_;
  std::unique_ptr<RefusingDb> db_;
  std::unique_ptr<AggregateView> view_;
};

}  // namespace allezon::aggregate_svc
