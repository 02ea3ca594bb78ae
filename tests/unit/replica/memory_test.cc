// SPDX-License-Identifier: Apache-2.0
#include "replica/memory.h"

#include <gtest/gtest.h>

namespace allezon::replica {
namespace {

constexpr uint64_t kMib = 1 << 20;

TEST(NodeMemoryTest, PartsLeaveAQuarter) {
  for (const uint64_t total : {kNodeMemoryLeastBytes, 256 * kMib, 1000 * kMib, 8192 * kMib}) {
    for (const bool has_segments : {false, true}) {
      for (const size_t peers : {0, 1, 2, 4, 20}) {
        uint64_t sum = 0;
        for (const rpc::MemoryPart& part : PartsOf(SplitNodeMemory(total, has_segments, peers))) {
          sum += part.bytes;
        }
        EXPECT_LE(sum, total * 3 / 4) << total << " " << has_segments << " " << peers;
      }
    }
  }
}

TEST(NodeMemoryTest, MemtablesOfTwoColumnFamiliesFit) {
  for (const uint64_t total : {kNodeMemoryLeastBytes, 256 * kMib, 8192 * kMib}) {
    for (const bool has_segments : {false, true}) {
      const NodeMemory memory = SplitNodeMemory(total, has_segments, 2);
      EXPECT_LE(6 * memory.write_buffer, memory.memtables);
      EXPECT_LT(memory.memtables, memory.rocksdb);
      EXPECT_GE(memory.write_buffer, 3 * kMib);
      EXPECT_EQ(memory.segments > 0, has_segments);
    }
  }
}

TEST(NodeMemoryTest, AFourthOfALargeMachineIsNoLessThanBeforeItWasSplit) {
  for (const bool has_segments : {false, true}) {
    const NodeMemory memory = SplitNodeMemory(rpc::kMachineShareMaxBytes, has_segments, 2);
    EXPECT_GE(memory.rocksdb - memory.memtables, 256 * kMib);
    EXPECT_EQ(memory.write_buffer, 64 * kMib);
    EXPECT_EQ(memory.owed_a_peer, 64 * kMib);
    if (has_segments) {
      EXPECT_GE(memory.segments, 512 * kMib);
    }
  }
}

}  // namespace
}  // namespace allezon::replica
