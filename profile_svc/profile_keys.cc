// SPDX-License-Identifier: Apache-2.0
#include "profile_svc/profile_keys.h"

#include <cassert>
#include <concepts>
#include <limits>

namespace allezon::profile_svc {
namespace {

constexpr uint64_t kSignBit = uint64_t{1} << 63;

template <std::unsigned_integral T>
void AppendBig(std::string& out, T value) {
  char bytes[sizeof(T)];
  for (size_t i = 0; i < sizeof(T); ++i) {
    bytes[i] = static_cast<char>(value >> (8 * (sizeof(T) - 1 - i)));
  }
  out.append(bytes, sizeof(T));
}

uint64_t BigAt(std::string_view bytes, size_t count) {
  uint64_t value = 0;
  for (size_t i = 0; i < count; ++i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

}  // namespace

void SetPrefix(std::string& key, router::ShardId shard, std::string_view cookie,
               v1::Action action) {
  assert(shard <= std::numeric_limits<uint16_t>::max());
  assert(cookie.size() <= std::numeric_limits<uint16_t>::max());
  key.clear();
  key.reserve(kShardBytes + kCookieLengthBytes + cookie.size() + kActionBytes + kSuffixBytes + 1);
  AppendBig(key, static_cast<uint16_t>(shard));
  AppendBig(key, static_cast<uint16_t>(cookie.size()));
  key.append(cookie);
  key.push_back(static_cast<char>(action));
}

std::string ShardPrefix(router::ShardId shard) {
  assert(shard <= std::numeric_limits<uint16_t>::max());
  std::string prefix;
  AppendBig(prefix, static_cast<uint16_t>(shard));
  return prefix;
}

void AppendInvertedTime(std::string& key, int64_t time_ms) {
  AppendBig(key, ~(static_cast<uint64_t>(time_ms) ^ kSignBit));
}

std::optional<size_t> PrefixBytes(std::string_view key) {
  constexpr size_t kHead = kShardBytes + kCookieLengthBytes;
  if (key.size() < kHead) return std::nullopt;
  const size_t bytes = kHead + BigAt(key.substr(kShardBytes), kCookieLengthBytes) + kActionBytes;
  if (key.size() < bytes) return std::nullopt;
  return bytes;
}

int64_t TimeOf(std::string_view suffix) {
  assert(suffix.size() >= kTimeBytes);
  return static_cast<int64_t>(~BigAt(suffix, kTimeBytes) ^ kSignBit);
}

std::optional<ParsedKey> ParseKey(std::string_view key) {
  const std::optional<size_t> prefix = PrefixBytes(key);
  if (!prefix || key.size() != *prefix + kSuffixBytes) return std::nullopt;
  return ParsedKey{key.substr(0, *prefix), TimeOf(key.substr(*prefix)),
                   key.substr(*prefix + kTimeBytes)};
}

std::optional<ParsedValue> ParseValue(std::string_view value) {
  if (value.size() < kAcceptedBytes) return std::nullopt;
  uint32_t accepted_s = 0;
  for (size_t i = kAcceptedBytes; i-- > 0;) {
    accepted_s = accepted_s << 8 | static_cast<uint8_t>(value[i]);
  }
  return ParsedValue{accepted_s, value.substr(kAcceptedBytes)};
}

void SetAccepted(std::string& out, uint32_t accepted_s) {
  out.clear();
  for (size_t i = 0; i < kAcceptedBytes; ++i) {
    out.push_back(static_cast<char>(accepted_s >> (8 * i)));
  }
}

}  // namespace allezon::profile_svc
