// SPDX-License-Identifier: Apache-2.0
#include "replica/log_format.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <concepts>
#include <cstring>

namespace allezon::replica {
namespace {

constexpr size_t kMinuteBytes = 8;
constexpr size_t kShardBytes = 2;
constexpr size_t kIdBytes = 16;
static_assert(kMinuteBytes + kShardBytes == kBucketKeyBytes);
constexpr uint64_t kSignBit = uint64_t{1} << 63;

static_assert(std::endian::native == std::endian::little, "values are copied as they are");

void AppendMinute(std::string& out, int64_t minute) {
  const uint64_t big = __builtin_bswap64(static_cast<uint64_t>(minute) ^ kSignBit);
  out.append(reinterpret_cast<const char*>(&big), sizeof(big));
}

void AppendShard(std::string& out, router::ShardId shard) {
  out.push_back(static_cast<char>(shard >> 8));
  out.push_back(static_cast<char>(shard & 0xff));
}

int64_t MinuteAt(const char* data) {
  uint64_t big;
  std::memcpy(&big, data, sizeof(big));
  return static_cast<int64_t>(__builtin_bswap64(big) ^ kSignBit);
}

router::ShardId ShardAt(const char* data) {
  return (static_cast<unsigned char>(data[0]) << 8) | static_cast<unsigned char>(data[1]);
}

template <std::integral T>
void AppendValue(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <std::integral T>
T ValueAt(const char* data) {
  T value;
  std::memcpy(&value, data, sizeof(value));
  return value;
}

std::string ShardFirstKey(router::ShardId shard, int64_t number) {
  std::string key;
  AppendShard(key, shard);
  AppendMinute(key, number);
  return key;
}

constexpr size_t kDigestBytes = 24;

Digest DigestAt(const char* data) {
  Digest digest;
  digest.count = ValueAt<uint64_t>(data);
  digest.sum = absl::MakeUint128(ValueAt<uint64_t>(data + 16), ValueAt<uint64_t>(data + 8));
  return digest;
}

}  // namespace

void Bucket::Add(std::string_view event_id, uint32_t accepted_s, std::string_view tag) {
  const bool empty = digest.count == 0;
  digest.Add(event_id, tag);
  oldest_accepted_s = empty ? accepted_s : std::min(oldest_accepted_s, accepted_s);
  newest_accepted_s = std::max(newest_accepted_s, accepted_s);
}

void Bucket::Add(const Bucket& other) {
  if (other.digest.count == 0) return;
  oldest_accepted_s = digest.count == 0 ? other.oldest_accepted_s
                                        : std::min(oldest_accepted_s, other.oldest_accepted_s);
  newest_accepted_s = std::max(newest_accepted_s, other.newest_accepted_s);
  digest.Add(other.digest);
}

void Bucket::Remove(std::string_view event_id, std::string_view tag) {
  assert(digest.count > 0);
  digest.Remove(event_id, tag);
  if (digest.count == 0) *this = Bucket();
}

std::string LogKey(int64_t minute, router::ShardId shard, std::string_view event_id) {
  std::string key;
  key.reserve(kMinuteBytes + kShardBytes + event_id.size());
  AppendLogKey(minute, shard, event_id, key);
  return key;
}

void AppendLogKey(int64_t minute, router::ShardId shard, std::string_view event_id,
                  std::string& keys) {
  AppendMinute(keys, minute);
  AppendShard(keys, shard);
  keys.append(event_id);
}

void AppendKeyedKey(router::ShardId shard, std::string_view event_id, std::string& keys) {
  AppendShard(keys, shard);
  keys.append(event_id);
}

std::string BucketKey(int64_t minute, router::ShardId shard) { return LogKey(minute, shard, {}); }

std::string MinuteKey(int64_t minute) {
  std::string key;
  AppendMinute(key, minute);
  return key;
}

std::string KeyedKey(router::ShardId shard, std::string_view event_id) {
  std::string key;
  key.reserve(kShardBytes + event_id.size());
  AppendKeyedKey(shard, event_id, key);
  return key;
}

std::optional<ParsedLogKey> ParseLogKey(std::string_view key) {
  if (key.size() != kMinuteBytes + kShardBytes + kIdBytes) return std::nullopt;
  return ParsedLogKey{MinuteAt(key.data()), ShardAt(key.data() + kMinuteBytes),
                      key.substr(kMinuteBytes + kShardBytes)};
}

std::optional<ParsedBucketKey> ParseBucketKey(std::string_view key) {
  if (key.size() != kMinuteBytes + kShardBytes) return std::nullopt;
  return ParsedBucketKey{MinuteAt(key.data()), ShardAt(key.data() + kMinuteBytes)};
}

std::optional<int64_t> ParseMinuteKey(std::string_view key) {
  if (key.size() != kMinuteBytes) return std::nullopt;
  return MinuteAt(key.data());
}

std::optional<ParsedLogValue> ParseLogValue(std::string_view value) {
  if (value.size() < sizeof(uint32_t)) return std::nullopt;
  return ParsedLogValue{ValueAt<uint32_t>(value.data()), value.substr(sizeof(uint32_t))};
}

std::string HourKey(router::ShardId shard, int64_t hour) { return ShardFirstKey(shard, hour); }

std::optional<ParsedHourKey> ParseHourKey(std::string_view key) {
  if (key.size() != kMinuteBytes + kShardBytes) return std::nullopt;
  return ParsedHourKey{ShardAt(key.data()), MinuteAt(key.data() + kShardBytes)};
}

std::string DigestValue(const Digest& digest) {
  std::string value;
  AppendValue(value, digest.count);
  AppendValue(value, absl::Uint128Low64(digest.sum));
  AppendValue(value, absl::Uint128High64(digest.sum));
  return value;
}

std::optional<Digest> ParseDigestValue(std::string_view value) {
  if (value.size() != kDigestBytes) return std::nullopt;
  return DigestAt(value.data());
}

std::string BucketValue(const Bucket& bucket) {
  std::string value = DigestValue(bucket.digest);
  AppendValue(value, bucket.oldest_accepted_s);
  AppendValue(value, bucket.newest_accepted_s);
  return value;
}

std::optional<Bucket> ParseBucketValue(std::string_view value) {
  if (value.size() != kDigestBytes + 2 * sizeof(uint32_t)) return std::nullopt;
  Bucket bucket;
  bucket.digest = DigestAt(value.data());
  bucket.oldest_accepted_s = ValueAt<uint32_t>(value.data() + kDigestBytes);
  bucket.newest_accepted_s = ValueAt<uint32_t>(value.data() + kDigestBytes + sizeof(uint32_t));
  return bucket;
}

uint64_t ContentHash(std::string_view tag) { return router::ContentHash(tag); }

std::string KeyedValue(int64_t minute, uint64_t content_hash) {
  std::string value;
  value.reserve(kMinuteBytes + sizeof(content_hash));
  AppendMinute(value, minute);
  AppendValue(value, content_hash);
  return value;
}

std::optional<ParsedKeyedValue> ParseKeyedValue(std::string_view value) {
  if (value.size() != kMinuteBytes + sizeof(uint64_t)) return std::nullopt;
  return ParsedKeyedValue{MinuteAt(value.data()), ValueAt<uint64_t>(value.data() + kMinuteBytes)};
}

std::string ExpiredKey(router::ShardId shard, int64_t from_minute) {
  return ShardFirstKey(shard, from_minute);
}

std::optional<ParsedBucketKey> ParseExpiredKey(std::string_view key) {
  if (key.size() != kMinuteBytes + kShardBytes) return std::nullopt;
  return ParsedBucketKey{MinuteAt(key.data() + kShardBytes), ShardAt(key.data())};
}

std::string ExpiredValue(const ExpiredRanges::Range& range) {
  std::string value;
  AppendMinute(value, range.to);
  AppendValue(value, range.mark.through_s);
  AppendValue(value, range.mark.removed_through_s);
  AppendValue(value, range.mark.expired_at_s);
  return value;
}

std::optional<ExpiredRanges::Range> ParseExpiredValue(std::string_view value) {
  if (value.size() != kMinuteBytes + 3 * sizeof(uint32_t)) return std::nullopt;
  const char* const marks = value.data() + kMinuteBytes;
  return ExpiredRanges::Range{
      MinuteAt(value.data()),
      {ValueAt<uint32_t>(marks), ValueAt<uint32_t>(marks + 4), ValueAt<uint32_t>(marks + 8)}};
}

std::string SecondsValue(uint32_t seconds) {
  std::string value;
  AppendValue(value, seconds);
  return value;
}

std::optional<uint32_t> ParseSecondsValue(std::string_view value) {
  if (value.size() != sizeof(uint32_t)) return std::nullopt;
  return ValueAt<uint32_t>(value.data());
}

}  // namespace allezon::replica
