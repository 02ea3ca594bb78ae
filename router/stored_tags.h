// SPDX-License-Identifier: Apache-2.0
//
// Columns of tags on the wire, a row at a time. Pure functions.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "allezon/v1/profile_replica.pb.h"

namespace allezon::router {

struct StoredTag {
  std::string_view event_id;  // 16 bytes
  int64_t time_ms = 0;
  std::string_view tag;  // a serialised allezon.v1.Tag
};

void AppendStoredTag(const StoredTag& row, v1::StoredTags& columns);

// In order; the rows borrow from the columns. kInternal where the columns are not of one length.
absl::StatusOr<std::vector<StoredTag>> ReadStoredTags(const v1::StoredTags& columns);

}  // namespace allezon::router
