// SPDX-License-Identifier: Apache-2.0
#include "replica/digest.h"

#include <xxhash.h>

#include <array>
#include <cstring>

namespace allezon::replica {

void Digest::Add(std::string_view event_id, std::string_view tag) {
  // One-shot hashing of a copy costs less than a streaming state for the sizes that tags have.
  std::array<char, 2048> buffer;
  XXH128_hash_t hash;
  const size_t size = event_id.size() + tag.size();
  if (size <= buffer.size()) {
    std::memcpy(buffer.data(), event_id.data(), event_id.size());
    std::memcpy(buffer.data() + event_id.size(), tag.data(), tag.size());
    hash = XXH3_128bits(buffer.data(), size);
  } else {
    std::string joined;
    joined.reserve(size);
    joined.append(event_id).append(tag);
    hash = XXH3_128bits(joined.data(), joined.size());
  }
  ++count;
  sum += absl::MakeUint128(hash.high64, hash.low64);
}

void Digest::Remove(std::string_view event_id, std::string_view tag) {
  Digest one;
  one.Add(event_id, tag);
  Remove(one);
}

}  // namespace allezon::replica
