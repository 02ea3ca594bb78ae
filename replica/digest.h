// SPDX-License-Identifier: Apache-2.0
//
// What two replicas compare instead of their events: how many, and a sum of hashes that does not
// depend on their order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/numeric/int128.h"

namespace allezon::replica {

// Equal digests mean equal sets of events, but for a chance of about 2^-128. A plain value.
struct Digest {
  uint64_t count = 0;
  absl::uint128 sum = 0;  // modulo 2^128, of XXH3-128 over id and tag

  void Add(std::string_view event_id, std::string_view tag);
  void Add(const Digest& other) {
    count += other.count;
    sum += other.sum;
  }
  // Take out what was added before.
  void Remove(std::string_view event_id, std::string_view tag);
  void Remove(const Digest& other) {
    count -= other.count;
    sum -= other.sum;
  }
  friend bool operator==(const Digest&, const Digest&) = default;
};

}  // namespace allezon::replica
