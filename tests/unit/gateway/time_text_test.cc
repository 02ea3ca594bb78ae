// SPDX-License-Identifier: Apache-2.0
#include "gateway/time_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace allezon::gateway {
namespace {

std::string TagTime(int64_t ms) {
  std::string out;
  AppendTagTime(ms, out);
  return out;
}

TEST(TimeTextTest, EveryAcceptedFormOfATagTime) {
  const std::pair<const char*, int64_t> kTimes[] = {
      {"2022-03-22T12:15:00.000Z", 1'647'951'300'000},
      {"2022-03-22T12:15:00Z", 1'647'951'300'000},
      {"2022-03-22T12:15:00.1Z", 1'647'951'300'100},
      {"2022-03-22T12:15:00.12Z", 1'647'951'300'120},
      {"2022-03-22T12:15:00.123Z", 1'647'951'300'123},
      {"1970-01-01T00:00:00Z", 0},
      {"1969-12-31T23:59:59.999Z", -1},
      {"2000-02-29T00:00:00Z", 951'782'400'000},
      {"2020-02-29T00:00:00Z", 1'582'934'400'000},
      {"0000-01-01T00:00:00.000Z", -62'167'219'200'000},
      {"9999-12-31T23:59:59.999Z", 253'402'300'799'999},
  };
  for (const auto& [text, ms] : kTimes) EXPECT_EQ(ParseTagTime(text), ms) << text;
}

TEST(TimeTextTest, WhatIsNoTagTimeIsRefused) {
  for (const char* text : {"",
                           "Z",
                           "now",
                           "2021-02-29T00:00:00.000Z",
                           "1900-02-29T00:00:00.000Z",
                           "2022-13-01T00:00:00.000Z",
                           "2022-00-01T00:00:00.000Z",
                           "2022-01-00T00:00:00.000Z",
                           "2022-04-31T00:00:00.000Z",
                           "2022-01-01T24:00:00.000Z",
                           "2022-01-01T00:60:00.000Z",
                           "2022-01-01T00:00:60.000Z",
                           "2022-01-01T00:00:00.0000Z",
                           "2022-01-01T00:00:00.Z",
                           "2022-01-01T00:00:00,000Z",
                           "2022-01-01T00:00:00.000",
                           "2022-01-01T00:00:00.000+00:00",
                           "2022-01-01 00:00:00.000Z",
                           "2022-01-01t00:00:00.000Z",
                           "2022-01-01T00:00:00.000z",
                           " 2022-01-01T00:00:00.000Z",
                           "2022-01-01T00:00:00.000Z ",
                           "2022-1-1T0:0:0Z",
                           "-022-01-01T00:00:00.000Z",
                           "+022-01-01T00:00:00.000Z",
                           "2022-01-01T00:00:00.-1Z",
                           "2022-01-01T00:00:00ZZ",
                           "12022-01-01T00:00:00Z"}) {
    EXPECT_EQ(ParseTagTime(text), std::nullopt) << text;
  }
  EXPECT_EQ(ParseTagTime(std::string_view("2022-01-01T00:00:0\0Z", 20)), std::nullopt);
}

TEST(TimeTextTest, AQueryTimeHasNoZ) {
  EXPECT_EQ(ParseQueryTime("2022-03-22T12:15:00"), 1'647'951'300'000);
  EXPECT_EQ(ParseQueryTime("2022-03-22T12:15:00.007"), 1'647'951'300'007);
  for (const char* text : {"2022-03-22T12:15:00Z", "2022-03-22T12:15:00.", "2022-03-22T12:15",
                           "2022-03-22T12:15:00.0000", "2022-03-22T12:15:00x", ""}) {
    EXPECT_EQ(ParseQueryTime(text), std::nullopt) << text;
  }
}

TEST(TimeTextTest, WhatIsPrintedIsReadAgain) {
  // Every 1,000,003 seconds from 0000 to 9999, so that all months and hours come by.
  for (int64_t ms = -62'167'219'200'000; ms <= 253'402'300'799'999; ms += 1'000'003'017) {
    ASSERT_EQ(ParseTagTime(TagTime(ms)), ms) << TagTime(ms);
  }
  EXPECT_EQ(TagTime(253'402'300'799'999), "9999-12-31T23:59:59.999Z");
}

TEST(TimeTextTest, TimesThatNoTextCanSayArePrintedAllTheSame) {
  EXPECT_EQ(TagTime(253'402'300'800'000), "10000-01-01T00:00:00.000Z");
  EXPECT_EQ(TagTime(-62'167'219'200'001), "-0001-12-31T23:59:59.999Z");
  EXPECT_THAT(TagTime(INT64_MAX), ::testing::StartsWith("292278994-08-17T07:12:55.807Z"));
  EXPECT_THAT(TagTime(INT64_MIN), ::testing::StartsWith("-292275055-05-16T16:47:04.192Z"));
}

TEST(TimeTextTest, AMinuteHasWholeSecondsAndNoZ) {
  std::string out;
  AppendMinute(27'434'885, out);
  EXPECT_EQ(out, "2022-03-01T00:05:00");
  out.clear();
  AppendMinute(-1, out);
  EXPECT_EQ(out, "1969-12-31T23:59:00");
}

}  // namespace
}  // namespace allezon::gateway
