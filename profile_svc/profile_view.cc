// SPDX-License-Identifier: Apache-2.0
#include "profile_svc/profile_view.h"

#include <rocksdb/db.h>
#include <rocksdb/slice_transform.h>
#include <rocksdb/write_batch.h>

#include <cassert>

#include "absl/strings/str_cat.h"
#include "profile_svc/profile_keys.h"
#include "replica/prefix_filter.h"
#include "router/stored_tags.h"

namespace allezon::profile_svc {
namespace {

// Bits of bloom filter a prefix: about 1 % false positives.
constexpr double kBloomBitsPerPrefix = 10;
// A profile of 200 tags is some 30 KB: a few blocks instead of ten of the usual 4 KB, which also
// compress better, since the tags of a user resemble each other.
constexpr size_t kBlockBytes = 16 << 10;
// The share of a memtable that its bloom filter may take.
constexpr double kMemtableBloomRatio = 0.05;
// A row may be too young to go when compaction passes by, and then rest in the bottom level for
// ever: files older than this are rewritten, at the price of one more write of each row every so
// often.
constexpr absl::Duration kRewritePeriod = absl::Hours(48);

// Shard, cookie and action: what a scan stays in.
class ProfilePrefix final : public rocksdb::SliceTransform {
 public:
  // Recorded in each file; a new name makes RocksDB ignore the old files' filters.
  const char* Name() const override { return "allezon.ProfilePrefix.1"; }
  rocksdb::Slice Transform(const rocksdb::Slice& key) const override {
    return {key.data(), PrefixBytes(key.ToStringView()).value_or(key.size())};
  }
  bool InDomain(const rocksdb::Slice& key) const override {
    return PrefixBytes(key.ToStringView()).has_value();
  }
};

void SetRowKey(std::string& key, const replica::LogEntry& entry) {
  const v1::Tag& tag = *entry.parsed;
  assert(tag.action() == v1::ACTION_VIEW || tag.action() == v1::ACTION_BUY);
  SetPrefix(key, entry.shard, tag.cookie(), tag.action());
  AppendInvertedTime(key, entry.time_ms);
  key.append(router::AsBytes(entry.id));
}

}  // namespace

ProfileView::ProfileView(absl::Duration retention)
    : times_(std::make_shared<RetentionTimes>()), retention_(retention) {}

void ProfileView::Configure(rocksdb::ColumnFamilyOptions& options) {
  // Every read names a cookie and an action: the bloom filters of memtable and files then say at
  // once which of them hold nothing for it, above all for the many cookies that never bought.
  // Rows are never looked up by their whole key, for which a filter would be 200 times as large.
  replica::FilterByPrefix(
      {std::make_shared<ProfilePrefix>(), kMemtableBloomRatio, kBloomBitsPerPrefix, kBlockBytes},
      options);
  // Upper levels are rewritten often, so fast matters there; nine rows of ten are at the bottom,
  // where size does.
  options.compression = rocksdb::kLZ4Compression;
  options.bottommost_compression = rocksdb::kZSTD;
  options.compaction_filter_factory = std::make_shared<RetentionFilterFactory>(times_, retention_);
  options.periodic_compaction_seconds = absl::ToInt64Seconds(kRewritePeriod);
}

absl::Status ProfileView::Open(const replica::ViewContext& context) {
  context_ = context;
  Tick(absl::InfinitePast());
  return absl::OkStatus();
}

void ProfileView::Tick(absl::Time agreed_now) {
  times_->newest_tag_ms.store(context_.log->NewestTimeMs(), std::memory_order_relaxed);
  // Where it is not known, what it was stays true enough.
  if (agreed_now == absl::InfinitePast()) return;
  times_->agreed_now_us.store(absl::ToUnixMicros(agreed_now), std::memory_order_relaxed);
}

void ProfileView::Stage(absl::Span<const replica::LogEntry> entries, rocksdb::WriteBatch& batch) {
  std::string key;
  std::string accepted;
  for (const replica::LogEntry& entry : entries) {
    SetRowKey(key, entry);
    SetAccepted(accepted, entry.accepted_s);
    const rocksdb::Slice key_part(key);
    const rocksdb::Slice value_parts[] = {accepted, {entry.tag.data(), entry.tag.size()}};
    batch.Put(context_.column_family, rocksdb::SliceParts(&key_part, 1),
              rocksdb::SliceParts(value_parts, 2));
  }
}

void ProfileView::StageRemove(const replica::LogEntry& old, rocksdb::WriteBatch& batch) {
  std::string key;
  SetRowKey(key, old);
  batch.Delete(context_.column_family, key);
}

absl::Status ProfileView::FromRocks(const rocksdb::Status& status) const {
  if (status.ok()) return absl::OkStatus();
  const std::string message = absl::StrCat("reading a profile: ", status.ToString());
  if (status.IsCorruption()) {
    context_.note_damage(message);
    return absl::DataLossError(message);
  }
  if (status.IsIncomplete()) return absl::AbortedError(message);
  return absl::UnavailableError(message);
}

absl::Status ProfileView::Read(replica::ShardId shard, std::string_view cookie, int64_t from_ms,
                               int64_t to_ms, uint32_t limit, v1::ReadProfileResponse& response,
                               Tier tier) const {
  response.Clear();
  const Range range{shard, cookie, from_ms, to_ms};
  absl::Status status = Scan(range, v1::ACTION_VIEW, limit, tier, *response.mutable_views());
  if (!status.ok()) return status;
  return Scan(range, v1::ACTION_BUY, limit, tier, *response.mutable_buys());
}

absl::Status ProfileView::Scan(const Range& range, v1::Action action, uint32_t limit, Tier tier,
                               v1::StoredTags& rows) const {
  if (limit == 0 || range.from_ms >= range.to_ms) return absl::OkStatus();
  std::string first;
  SetPrefix(first, range.shard, range.cookie, action);
  const size_t prefix_bytes = first.size();
  // to_ms is above from_ms, so it has a predecessor.
  AppendInvertedTime(first, range.to_ms - 1);
  // Above every event id at from_ms: longer than the largest of them.
  std::string end(first, 0, prefix_bytes);
  AppendInvertedTime(end, range.from_ms);
  end.append(kEventIdBytes, '\xff').push_back('\0');
  const rocksdb::Slice end_slice(end);

  rocksdb::ReadOptions options;
  options.prefix_same_as_start = true;  // lets the filters answer the seek
  options.iterate_upper_bound = &end_slice;
  options.background_purge_on_iterator_cleanup = true;  // a read deletes no files
  if (tier == Tier::kMemoryOnly) options.read_tier = rocksdb::kBlockCacheTier;
  const std::unique_ptr<rocksdb::Iterator> it(
      context_.db->NewIterator(options, context_.column_family));
  for (it->Seek(first); it->Valid(); it->Next()) {
    const std::string_view suffix = it->key().ToStringView().substr(prefix_bytes);
    const auto value = ParseValue(it->value().ToStringView());
    if (suffix.size() != kSuffixBytes || !value) {
      return absl::DataLossError(
          absl::StrCat("a tag in a profile of shard ", range.shard, " cannot be read"));
    }
    router::AppendStoredTag({suffix.substr(kTimeBytes), TimeOf(suffix), value->tag}, rows);
    if (static_cast<uint32_t>(rows.time_ms_size()) >= limit) return absl::OkStatus();
  }
  return FromRocks(it->status());
}

}  // namespace allezon::profile_svc
