// SPDX-License-Identifier: Apache-2.0
//
// Shared by the sources of Store only.
#pragma once

#include <rocksdb/status.h>

#include <cstdint>
#include <limits>
#include <string_view>

#include "absl/status/status.h"
#include "replica/log_format.h"

namespace allezon::replica {

// Indexes of the column families; "default" holds whose folder it is.
enum ColumnFamily {
  kMetaCf,
  kLogCf,
  kDigestCf,
  kTakenCf,
  kKeyedCf,
  kViewCf,
  kExpiredCf,
  kHoursCf,
  kColumnFamilies
};

// Keys of the meta column family that change while the store is open.
inline constexpr char kJoinedKey[] = "joined";
inline constexpr char kDamagedKey[] = "damaged";
inline constexpr char kCompleteKey[] = "complete_as_of_s";
// There while a process has the folder whose commits are not synced.
inline constexpr char kUnsyncedKey[] = "unsynced";

// Of all buckets.
inline constexpr ParsedBucketKey kFirstBucket{std::numeric_limits<int64_t>::min(), 0};
inline constexpr ParsedBucketKey kLastBucket{std::numeric_limits<int64_t>::max(), 0};

absl::Status FromRocks(const rocksdb::Status& status, std::string_view what);

}  // namespace allezon::replica
