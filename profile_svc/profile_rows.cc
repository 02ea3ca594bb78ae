// SPDX-License-Identifier: Apache-2.0
//
// Handing profiles to an empty replica: the rows that outlive the log, and putting them.
#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>

#include <limits>
#include <memory>

#include "absl/strings/str_cat.h"
#include "profile_svc/profile_keys.h"
#include "profile_svc/profile_view.h"

namespace allezon::profile_svc {
namespace {

// Read ahead while a page is scanned; it goes through the shard once.
constexpr size_t kReadaheadBytes = 256 << 10;

// Whether the row is what Stage would have written for its tag in this shard.
bool IsRow(replica::ShardId shard, const v1::ViewRow& row, v1::Tag& scratch) {
  const auto key = ParseKey(row.key());
  const auto value = ParseValue(row.value());
  if (!key || !value || shard > std::numeric_limits<uint16_t>::max()) return false;
  if (!scratch.ParseFromArray(value->tag.data(), static_cast<int>(value->tag.size()))) return false;
  if (scratch.action() != v1::ACTION_VIEW && scratch.action() != v1::ACTION_BUY) return false;
  if (scratch.cookie().size() > std::numeric_limits<uint16_t>::max()) return false;
  std::string want;
  SetPrefix(want, shard, scratch.cookie(), scratch.action());
  return key->prefix == want && key->time_ms == scratch.time_ms();
}

}  // namespace

absl::Status ProfileView::ReadRows(replica::ShardId shard, std::string_view after_key,
                                   size_t bytes_max, std::vector<v1::ViewRow>* rows,
                                   std::string* last_key) const {
  rows->clear();
  last_key->clear();
  const std::string prefix = ShardPrefix(shard);
  if (!after_key.empty() && !after_key.starts_with(prefix)) {
    return absl::InvalidArgumentError(absl::StrCat("no key of shard ", shard, " to read after"));
  }
  std::string first(after_key.empty() ? prefix : after_key);
  if (!after_key.empty()) first.push_back('\0');  // the next key
  const std::string end = ShardPrefix(shard + 1);
  const rocksdb::Slice end_slice(end);
  rocksdb::ReadOptions options;
  options.total_order_seek = true;  // over the prefixes of many cookies
  options.iterate_upper_bound = &end_slice;
  options.fill_cache = false;  // profiles that are asked for are worth more
  options.readahead_size = kReadaheadBytes;
  options.background_purge_on_iterator_cleanup = true;  // a read deletes no files
  const std::unique_ptr<rocksdb::Iterator> it(
      context_.db->NewIterator(options, context_.column_family));
  size_t bytes = 0;
  size_t scanned = 0;
  std::string seen;
  for (it->Seek(first); it->Valid(); it->Next()) {
    if (bytes >= bytes_max || scanned == kPageRowsScannedMax) {
      *last_key = std::move(seen);
      return absl::OkStatus();
    }
    ++scanned;
    seen.assign(it->key().data(), it->key().size());
    const auto key = ParseKey(it->key().ToStringView());
    const auto value = ParseValue(it->value().ToStringView());
    if (!key || !value) {
      return absl::DataLossError(absl::StrCat("a row of shard ", shard, " cannot be read"));
    }
    const int64_t minute = router::MinuteOf(key->time_ms);
    if (value->accepted_s > context_.log->RemovedThroughS(shard, minute)) continue;
    v1::ViewRow& row = rows->emplace_back();
    row.set_key(it->key().data(), it->key().size());
    row.set_value(it->value().data(), it->value().size());
    bytes += row.key().size() + row.value().size();
  }
  return FromRocks(it->status());
}

absl::Status ProfileView::StageRows(replica::ShardId shard, absl::Span<const v1::ViewRow> rows,
                                    rocksdb::WriteBatch& batch) {
  v1::Tag scratch;
  for (const v1::ViewRow& row : rows) {
    if (!IsRow(shard, row, scratch)) {
      return absl::InvalidArgumentError(absl::StrCat("that is no row of shard ", shard));
    }
    // Two tags of one key may have one row, of which the later one is in the log.
    std::string held;
    const rocksdb::Status found = context_.db->Get({}, context_.column_family, row.key(), &held);
    if (!found.ok() && !found.IsNotFound()) {
      return absl::DataLossError(absl::StrCat("a row of shard ", shard, " cannot be read"));
    }
    const auto held_value = found.ok() ? ParseValue(held) : std::nullopt;
    if (held_value && held_value->accepted_s >= ParseValue(row.value())->accepted_s) continue;
    batch.Put(context_.column_family, row.key(), row.value());
  }
  return absl::OkStatus();
}

}  // namespace allezon::profile_svc
