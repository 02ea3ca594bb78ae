// SPDX-License-Identifier: Apache-2.0
#include "bench/load/check.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "bench/load/oracle.h"
#include "bench/load/query.h"
#include "bench/load/stream.h"

namespace allezon::load {
namespace {

using Kind = Verdict::Kind;

// One cookie, all tags VIEWs and BUYs of it, hand-made expectations over them.
class CheckProfile : public testing::Test {
 protected:
  CheckProfile() : stream_(Options()), oracle_(stream_, 0), checker_(stream_, oracle_) {
    for (uint64_t i = 0; i < 20'000 && (views_.size() < 4 || twins_.empty()); ++i) {
      const Tag tag = stream_.At(i);
      if (tag.action != Action::kView) continue;
      if (!views_.empty() && stream_.TimeMs(views_.back()) == tag.time_ms) {
        if (twins_.empty()) twins_ = {views_.back(), static_cast<uint32_t>(i)};
      } else if (views_.size() < 4) {
        views_.push_back(static_cast<uint32_t>(i));
      } else {
        last_ = views_.back();
        views_.back() = static_cast<uint32_t>(i);
      }
    }
    query_.cookie = 0;
    query_.cookie_name = stream_.CookieName(0);
    query_.limit = 200;
  }

  static StreamOptions Options() {
    StreamOptions options;
    options.start_ms = 1'647'950'400'000;
    options.cookies = 1;
    options.step_us = 10'000;  // no ties but twins
    return options;
  }

  void Expect(const std::vector<ProfileQuery::Entry>& entries) { query_.expected[0] = entries; }
  Kind Check(const std::vector<uint32_t>& views, const std::string& buys = "") {
    std::string answer = "{\"cookie\":\"" + query_.cookie_name + "\",\"views\":[";
    for (size_t i = 0; i < views.size(); ++i) {
      if (i > 0) answer += ",";
      stream_.AppendAnswer(stream_.At(views[i]), &answer);
    }
    return checker_.Check(query_, answer + "],\"buys\":[" + buys + "]}").kind;
  }

  TagStream stream_;
  Oracle oracle_;
  Checker checker_;
  ProfileQuery query_;
  std::vector<uint32_t> views_;  // oldest first
  std::vector<uint32_t> twins_;  // of one time
  uint32_t last_ = 0;
};

TEST_F(CheckProfile, ExactlyTheListIsRight) {
  const uint32_t a = views_[2], b = views_[1], c = views_[0];
  Expect({{a, false}, {b, false}, {c, false}});
  EXPECT_EQ(Check({a, b, c}), Kind::kRight);
  EXPECT_EQ(Check({a, b}), Kind::kWrong);
  EXPECT_EQ(Check({b, c}), Kind::kWrong);
  EXPECT_EQ(Check({a, c}), Kind::kWrong);
  EXPECT_EQ(Check({a, c, b}), Kind::kWrong);
  EXPECT_EQ(Check({a, b, b, c}), Kind::kWrong);
  EXPECT_EQ(Check({a, b, c, c}), Kind::kWrong);
  EXPECT_EQ(Check({}), Kind::kWrong);
}

TEST_F(CheckProfile, TheLimitCutsTheListAndNothingElseMay) {
  const uint32_t a = views_[2], b = views_[1], c = views_[0];
  Expect({{a, false}, {b, false}, {c, false}});
  query_.limit = 2;
  EXPECT_EQ(Check({a, b}), Kind::kRight);
  EXPECT_EQ(Check({a, b, c}), Kind::kWrong);
  EXPECT_EQ(Check({a}), Kind::kWrong);
  EXPECT_EQ(Check({b, c}), Kind::kWrong);
  query_.limit = 0;
  EXPECT_EQ(Check({}), Kind::kRight);
  EXPECT_EQ(Check({a}), Kind::kWrong);
}

TEST_F(CheckProfile, TwinsMayStandInEitherOrderButBothMustStand) {
  ASSERT_EQ(twins_.size(), 2);
  const uint32_t x = twins_[0], y = twins_[1];
  Expect({{y, false}, {x, false}});
  EXPECT_EQ(Check({y, x}), Kind::kRight);
  EXPECT_EQ(Check({x, y}), Kind::kRight);
  EXPECT_EQ(Check({x}), Kind::kWrong);
  EXPECT_EQ(Check({x, x}), Kind::kWrong);
  query_.limit = 1;
  EXPECT_EQ(Check({x}), Kind::kRight);
  EXPECT_EQ(Check({y}), Kind::kRight);
  EXPECT_EQ(Check({}), Kind::kWrong);
}

TEST_F(CheckProfile, AnUncertainTagMayStandOrNotAndShiftsTheLimit) {
  const uint32_t a = views_[2], b = views_[1], c = views_[0];
  Expect({{a, false}, {b, true}, {c, false}});
  EXPECT_EQ(Check({a, b, c}), Kind::kWithinBounds);
  EXPECT_EQ(Check({a, c}), Kind::kWithinBounds);
  EXPECT_EQ(Check({a, b}), Kind::kWrong);
  EXPECT_EQ(Check({a, b, b, c}), Kind::kWrong);
  query_.limit = 2;
  EXPECT_EQ(Check({a, b}), Kind::kWithinBounds);
  EXPECT_EQ(Check({a, c}), Kind::kWithinBounds);
  EXPECT_EQ(Check({a}), Kind::kWrong);
}

TEST_F(CheckProfile, WhatWasPushedOutSinceMayLack) {
  const uint32_t old = views_[0];
  Expect({{old, false}});
  EXPECT_EQ(Check({}), Kind::kWrong);
  for (uint64_t i = 0; i < 400; ++i) oracle_.Sent(i, stream_.At(i));
  ASSERT_GE(oracle_.HistoryOf(0, Action::kView).forgotten_ms, stream_.TimeMs(old));
  EXPECT_EQ(Check({}), Kind::kRight);
  EXPECT_EQ(Check({old}), Kind::kRight);
}

TEST_F(CheckProfile, WhatIsNotAProfileIsWrong) {
  Expect({});
  EXPECT_EQ(Check({}), Kind::kRight);
  const std::string cookie = "\"cookie\":\"" + query_.cookie_name + "\"";
  for (const std::string& answer :
       std::vector<std::string>{"", "null", "[]", "{}", "{" + cookie + "}",
                                "{" + cookie + ",\"views\":null,\"buys\":[]}",
                                "{" + cookie + ",\"views\":[],\"buys\":[{}]}",
                                "{" + cookie + ",\"views\":[null],\"buys\":[]}",
                                "{" + cookie + ",\"views\":[{\"time\":1}],\"buys\":[]}",
                                "{" + cookie + ",\"views\":[],\"buys\":[],\"more\":1}",
                                "{\"cookie\":\"another\",\"views\":[],\"buys\":[]}",
                                "{" + cookie + ",\"views\":[],\"buys\":[]"}) {
    EXPECT_EQ(checker_.Check(query_, answer).kind, Kind::kWrong) << answer;
  }
}

class CheckAggregate : public testing::Test {
 protected:
  CheckAggregate() : stream_({}), oracle_(stream_, 0), checker_(stream_, oracle_) {
    query_.columns = {"1m_bucket", "action", "origin", "count", "sum_price"};
    query_.fixed = {"BUY", "\"o\""};
    query_.sums = {false, true};
    query_.rows = {{0, {3, 1000}}, {1, {0, 0}}};
  }
  Kind Check(const std::string& rows,
             const std::string& columns = R"("1m_bucket","action","origin","count","sum_price")") {
    return checker_.Check(query_, "{\"columns\":[" + columns + "],\"rows\":[" + rows + "]}").kind;
  }
  static std::string Row(int minute, const std::string& count, const std::string& sum) {
    return "[\"1970-01-01T00:0" + std::to_string(minute) + ":00\",\"BUY\",\"\\\"o\\\"\",\"" +
           count + "\",\"" + sum + "\"]";
  }

  TagStream stream_;
  Oracle oracle_;
  Checker checker_;
  AggregateQuery query_;
};

TEST_F(CheckAggregate, ExactlyTheRowsAreRight) {
  EXPECT_EQ(Check(Row(0, "3", "1000") + "," + Row(1, "0", "0")), Kind::kRight);
  EXPECT_EQ(Check(Row(0, "3", "1001") + "," + Row(1, "0", "0")), Kind::kWrong);
  EXPECT_EQ(Check(Row(0, "2", "1000") + "," + Row(1, "0", "0")), Kind::kWrong);
  EXPECT_EQ(Check(Row(0, "03", "1000") + "," + Row(1, "0", "0")), Kind::kWrong);
  EXPECT_EQ(Check(Row(0, "3", "1000.0") + "," + Row(1, "0", "0")), Kind::kWrong);
  EXPECT_EQ(Check(Row(0, "3", "") + "," + Row(1, "0", "0")), Kind::kWrong);
  EXPECT_EQ(Check(Row(1, "0", "0") + "," + Row(0, "3", "1000")), Kind::kWrong);
  EXPECT_EQ(Check(Row(0, "3", "1000")), Kind::kWrong);
  EXPECT_EQ(Check(Row(0, "3", "1000") + "," + Row(1, "0", "0") + "," + Row(2, "0", "0")),
            Kind::kWrong);
  EXPECT_EQ(Check(""), Kind::kWrong);
}

TEST_F(CheckAggregate, TheColumnsAreCheckedInOrder) {
  const std::string rows = Row(0, "3", "1000") + "," + Row(1, "0", "0");
  EXPECT_EQ(Check(rows, R"("1m_bucket","action","origin","sum_price","count")"), Kind::kWrong);
  EXPECT_EQ(Check(rows, R"("1m_bucket","action","origin","count")"), Kind::kWrong);
  EXPECT_EQ(Check(rows, R"("1m_bucket","action","origin","count","sum_price","x")"), Kind::kWrong);
}

TEST_F(CheckAggregate, UncertainTagsWidenTheBounds) {
  query_.certain = false;
  query_.rows = {{0, {3, 1000, 2, -5, 70}}};
  for (const auto& [count, sum] : std::vector<std::pair<std::string, std::string>>{
           {"3", "1000"}, {"5", "1065"}, {"4", "995"}, {"4", "1070"}}) {
    EXPECT_EQ(Check(Row(0, count, sum)), Kind::kWithinBounds) << count << " " << sum;
  }
  for (const auto& [count, sum] : std::vector<std::pair<std::string, std::string>>{
           {"2", "1000"}, {"6", "1000"}, {"4", "994"}, {"4", "1071"}}) {
    EXPECT_EQ(Check(Row(0, count, sum)), Kind::kWrong) << count << " " << sum;
  }
}

}  // namespace
}  // namespace allezon::load
