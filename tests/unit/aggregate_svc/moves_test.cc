// SPDX-License-Identifier: Apache-2.0
#include "aggregate_svc/moves.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"

namespace allezon::aggregate_svc {
namespace {

TEST(MovesTest, AMoveConcernsWhoReadsBothOfItsMinutes) {
  Moves moves;
  const uint64_t before = moves.Mark();
  moves.Begin({{7, 9}});
  moves.End();
  EXPECT_TRUE(moves.WereIn(7, 10, before));
  EXPECT_TRUE(moves.WereIn(0, 100, before));
  EXPECT_FALSE(moves.WereIn(7, 9, before));
  EXPECT_FALSE(moves.WereIn(8, 10, before));
  EXPECT_FALSE(moves.WereIn(9, 10, before));
  EXPECT_FALSE(moves.WereIn(7, 10, moves.Mark())) << "it was over before";
}

TEST(MovesTest, OneThatIsUnderWayCountsAsLater) {
  Moves moves;
  moves.Begin({{7, 9}, {1, 2}});
  const uint64_t during = moves.Mark();
  absl::Notification asked;
  std::jthread mover([&] {
    asked.WaitForNotification();
    moves.End();
  });
  asked.Notify();
  EXPECT_TRUE(moves.WereIn(7, 10, during)) << "and it is waited for";
  mover.join();
  EXPECT_TRUE(moves.WereIn(7, 10, during));
  EXPECT_FALSE(moves.WereIn(7, 10, moves.Mark()));
}

TEST(MovesTest, WhatIsNoLongerKnownMayHaveBeenInTheWay) {
  Moves moves;
  const uint64_t first = moves.Mark();
  const std::vector<Moves::Move> elsewhere(Moves::kRecentMax, {100, 101});
  moves.Begin(elsewhere);
  moves.End();
  EXPECT_FALSE(moves.WereIn(7, 10, first));
  const uint64_t second = moves.Mark();
  moves.Begin({{100, 101}});
  moves.End();
  EXPECT_TRUE(moves.WereIn(7, 10, first));
  EXPECT_FALSE(moves.WereIn(7, 10, second));
}

TEST(MovesTest, AHoldKeepsMovesOffButNotForEver) {
  Moves moves;
  {
    const Moves::Hold hold(moves);
    const uint64_t mark = moves.Mark();
    const absl::Time start = absl::Now();
    moves.Begin({{7, 9}});
    EXPECT_GE(absl::Now() - start, Moves::kWaitMax / 2);
    moves.End();
    EXPECT_TRUE(moves.WereIn(7, 10, mark)) << "who held for so long is told";
  }
  // Afterwards nothing is in the way.
  const uint64_t mark = moves.Mark();
  moves.Begin({{7, 9}});
  moves.End();
  EXPECT_TRUE(moves.WereIn(7, 10, mark));
}

}  // namespace
}  // namespace allezon::aggregate_svc
