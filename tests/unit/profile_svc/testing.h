// SPDX-License-Identifier: Apache-2.0
//
// What the tests and the benchmark of the profile view share: a view in a RocksDB of its own, with
// a log and an agreed time that say what they are told.
#pragma once

#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "profile_svc/profile_view.h"

namespace allezon::profile_svc {

inline replica::EventId IdOf(uint64_t number) {
  replica::EventId id{};
  for (int i = 0; i < 8; ++i) id[15 - i] = static_cast<char>(number >> (8 * i));
  return id;
}

// A tag and what goes with it.
struct Row {
  replica::ShardId shard = 3;
  std::string cookie = "c";
  v1::Action action = v1::ACTION_VIEW;
  int64_t time_ms = 0;
  uint64_t id = 0;
  uint32_t accepted_s = 1000;
};

inline std::string TagOf(const Row& row) {
  v1::Tag tag;
  tag.set_cookie(row.cookie);
  tag.set_action(row.action);
  tag.set_time_ms(row.time_ms);
  tag.set_device(v1::DEVICE_PC);
  tag.mutable_product_info()->set_price(static_cast<int32_t>(row.id));
  return tag.SerializeAsString();
}

class FakeLog final : public replica::LogReader {
 public:
  absl::Status ReadMinute(int64_t,
                          const std::function<void(const replica::LogEntry&)>&) const override {
    return absl::OkStatus();
  }
  absl::Status ReadBucket(int64_t, replica::ShardId,
                          const std::function<void(const replica::LogEntry&)>&) const override {
    return absl::OkStatus();
  }
  absl::StatusOr<replica::Digest> MinuteDigest(int64_t) const override { return replica::Digest(); }
  absl::StatusOr<replica::Digest> BucketDigest(int64_t, replica::ShardId) const override {
    return replica::Digest();
  }
  absl::Status VisitMinutes(
      absl::FunctionRef<absl::Status(int64_t, const replica::Digest&)>) const override {
    return absl::OkStatus();
  }
  uint32_t RemovedThroughS(replica::ShardId shard, int64_t minute) const override {
    const auto found = removed_through_s.find({shard, minute});
    return found == removed_through_s.end() ? 0 : found->second;
  }
  uint32_t ExpiredAtS(absl::Span<const replica::ShardId>, int64_t) const override { return 0; }
  int64_t NewestTimeMs() const override { return newest_time_ms; }

  int64_t newest_time_ms = kNoTime;
  std::map<std::pair<replica::ShardId, int64_t>, uint32_t> removed_through_s;  // by bucket
};

// A RocksDB in a temporary folder whose default column family is a profile view's.
class ViewInDb {
 public:
  explicit ViewInDb(absl::Duration retention, bool auto_compactions = false)
      : retention_(retention), auto_compactions_(auto_compactions) {
    std::string pattern = (std::filesystem::temp_directory_path() / "allezon-test-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
    Open();
  }
  ~ViewInDb() {
    Close();
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  void Reopen() {
    Close();
    Open();
  }

  void Put(const std::vector<Row>& rows) {
    std::vector<std::string> bytes;
    std::vector<v1::Tag> tags(rows.size());
    std::vector<replica::LogEntry> entries(rows.size());
    bytes.reserve(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      bytes.push_back(TagOf(rows[i]));
      tags[i].ParseFromString(bytes[i]);
      entries[i].shard = rows[i].shard;
      entries[i].minute = router::MinuteOf(rows[i].time_ms);
      entries[i].time_ms = rows[i].time_ms;
      entries[i].id = IdOf(rows[i].id);
      entries[i].accepted_s = rows[i].accepted_s;
      entries[i].tag = bytes[i];
      entries[i].parsed = &tags[i];
    }
    rocksdb::WriteBatch batch;
    view_->Stage(entries, batch);
    Check(db_->Write({}, &batch));
    view_->Committed(entries, {});
  }

  // What the nodes agree on from now on, also after a reopen.
  void SetAgreedNow(absl::Time now) {
    agreed_now_ = now;
    Tick();
  }
  absl::Time agreed_now() const { return agreed_now_; }
  void Tick() { view_->Tick(agreed_now_); }

  void Flush() { Check(db_->Flush({})); }
  void CompactAll() { Check(db_->CompactRange({}, nullptr, nullptr)); }

  // Every broken promise of RocksDB ends the test.
  static void Check(const rocksdb::Status& status) {
    if (status.ok()) return;
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    std::abort();
  }

  rocksdb::DB& db() { return *db_; }
  ProfileView& view() { return *view_; }

  FakeLog log;

 private:
  void Open() {
    view_ = std::make_unique<ProfileView>(retention_);
    rocksdb::Options options;
    options.create_if_missing = true;
    options.disable_auto_compactions = !auto_compactions_;
    options.num_levels = 4;
    view_->Configure(options);
    rocksdb::DB* db = nullptr;
    Check(rocksdb::DB::Open(options, path_, &db));
    db_.reset(db);
    replica::ViewContext context;
    context.db = db;
    context.column_family = db->DefaultColumnFamily();
    context.log = &log;
    if (!view_->Open(context).ok()) std::abort();
    Tick();
  }
  void Close() {
    view_->Close();
    Check(db_->Close());
    db_.reset();
    view_.reset();
  }

  const absl::Duration retention_;
  const bool auto_compactions_;
  std::string path_;
  absl::Time agreed_now_ = absl::FromUnixSeconds(1'000'000);
  std::unique_ptr<ProfileView> view_;
  std::unique_ptr<rocksdb::DB> db_;
};

}  // namespace allezon::profile_svc
