// SPDX-License-Identifier: Apache-2.0
//
// The view on a RocksDB of its own and a log that is a map, so that a test can stop between the
// steps of a commit, which the real store takes at once.
#pragma once

#include <gtest/gtest.h>
#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
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
  void Remove(int64_t minute, const replica::EventId& id) {
    absl::MutexLock lock(&mutex_);
    auto& events = minutes_[minute];
    std::erase_if(events, [&](const auto& event) { return event->entry.id == id; });
    if (events.empty()) minutes_.erase(minute);
  }
  // The log's half of what retention does; `taken` is told apart, as it is in the store.
  void Take(int64_t minute, uint32_t through_s) {
    absl::MutexLock lock(&mutex_);
    auto& events = minutes_[minute];
    std::erase_if(events, [&](const auto& event) { return event->entry.accepted_s <= through_s; });
    if (events.empty()) minutes_.erase(minute);
  }
  void SetTaken(int64_t minute, uint32_t through_s) {
    absl::MutexLock lock(&mutex_);
    taken_[minute] = through_s;
  }

  absl::Status ReadMinute(
      int64_t minute, const std::function<void(const replica::LogEntry&)>& visit) const override {
    absl::MutexLock lock(&mutex_);
    const auto found = minutes_.find(minute);
    if (found == minutes_.end()) return absl::OkStatus();
    for (const auto& event : found->second) visit(event->entry);
    return absl::OkStatus();
  }
  replica::Digest MinuteDigest(int64_t minute) const override {
    return DigestOf(minute, [](uint32_t) { return true; });
  }
  replica::Digest BucketDigest(int64_t minute, replica::ShardId shard) const override {
    return DigestOf(minute, [&](uint32_t of) { return of == shard; });
  }
  std::vector<int64_t> Minutes() const override {
    absl::MutexLock lock(&mutex_);
    std::vector<int64_t> minutes;
    for (const auto& [minute, events] : minutes_) minutes.push_back(minute);
    return minutes;
  }
  uint32_t TakenThroughS(int64_t minute) const override {
    absl::MutexLock lock(&mutex_);
    const auto found = taken_.find(minute);
    return found == taken_.end() ? 0 : found->second;
  }
  int64_t NewestTimeMs() const override { return 0; }

 private:
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
  std::map<int64_t, uint32_t> taken_ ABSL_GUARDED_BY(mutex_);
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
    view_->Committed(entries);
  }
  void Commit(std::unique_ptr<OwnedEvent> event) {
    std::vector<std::unique_ptr<OwnedEvent>> events;
    events.push_back(std::move(event));
    Commit(std::move(events));
  }

  // Retention's steps, as the store takes them.
  void StageTake(int64_t minute, uint32_t through_s) {
    rocksdb::WriteBatch batch;
    view_->StageTakeMinute(minute, through_s, batch);
    Must(db_->Write({}, &batch));
    log_.Take(minute, through_s);
  }
  void FinishTake(int64_t minute, uint32_t through_s) {
    log_.SetTaken(minute, through_s);
    view_->MinuteTaken(minute, through_s);
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
    db_.reset(db);
    const replica::ViewContext context{db, handles_[1], &log_};
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
  std::unique_ptr<rocksdb::DB> db_;
  std::unique_ptr<AggregateView> view_;
};

}  // namespace allezon::aggregate_svc
