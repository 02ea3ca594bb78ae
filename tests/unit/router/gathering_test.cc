// SPDX-License-Identifier: Apache-2.0
#include "router/gathering.h"

#include <gtest/gtest.h>

namespace allezon::router {
namespace {

const absl::Time kNow = absl::FromUnixSeconds(1'700'000'000);
constexpr absl::Duration kTook = absl::Milliseconds(1);

TEST(Gathering, TheFirstBatchDoesNotWait) {
  const Gathering gathering({});
  EXPECT_TRUE(gathering.IsEnough(1));
}

TEST(Gathering, WaitsForThoseWhomABatchSetFreeAndThoseWhoWaited) {
  Gathering gathering({});
  gathering.Ended(10, 6, kTook, kNow);
  EXPECT_FALSE(gathering.IsEnough(13));
  EXPECT_TRUE(gathering.IsEnough(14));  // most of them
}

TEST(Gathering, ExpectsLessOnceLessComes) {
  Gathering gathering({});
  gathering.Ended(60, 0, kTook, kNow);
  for (int i = 0; i < 100; ++i) gathering.Ended(1, 0, kTook, kNow);
  EXPECT_TRUE(gathering.IsEnough(1));
}

TEST(Gathering, WhatIsLargeIsEnough) {
  Gathering gathering({.large_events = 8});
  gathering.Ended(100, 100, kTook, kNow);
  EXPECT_FALSE(gathering.IsEnough(6));
  EXPECT_TRUE(gathering.IsEnough(8));
  EXPECT_FALSE(gathering.IsLarge(7));
  EXPECT_TRUE(gathering.IsLarge(8));
}

TEST(Gathering, WaitsNoLongerThanBatchesTakeAndHasABound) {
  Gathering gathering({.time_max = absl::Milliseconds(4), .times_last = 3});
  gathering.Ended(1, 0, absl::Microseconds(500), kNow);
  EXPECT_EQ(gathering.until(kNow), kNow + absl::Microseconds(1500));
  gathering.Ended(1, 0, absl::Seconds(1), kNow);
  EXPECT_EQ(gathering.until(kNow), kNow + absl::Milliseconds(4));
}

TEST(Gathering, AClockThatIsSetBackEndsTheWaiting) {
  Gathering gathering({});
  gathering.Ended(10, 0, kTook, kNow);
  const absl::Time earlier = kNow - absl::Hours(1);
  EXPECT_EQ(gathering.until(earlier), earlier);
}

}  // namespace
}  // namespace allezon::router
