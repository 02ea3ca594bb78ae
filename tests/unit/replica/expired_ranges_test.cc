// SPDX-License-Identifier: Apache-2.0
#include "replica/expired_ranges.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace allezon::replica {
namespace {

using Model = std::map<int64_t, ExpiredMark>;  // by minute

void ExpectSame(const ExpiredRanges& ranges, const Model& model) {
  for (int64_t minute = -5; minute < 45; ++minute) {
    const auto found = model.find(minute);
    EXPECT_EQ(ranges.Find(minute), found == model.end() ? ExpiredMark() : found->second) << minute;
  }
  const ExpiredRanges::Range* last = nullptr;
  for (const auto& [from, range] : ranges.ranges()) {
    EXPECT_LT(from, range.to);
    if (last != nullptr) {
      EXPECT_LE(last->to, from);
      EXPECT_TRUE(last->to < from || !(last->mark == range.mark)) << "neighbours grow together";
    }
    last = &range;
  }
}

TEST(ExpiredRanges, AreWhatAPlainMapSays) {
  for (int seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    ExpiredRanges ranges;
    Model model;
    for (int step = 0; step < 30; ++step) {
      const auto from = static_cast<int64_t>(random() % 40);
      const auto to = from + static_cast<int64_t>(random() % 8);
      const auto number = [&] { return static_cast<uint32_t>(random() % 3); };
      const ExpiredMark mark{number(), number(), 1 + number()};
      // As the store does it: aside, and then in the place of what was there.
      const ExpiredRanges before = ranges.Touching(from, to);
      ExpiredRanges now = before;
      now.Join(from, to, mark);
      EXPECT_EQ(ranges.Has(from, to, mark), now.hash() == before.hash());
      ranges.Replace(before, now);
      for (int64_t minute = from; minute < to; ++minute) model[minute].Join(mark);
      ExpectSame(ranges, model);
    }
  }
}

TEST(ExpiredRanges, HaveTheSameHashWhateverTheOrder) {
  ExpiredRanges a, b;
  a.Join(0, 10, {1, 1, 1});
  a.Join(5, 15, {2, 2, 2});
  b.Join(5, 15, {2, 2, 2});
  EXPECT_NE(a.hash(), b.hash());
  for (int64_t minute = 0; minute < 10; ++minute) b.Join(minute, minute + 1, {1, 1, 1});
  EXPECT_EQ(a.hash(), b.hash());
  EXPECT_EQ(a.ranges().size(), 2u);
}

TEST(ExpiredRanges, WhoGoesOnBehindARangeThatHasGrownPassesOverNothing) {
  ExpiredRanges ranges;
  EXPECT_EQ(ranges.Beyond({}), ranges.ranges().end());
  ranges.Join(0, 10, {1, 1, 1});
  ranges.Join(10, 20, {2, 2, 2});
  ranges.Join(30, 40, {1, 1, 1});
  EXPECT_EQ(ranges.Beyond({})->first, 0);
  EXPECT_EQ(ranges.Beyond(10)->first, 10);
  EXPECT_EQ(ranges.Beyond(20)->first, 30);
  EXPECT_EQ(ranges.Beyond(40), ranges.ranges().end());
  // Now [0, 20) is one range, of which the half was told.
  ranges.Join(0, 10, {2, 2, 2});
  EXPECT_EQ(ranges.Beyond(10)->first, 0);
}

}  // namespace
}  // namespace allezon::replica
