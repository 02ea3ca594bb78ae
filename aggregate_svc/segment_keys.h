// SPDX-License-Identifier: Apache-2.0
//
// The keys of sealed segments, as told in segment_store.h. Internal to the view.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "replica/log_format.h"

namespace allezon::aggregate_svc {

struct SegmentKey {
  int64_t minute = 0;
  uint64_t sequence = 0;
};

inline std::string FormatKey(const SegmentKey& key) {
  std::string bytes = replica::MinuteKey(key.minute);
  const uint64_t big = __builtin_bswap64(key.sequence);
  bytes.append(reinterpret_cast<const char*>(&big), sizeof(big));
  return bytes;
}

// nullopt where the bytes are no such key.
inline std::optional<SegmentKey> ParseKey(std::string_view key) {
  uint64_t big = 0;
  if (key.size() <= sizeof(big)) return std::nullopt;
  const auto minute = replica::ParseMinuteKey(key.substr(0, key.size() - sizeof(big)));
  if (!minute) return std::nullopt;
  std::memcpy(&big, key.data() + key.size() - sizeof(big), sizeof(big));
  return SegmentKey{*minute, __builtin_bswap64(big)};
}

}  // namespace allezon::aggregate_svc
