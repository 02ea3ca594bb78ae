// SPDX-License-Identifier: Apache-2.0
//
// Where a tag belongs: the shard of a cookie and the id of an event. Both are fixed for ever, since
// data on disk depends on them; docs/design/data.md has test vectors.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/time/time.h"

namespace allezon::router {

using ShardId = uint32_t;

inline constexpr uint32_t kShardsDefault = 128;
inline constexpr uint32_t kShardsMax = 4096;

// XXH3-64 of the cookie's bytes (seed 0), modulo the number of shards.
ShardId ShardOf(std::string_view cookie, uint32_t shards);

// 16 bytes that name an event wherever it is stored.
using EventId = std::array<char, 16>;
inline std::string_view AsBytes(const EventId& id) { return {id.data(), id.size()}; }

// A new id: a bit 0, 55 bits of `now` in microseconds since 1970, big endian, and 72 random bits.
// Ids that begin with the time come into a store nearly in their order, so that an insert finds its
// place where the last one went. Thread-safe.
EventId NewEventId(absl::Time now);

// The id of an event that has an idempotency key: XXH3-128 (canonical form) of the key's length (4
// bytes, little endian), the key and the cookie, with its first bit set to 1. The same on every
// machine.
EventId KeyedEventId(std::string_view idempotency_key, std::string_view cookie);

// Whether an id came from an idempotency key.
inline bool IsKeyed(std::string_view id) { return !id.empty() && (id[0] & 0x80) != 0; }

// XXH3-64 (seed 0) of a serialised tag, which holds its time. Of two tags with one id, the one with
// the smaller hash is kept, on every replica and whatever came first.
uint64_t ContentHash(std::string_view tag);

// Log and digest buckets are minutes of the tag's own time; floor division, also before 1970.
inline constexpr int64_t kMinuteMs = 60'000;
inline int64_t MinuteOf(int64_t time_ms) {
  return time_ms / kMinuteMs - (time_ms % kMinuteMs < 0 ? 1 : 0);
}

}  // namespace allezon::router
