// SPDX-License-Identifier: Apache-2.0
#include "replica/core/agreed_clock.h"

#include <gtest/gtest.h>

namespace allezon::replica {
namespace {

constexpr WallUs kSecond = 1'000'000;
constexpr WallUs kTrue = 1'700'000'000 * kSecond;  // at instant 0
constexpr WallUs kDay = 86'400 * kSecond;

TEST(AgreedClock, IsNotMovedByOneThatIsWrong) {
  for (const WallUs wrong : {-10'000 * kDay, -kDay, kDay, 10'000 * kDay}) {
    for (uint32_t liar = 0; liar < 3; ++liar) {
      AgreedClock clock(3, 0);
      for (uint32_t i = 0; i < 3; ++i) {
        const WallUs wall = kTrue + (i == liar ? wrong : 0);
        if (i == 0) {
          clock.Own(wall, 0);
        } else {
          clock.Heard(i, wall, 0, 0);
        }
      }
      EXPECT_EQ(clock.NotAfterUs(5 * kSecond), kTrue + 5 * kSecond);
      EXPECT_EQ(clock.NotBeforeUs(5 * kSecond), kTrue + 5 * kSecond);
    }
  }
}

TEST(AgreedClock, OfTwoErrsToTheSafeSide) {
  for (const WallUs wrong : {-kDay, kDay}) {
    AgreedClock clock(2, 0);
    clock.Own(kTrue, 0);
    clock.Heard(1, kTrue + wrong, 0, 0);
    EXPECT_LE(*clock.NotAfterUs(0), kTrue);
    EXPECT_GE(clock.NotBeforeUs(0), kTrue);
  }
}

TEST(AgreedClock, SaysNothingWhereOnlyOneOfSeveralWasHeard) {
  AgreedClock clock(3, 0);
  clock.Own(kTrue, 0);
  EXPECT_EQ(clock.NotAfterUs(0), std::nullopt);
  clock.Heard(1, kTrue, 0, 0);
  EXPECT_NE(clock.NotAfterUs(0), std::nullopt);
  clock.Own(kTrue + 2 * AgreedClock::kHeardMaxUs, 2 * AgreedClock::kHeardMaxUs);
  EXPECT_EQ(clock.NotAfterUs(2 * AgreedClock::kHeardMaxUs), std::nullopt) << "too long ago";
  AgreedClock only(1, 0);
  only.Own(kTrue, 0);
  EXPECT_EQ(only.NotAfterUs(0), kTrue) << "there is no other one";
}

// An answer was given at some moment between question and answer.
TEST(AgreedClock, AllowsForTheTimeThatAnAnswerTakes) {
  AgreedClock clock(2, 0);
  clock.Own(kTrue + 10 * kSecond, 10 * kSecond);
  clock.Heard(1, kTrue + 9 * kSecond, 8 * kSecond, 10 * kSecond);
  EXPECT_EQ(clock.NotAfterUs(10 * kSecond), kTrue + 9 * kSecond);
  EXPECT_EQ(clock.NotBeforeUs(10 * kSecond), kTrue + 11 * kSecond);
}

TEST(AgreedClock, PutsStampsRightThatAreWrong) {
  AgreedClock clock(3, 0);
  for (uint32_t i = 1; i < 3; ++i) clock.Heard(i, kTrue, 0, 0);
  clock.Own(kTrue - 5 * kDay, 0);
  const auto now_s = static_cast<uint32_t>(kTrue / kSecond);
  const StampRule writes = clock.RuleOfWrites(86'400, 0);
  EXPECT_EQ(writes.Apply(now_s), now_s);
  EXPECT_EQ(writes.Apply(now_s - 1), now_s - 1);
  EXPECT_EQ(writes.Apply(now_s - 90'000), now_s);
  EXPECT_EQ(writes.Apply(now_s + 90'000), now_s);
  // What a coordinator took an hour ago may say so.
  const StampRule replicates = clock.RuleOfReplicates(86'400, 1, 3'600 * kSecond, kTrue, 0);
  EXPECT_EQ(replicates.Apply(now_s - 3'600), now_s - 3'600);
  EXPECT_EQ(replicates.Apply(now_s), now_s);
  EXPECT_EQ(replicates.Apply(now_s - 90'000), now_s - 3'600);
}

// Else a copy that was held up on its way would be newer than the tag, and outlive it.
TEST(AgreedClock, AllowsForTheTimeThatABatchWasOnItsWay) {
  AgreedClock clock(3, 0);
  clock.Own(kTrue, 0);
  clock.Heard(1, kTrue - kDay, 0, 0);  // its clock is wrong, and tells durations all the same
  clock.Heard(2, kTrue, 0, 0);
  const auto now_s = static_cast<uint32_t>(kTrue / kSecond);
  const auto apply = [&](uint32_t coordinator, WallUs sent_wall_us, uint32_t stamp_s) {
    return clock.RuleOfReplicates(86'400, coordinator, 0, sent_wall_us, 30 * kSecond)
        .Apply(stamp_s);
  };
  EXPECT_EQ(apply(1, kTrue - kDay, now_s), now_s) << "30 s";
  EXPECT_EQ(apply(1, kTrue - kDay + 30 * kSecond, now_s), now_s + 30) << "none";
  EXPECT_EQ(apply(1, kTrue + 30 * kSecond, now_s), now_s + 30) << "its clock was put right since";
  EXPECT_EQ(apply(2, kTrue + 10 * kSecond, now_s + 10), now_s + 10) << "20 s";
  EXPECT_EQ(apply(2, kTrue + 10 * kSecond, now_s), now_s + 10) << "20 s";
  // Of a clock that was not heard for long nothing is known.
  AgreedClock deaf(4, 0);
  for (uint32_t i = 0; i < 3; ++i) deaf.Heard(i, kTrue, 0, 0);
  EXPECT_EQ(deaf.RuleOfReplicates(86'400, 3, 0, kTrue, 0).Apply(now_s - 90'000), now_s - 90'000);
}

}  // namespace
}  // namespace allezon::replica
