// SPDX-License-Identifier: Apache-2.0
//
// How the set is laid out on disk. DO NOT CHANGE what is written here without raising
// kFormatVersion: data folders depend on it. Integers in keys are big endian, so that keys sort as
// numbers do; integers in values are little endian.
//
// clang-format off
//   meta    format, service, shards, store_id  ->  text
//           joined                             ->  a byte a shard: 1 where this node is a full replica of it
//           complete_as_of_s                   ->  seconds (4)
//   log     minute (8, sign bit flipped) | shard (2) | event id (16)  ->  accepted_s (4) | tag
//   digest  minute (8, sign bit flipped) | shard (2)  ->  count (8) | sum (16) | oldest, newest accepted_s (4 each)
//           minute (8, sign bit flipped)              ->  nothing: the minute's digests may be behind its log,
//                                                         and those of its hour behind its minutes'
//   hours   shard (2) | hour (8, sign bit flipped)    ->  count (8) | sum (16): of the shard's minutes in it
//   expired shard (2) | first minute (8, sign bit flipped)  ->  minute after the last (8, sign bit flipped) |
//                                             through_s, removed_through_s, expired_at_s (4 each)
//   taken   of format 3, empty now: minute (8, sign bit flipped)  ->  taken_through_s (4)
//   keyed   shard (2) | event id (16)                 ->  minute (8, sign bit flipped) | content hash (8)
// clang-format on
//
// The keyed index has one row for each id with an idempotency key, wherever its event is in the
// log. The content hash is XXH3-64 (seed 0) of the tag, which holds its time: of two events with
// one key the one with the smaller hash is kept, on every replica and whatever came first.
//
// The minute comes first in the log: what comes in lands at the end of the key space, so that
// compaction mostly moves files instead of merging them, and retention takes a whole minute with
// one range.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "replica/digest.h"
#include "replica/expired_ranges.h"
#include "router/shard.h"

namespace allezon::replica {

inline constexpr uint32_t kFormatVersion = 5;
// Folders of these are converted when they are opened.
inline constexpr uint32_t kFormatVersionByMinute = 3;  // removed by minute, and not by shard
inline constexpr uint32_t kFormatVersionNoHours = 4;

// A (shard, minute): what replicas compare. `oldest` and `newest` are bounds of accepted_s, exact
// but for events that were removed since; 0 where it is empty.
struct Bucket {
  Digest digest;
  uint32_t oldest_accepted_s = 0;
  uint32_t newest_accepted_s = 0;

  void Add(std::string_view event_id, uint32_t accepted_s, std::string_view tag);
  void Add(const Bucket& other);
  // REQUIRES: it was added.
  void Remove(std::string_view event_id, std::string_view tag);
};

// What the keys of log and digest begin with: minute and shard.
inline constexpr size_t kBucketKeyBytes = 10;
inline constexpr size_t kLogKeyBytes = kBucketKeyBytes + 16;

std::string LogKey(int64_t minute, router::ShardId shard, std::string_view event_id);
// The same behind what `keys` holds.
void AppendLogKey(int64_t minute, router::ShardId shard, std::string_view event_id,
                  std::string& keys);
void AppendKeyedKey(router::ShardId shard, std::string_view event_id, std::string& keys);
std::string BucketKey(int64_t minute, router::ShardId shard);
std::string MinuteKey(int64_t minute);
std::string KeyedKey(router::ShardId shard, std::string_view event_id);

struct ParsedLogKey {
  int64_t minute;
  router::ShardId shard;
  std::string_view event_id;
};
// nullopt where the bytes are no such key.
std::optional<ParsedLogKey> ParseLogKey(std::string_view key);
struct ParsedBucketKey {
  int64_t minute;
  router::ShardId shard;
  friend auto operator<=>(const ParsedBucketKey&, const ParsedBucketKey&) = default;
};
std::optional<ParsedBucketKey> ParseBucketKey(std::string_view key);
std::optional<int64_t> ParseMinuteKey(std::string_view key);

struct ParsedLogValue {
  uint32_t accepted_s;
  std::string_view tag;
};
std::optional<ParsedLogValue> ParseLogValue(std::string_view value);

std::string HourKey(router::ShardId shard, int64_t hour);
struct ParsedHourKey {
  router::ShardId shard;
  int64_t hour;
  friend auto operator<=>(const ParsedHourKey&, const ParsedHourKey&) = default;
};
std::optional<ParsedHourKey> ParseHourKey(std::string_view key);
std::string DigestValue(const Digest& digest);
std::optional<Digest> ParseDigestValue(std::string_view value);

std::string BucketValue(const Bucket& bucket);
std::optional<Bucket> ParseBucketValue(std::string_view value);

uint64_t ContentHash(std::string_view tag);
std::string KeyedValue(int64_t minute, uint64_t content_hash);
struct ParsedKeyedValue {
  int64_t minute;
  uint64_t content_hash;
};
std::optional<ParsedKeyedValue> ParseKeyedValue(std::string_view value);

std::string ExpiredKey(router::ShardId shard, int64_t from_minute);
std::optional<ParsedBucketKey> ParseExpiredKey(std::string_view key);
std::string ExpiredValue(const ExpiredRanges::Range& range);
std::optional<ExpiredRanges::Range> ParseExpiredValue(std::string_view value);

std::string SecondsValue(uint32_t seconds);
std::optional<uint32_t> ParseSecondsValue(std::string_view value);

}  // namespace allezon::replica
