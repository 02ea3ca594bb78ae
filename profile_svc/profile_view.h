// SPDX-License-Identifier: Apache-2.0
//
// The profiles of a node: a column family with a row a tag, ordered so that a profile is one range,
// newest first. A write is a blind put, a read a prefix scan of each action; the cut to the newest
// tags happens in a compaction filter (retention_filter.h). It holds no state but what that filter
// goes by, so nothing has to be rebuilt or flushed.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "allezon/v1/profile_replica.pb.h"
#include "profile_svc/retention_filter.h"
#include "replica/view.h"

namespace rocksdb {
class Status;
}

namespace allezon::profile_svc {

// Rows that a page may look at.
inline constexpr size_t kPageRowsScannedMax = 50'000;

// Read and ReadRows are thread-safe between Open and Close; the rest is called as
// replica::View says.
class ProfileView final : public replica::View {
 public:
  // Beyond the newest kProfileTagsKept of an action, tags go that are older than `retention` both
  // in tag time and since they were accepted, by the time that Tick is told.
  explicit ProfileView(absl::Duration retention);

  void Configure(rocksdb::ColumnFamilyOptions& options) override;
  absl::Status Open(const replica::ViewContext& context) override;
  void Stage(absl::Span<const replica::LogEntry> entries, rocksdb::WriteBatch& batch) override;
  void StageRemove(const replica::LogEntry& old, rocksdb::WriteBatch& batch) override;
  void Committed(absl::Span<const replica::LogEntry>,
                 absl::Span<const replica::LogEntry>) override {}
  // A row is put again where it may be there.
  void StageAgain(absl::Span<const replica::LogEntry> entries,
                  rocksdb::WriteBatch& batch) override {
    Stage(entries, batch);
  }
  // Profiles outlive the log: what they keep is settled by the compaction filter alone.
  void StageExpire(absl::Span<const replica::ExpiredBucket>, absl::Span<const int64_t>,
                   rocksdb::WriteBatch&) override {}
  void Expired(absl::Span<const replica::ExpiredBucket>, absl::Span<const int64_t>) override {}
  // The rows that retention took from the log are those that were accepted up to RemovedThroughS of
  // their bucket. A page ends after about `bytes_max`, or kPageRowsScannedMax
  // rows looked at. kInvalidArgument: `after_key` is of another shard. kDataLoss, kUnavailable: as
  // Read.
  absl::Status ReadRows(replica::ShardId shard, std::string_view after_key, size_t bytes_max,
                        std::vector<v1::ViewRow>* rows, std::string* last_key) const override;
  absl::Status StageRows(replica::ShardId shard, absl::Span<const v1::ViewRow> rows,
                         rocksdb::WriteBatch& batch) override;
  void Tick(absl::Time agreed_now) override;
  void Close() override {}

  enum class Tier {
    kMemoryOnly,  // never waits for the disk
    kAll,
  };
  // Sets `response` to the tags of `cookie` with from_ms <= time_ms < to_ms, newest first and ties
  // by event id, at most `limit` of each action. kDataLoss: a row cannot be read. kUnavailable: the
  // disk fails. kAborted, for kMemoryOnly: the disk would be needed; ask again with kAll. After an
  // error `response` holds nothing of use.
  absl::Status Read(replica::ShardId shard, std::string_view cookie, int64_t from_ms, int64_t to_ms,
                    uint32_t limit, v1::ReadProfileResponse& response,
                    Tier tier = Tier::kAll) const;

 private:
  struct Range {
    replica::ShardId shard;
    std::string_view cookie;
    int64_t from_ms;
    int64_t to_ms;
  };
  absl::Status FromRocks(const rocksdb::Status& status) const;
  absl::Status Scan(const Range& range, v1::Action action, uint32_t limit, Tier tier,
                    v1::StoredTags& rows) const;

  const std::shared_ptr<RetentionTimes> times_;
  const absl::Duration retention_;
  replica::ViewContext context_;
};

}  // namespace allezon::profile_svc
