// SPDX-License-Identifier: Apache-2.0
#include "gateway/memory.h"

#include <gtest/gtest.h>

#include "gateway/api.h"

namespace allezon::gateway {
namespace {

constexpr uint64_t kMib = 1 << 20;

TEST(GatewayMemoryTest, PartsLeaveThreeTenths) {
  for (const uint64_t total : {kGatewayMemoryLeastBytes, 256 * kMib, 1000 * kMib, 8192 * kMib}) {
    uint64_t sum = 0;
    for (const rpc::MemoryPart& part : PartsOf(SplitGatewayMemory(total))) sum += part.bytes;
    EXPECT_LE(sum, total * 7 / 10) << total;
  }
}

TEST(GatewayMemoryTest, TheLeastTakesALargestBatch) {
  const GatewayMemory memory = SplitGatewayMemory(kGatewayMemoryLeastBytes);
  EXPECT_GE(memory.bodies, kBatchBytesMax);
  EXPECT_GE(memory.connections_max, 64u);
}

TEST(GatewayMemoryTest, AFourthOfTheMachineIsNoLessThanBeforeItWasSplit) {
  const GatewayMemory memory = SplitGatewayMemory(rpc::kMachineShareMaxBytes);
  EXPECT_EQ(memory.connections_max, 1024u);
  EXPECT_GE(memory.bodies, 256 * kMib);
}

}  // namespace
}  // namespace allezon::gateway
