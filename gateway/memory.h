// SPDX-License-Identifier: Apache-2.0
//
// How the memory of a gateway is split.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "rpc/memory.h"

namespace allezon::gateway {

// The least that a gateway works with.
inline constexpr uint64_t kGatewayMemoryLeastBytes = uint64_t{96} << 20;

struct GatewayMemory {
  size_t connections_max = 0;
  uint64_t bodies = 0;    // large bodies of requests, as they came
  uint64_t answers = 0;   // large bodies of answers that are being sent
  uint64_t compared = 0;  // what comparing an answer with the one that is expected takes
};

// `total` is at least kGatewayMemoryLeastBytes.
GatewayMemory SplitGatewayMemory(uint64_t total);

// For ReportMemory.
std::vector<rpc::MemoryPart> PartsOf(const GatewayMemory& memory);

}  // namespace allezon::gateway
