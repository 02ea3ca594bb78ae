// SPDX-License-Identifier: Apache-2.0
#include "rpc/memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "rpc/metrics.h"

namespace allezon::rpc {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMib = 1 << 20;
constexpr uint64_t kLeast = 128 * kMib;

uint64_t BytesOf(const absl::StatusOr<MemoryTotal>& total) {
  EXPECT_TRUE(total.ok()) << total.status();
  return total.ok() ? total->bytes : 0;
}

TEST(MemoryTest, TheFlagComesFirst) {
  const auto total = MemoryTotalOf(300, kLeast, 1024 * kMib, 4096 * kMib);
  EXPECT_EQ(BytesOf(total), 300 * kMib);
  EXPECT_EQ(total->from, "--memory_mib");
}

TEST(MemoryTest, ThenTheCgroupsLimit) {
  EXPECT_EQ(BytesOf(MemoryTotalOf(0, kLeast, 256 * kMib, 4096 * kMib)), 256 * kMib);
  EXPECT_EQ(BytesOf(MemoryTotalOf(0, kLeast, 256 * kMib, std::nullopt)), 256 * kMib);
}

TEST(MemoryTest, ThenAPartOfTheMachineUpToABound) {
  EXPECT_EQ(BytesOf(MemoryTotalOf(0, kLeast, std::nullopt, 4096 * kMib)), 1024 * kMib);
  EXPECT_EQ(BytesOf(MemoryTotalOf(0, kLeast, std::nullopt, 65536 * kMib)), kMachineShareMaxBytes);
  // A limit above what there is, is none.
  EXPECT_EQ(BytesOf(MemoryTotalOf(0, kLeast, 8192 * kMib, 4096 * kMib)), 1024 * kMib);
}

TEST(MemoryTest, TooLittleIsRefusedWithTheLeast) {
  for (const auto& total : {MemoryTotalOf(100, kLeast, std::nullopt, 4096 * kMib),
                            MemoryTotalOf(0, kLeast, 100 * kMib, 4096 * kMib),
                            MemoryTotalOf(0, kLeast, std::nullopt, 400 * kMib)}) {
    EXPECT_EQ(total.status().code(), absl::StatusCode::kInvalidArgument);
    const std::string message(total.status().message());
    EXPECT_THAT(message, HasSubstr("--memory_mib: 100 MiB"));
    EXPECT_THAT(message, HasSubstr("the least are 128 MiB"));
  }
  EXPECT_EQ(MemoryTotalOf(0, kLeast, std::nullopt, std::nullopt).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(MemoryTest, ABudgetGivesNoMoreThanItHas) {
  ByteBudget budget(100);
  {
    auto first = BytesTaken::From(budget, 60);
    ASSERT_TRUE(first);
    EXPECT_FALSE(BytesTaken::From(budget, 41));
    EXPECT_EQ(budget.taken(), 60u);
    const BytesTaken moved = *std::move(first);
    first.reset();
    EXPECT_EQ(budget.taken(), 60u);
    EXPECT_TRUE(BytesTaken::From(budget, 40));
  }
  EXPECT_EQ(budget.taken(), 0u);
}

TEST(MemoryTest, AssigningGivesBackWhatWasHeld) {
  ByteBudget budget(100);
  BytesTaken held = *BytesTaken::From(budget, 70);
  held = *BytesTaken::From(budget, 20);
  EXPECT_EQ(budget.taken(), 20u);
}

TEST(MemoryTest, PartsThatAreMoreThanTheWholeAreRefusedWithTheLeast) {
  const absl::Status status =
      ReportMemory({256 * kMib, "a test"}, {{"cache", 200 * kMib}, {"segments", 100 * kMib}});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("the least are 300 MiB"));
}

TEST(MemoryTest, MetricsTellTheBudgetItsPartsAndWhatIsTaken) {
  ASSERT_TRUE(ReportMemory({256 * kMib, "a test"}, {{"cache", 64 * kMib}}).ok());
  const std::string text = MetricsText();
  EXPECT_THAT(text, HasSubstr("allezon_memory_budget_bytes 268435456"));
  EXPECT_THAT(text, HasSubstr("allezon_memory_part_bytes{part=\"cache\"} 67108864"));
  EXPECT_THAT(text, HasSubstr("allezon_memory_part_bytes{part=\"rest\"} 201326592"));
  const auto at = text.find("\nallezon_memory_anonymous_bytes ");
  ASSERT_NE(at, std::string::npos);
  EXPECT_GT(std::stod(text.substr(at + 32)), 100'000);
}

}  // namespace
}  // namespace allezon::rpc
