// SPDX-License-Identifier: Apache-2.0
//
// An instance that gets slower than the others loses its writes to them, and gets them back.
#include <algorithm>

#include "router/pace.h"
#include "tests/unit/router/writer_testing.h"

namespace allezon::router {
namespace {

class PaceTest : public testing::Test {
 protected:
  void Observe(uint32_t instance, absl::Duration took, int times = 1) {
    for (int i = 0; i < times; ++i) paces_.Observe(instance, took, now_);
  }

  absl::Time now_ = absl::Now();
  const Placement placement_ = *MakePlacement({{"n0", "h:1", ""}, {"n1", "h:2", ""}}, 8, 2);
  Paces paces_{"profile", "tests", placement_, absl::Milliseconds(60), absl::Seconds(1)};
};

TEST_F(PaceTest, WhoGetsSlowerStepByStepIsSlowBesideTheOthers) {
  for (int ms = 2; ms <= 512; ms *= 2) {
    Observe(0, absl::Milliseconds(ms), 50);
    Observe(1, absl::Milliseconds(2));
    EXPECT_EQ(paces_.IsSlow(0), ms > 17) << ms;
    EXPECT_LE(paces_.overdue(0), absl::Milliseconds(4 * 17)) << ms;
    EXPECT_FALSE(paces_.IsSlow(1));
  }
}

TEST_F(PaceTest, WhereAllGetSlowerNobodyIsSlowAndAnswersMayTakeLonger) {
  EXPECT_EQ(paces_.overdue(0), absl::Milliseconds(60));
  const auto both = [&](absl::Duration took, int times) {
    for (int i = 0; i < times; ++i) {
      Observe(0, took);
      Observe(1, took * 0.8);
    }
    EXPECT_FALSE(paces_.IsSlow(0) || paces_.IsSlow(1));
  };
  both(absl::Milliseconds(100), 50);
  EXPECT_GT(paces_.overdue(0), absl::Milliseconds(350));
  both(absl::Hours(1), 1'000);
  EXPECT_EQ(paces_.overdue(0), absl::Seconds(1));
  both(absl::Milliseconds(1), 1'000);
  EXPECT_EQ(paces_.overdue(0), absl::Milliseconds(60));
}

TEST_F(PaceTest, WhatWasHeardLongAgoIsNoMeasure) {
  Observe(1, absl::Milliseconds(2), 50);
  now_ += Pace::kFreshFor + absl::Seconds(1);
  Observe(0, absl::Milliseconds(50), 50);
  EXPECT_FALSE(paces_.IsSlow(0));
}

TEST_F(PaceTest, WhoIsWellAgainIsNotSlowAfterSomeTrials) {
  Observe(1, absl::Milliseconds(2));
  Observe(0, absl::Milliseconds(200), 50);
  ASSERT_TRUE(paces_.IsSlow(0));
  for (int trials = 0; paces_.IsSlow(0); ++trials) {
    ASSERT_LT(trials, 30);
    now_ += Pace::kTrialEvery;
    ASSERT_TRUE(paces_.TakesTrial(0, now_));
    Observe(0, absl::Milliseconds(2));
    Observe(1, absl::Milliseconds(2));
  }
}

TEST_F(PaceTest, ATrialIsDueOnceWhereNothingWasHeardForLong) {
  Observe(0, absl::Milliseconds(1));
  EXPECT_FALSE(paces_.TakesTrial(0, now_));
  now_ += Pace::kTrialEvery;
  EXPECT_TRUE(paces_.TakesTrial(0, now_));
  EXPECT_FALSE(paces_.TakesTrial(0, now_));
  now_ += Pace::kTrialEvery - absl::Microseconds(1);
  Observe(0, absl::Milliseconds(1));
  now_ += Pace::kTrialEvery - absl::Microseconds(1);
  EXPECT_FALSE(paces_.TakesTrial(0, now_));
  now_ -= absl::Hours(1);
  EXPECT_TRUE(paces_.TakesTrial(0, now_)) << "the clock was set back";
}

// Each step would be within what the one before made usual.
TEST_F(WriterTest, AnInstanceThatGetsSlowerStepByStepLosesItsWrites) {
  Start(3);
  const auto write_for = [&](absl::Duration time) {
    std::vector<absl::Duration> took;
    for (const absl::Time until = absl::Now() + time; absl::Now() < until;) {
      const absl::Time begun = absl::Now();
      EXPECT_TRUE(WriteOne().ok());
      took.push_back(absl::Now() - begun);
    }
    std::sort(took.begin(), took.end());
    return took[took.size() / 2];
  };
  const auto busiest = [&] {
    size_t most = 0;
    for (size_t i = 1; i < 3; ++i) {
      if (replicas_[i]->batches().size() > replicas_[most]->batches().size()) most = i;
    }
    return most;
  };
  write_for(3 * Pace::kTrialEvery);
  TestReplica& ill = *replicas_[busiest()];
  for (const int ms : {10, 20, 40, 55}) {
    ill.Delay(absl::Milliseconds(ms));
    write_for(Pace::kTrialEvery);
  }
  const size_t before = ill.batches().size();
  EXPECT_LT(write_for(2 * Pace::kTrialEvery), absl::Milliseconds(50));
  EXPECT_LE(ill.batches().size() - before, 10u) << "trials, and what was under way";
}

}  // namespace
}  // namespace allezon::router
