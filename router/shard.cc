// SPDX-License-Identifier: Apache-2.0
#include "router/shard.h"

#include <xxhash.h>

#include <cstring>

#include "absl/random/random.h"

namespace allezon::router {
namespace {

constexpr char kKeyedBit = static_cast<char>(0x80);
// Of a new id, what is the time.
constexpr size_t kTimeBytes = 7;

}  // namespace

ShardId ShardOf(std::string_view cookie, uint32_t shards) {
  return static_cast<ShardId>(XXH3_64bits(cookie.data(), cookie.size()) % shards);
}

EventId NewEventId(absl::Time now) {
  thread_local absl::BitGen random;
  const auto micros = static_cast<uint64_t>(absl::ToUnixMicros(now));
  const uint64_t randoms[2] = {absl::Uniform<uint64_t>(random), absl::Uniform<uint64_t>(random)};
  EventId id;
  std::memcpy(id.data(), randoms, id.size());
  for (size_t i = 0; i < kTimeBytes; ++i) {
    id[i] = static_cast<char>(micros >> (8 * (kTimeBytes - 1 - i)));
  }
  id[0] = static_cast<char>(id[0] & ~kKeyedBit);
  return id;
}

EventId KeyedEventId(std::string_view idempotency_key, std::string_view cookie) {
  std::string joined;
  joined.reserve(4 + idempotency_key.size() + cookie.size());
  for (int i = 0; i < 4; ++i) {
    joined.push_back(static_cast<char>((idempotency_key.size() >> (8 * i)) & 0xff));
  }
  joined.append(idempotency_key).append(cookie);
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(joined.data(), joined.size()));
  EventId id;
  static_assert(sizeof(canonical.digest) == sizeof(id));
  std::memcpy(id.data(), canonical.digest, id.size());
  id[0] = static_cast<char>(id[0] | kKeyedBit);
  return id;
}

uint64_t ContentHash(std::string_view tag) { return XXH3_64bits(tag.data(), tag.size()); }

}  // namespace allezon::router
