// SPDX-License-Identifier: Apache-2.0
//
// How profiles are laid out on disk. DO NOT CHANGE what is written here without raising
// replica::kFormatVersion: data folders depend on it.
//
//   shard (2, big endian) | length of the cookie (2, big endian) | cookie | action (1) |
//   inverted time (8, big endian) | event id (16)  ->  accepted_s (4, little endian) | tag
//
// All tags of a cookie and action are one range, newest first, ties by event id. The length stands
// before the cookie, so that no prefix is the beginning of another one and a cookie may hold any
// byte. The inverted time is the bitwise complement of the time with its sign bit flipped: later
// times sort first, over the whole range of int64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "allezon/v1/tag.pb.h"
#include "router/shard.h"

namespace allezon::profile_svc {

inline constexpr size_t kShardBytes = 2;
inline constexpr size_t kCookieLengthBytes = 2;
inline constexpr size_t kActionBytes = 1;
inline constexpr size_t kTimeBytes = 8;
inline constexpr size_t kEventIdBytes = 16;
// What follows the prefix.
inline constexpr size_t kSuffixBytes = kTimeBytes + kEventIdBytes;
inline constexpr size_t kAcceptedBytes = 4;

// Sets `key` to the prefix that all tags of a cookie and action share: shard | cookie | action.
// REQUIRES: shard and the cookie's length below 2^16.
void SetPrefix(std::string& key, router::ShardId shard, std::string_view cookie, v1::Action action);
// What all keys of a shard begin with. REQUIRES: as above.
std::string ShardPrefix(router::ShardId shard);
void AppendInvertedTime(std::string& key, int64_t time_ms);

// The length of the prefix of a key that has a prefix at least; nullopt where it has none.
std::optional<size_t> PrefixBytes(std::string_view key);

// The time of what follows a prefix. REQUIRES: kTimeBytes bytes.
int64_t TimeOf(std::string_view suffix);

// Both borrow from what was parsed; nullopt where the bytes are no such thing.
struct ParsedKey {
  std::string_view prefix;
  int64_t time_ms = 0;
  std::string_view event_id;
};
std::optional<ParsedKey> ParseKey(std::string_view key);

struct ParsedValue {
  uint32_t accepted_s = 0;
  std::string_view tag;
};
std::optional<ParsedValue> ParseValue(std::string_view value);
// The first bytes of a value; the tag follows.
void SetAccepted(std::string& out, uint32_t accepted_s);

}  // namespace allezon::profile_svc
