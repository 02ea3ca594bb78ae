// SPDX-License-Identifier: Apache-2.0
#include "router/stored_tags.h"

#include <cassert>

#include "absl/status/status.h"
#include "router/shard.h"

namespace allezon::router {
namespace {

constexpr size_t kIdBytes = std::tuple_size_v<EventId>;

}  // namespace

void AppendStoredTag(const StoredTag& row, v1::StoredTags& columns) {
  assert(row.event_id.size() == kIdBytes);
  columns.mutable_event_ids()->append(row.event_id);
  columns.add_time_ms(row.time_ms);
  columns.add_tag_bytes(static_cast<uint32_t>(row.tag.size()));
  columns.mutable_tags()->append(row.tag);
}

absl::StatusOr<std::vector<StoredTag>> ReadStoredTags(const v1::StoredTags& columns) {
  const auto rows = static_cast<size_t>(columns.time_ms_size());
  std::string_view ids = columns.event_ids(), tags = columns.tags();
  size_t bytes = 0;
  for (const uint32_t one : columns.tag_bytes()) bytes += one;
  if (ids.size() != rows * kIdBytes || static_cast<size_t>(columns.tag_bytes_size()) != rows ||
      bytes != tags.size()) {
    return absl::InternalError("a replica's answer has columns of different lengths");
  }
  std::vector<StoredTag> read(rows);
  for (size_t i = 0; i < rows; ++i) {
    const uint32_t size = columns.tag_bytes(static_cast<int>(i));
    read[i] = {ids.substr(i * kIdBytes, kIdBytes), columns.time_ms(static_cast<int>(i)),
               tags.substr(0, size)};
    tags.remove_prefix(size);
  }
  return read;
}

}  // namespace allezon::router
