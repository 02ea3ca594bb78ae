// SPDX-License-Identifier: Apache-2.0
#include "gateway/memory.h"

#include <algorithm>

namespace allezon::gateway {
namespace {

// Parts are in 16ths of the whole. They leave 5 to the program, gRPC and the allocator.
constexpr uint64_t kParts = 16;
constexpr uint64_t kConnectionsParts = 4;
constexpr uint64_t kBodiesParts = 4;
constexpr uint64_t kAnswersParts = 1;
constexpr uint64_t kComparedParts = 2;

// A thread's stack, its parser, a small body and a small answer.
constexpr uint64_t kConnectionBytes = 256 << 10;
constexpr uint64_t kConnectionsMax = 1024;
// A batch's body is also there as events, each on its way to two services.
constexpr uint64_t kBodyCopies = 3;

}  // namespace

GatewayMemory SplitGatewayMemory(uint64_t total) {
  const auto of = [total](uint64_t parts) { return total / kParts * parts; };
  GatewayMemory memory;
  memory.connections_max = std::min(of(kConnectionsParts) / kConnectionBytes, kConnectionsMax);
  memory.bodies = of(kBodiesParts) / kBodyCopies;
  memory.answers = of(kAnswersParts);
  memory.compared = of(kComparedParts);
  return memory;
}

std::vector<rpc::MemoryPart> PartsOf(const GatewayMemory& memory) {
  return {{"connections", memory.connections_max * kConnectionBytes},
          {"bodies", memory.bodies * kBodyCopies},
          {"answers", memory.answers},
          {"compared", memory.compared}};
}

}  // namespace allezon::gateway
