// SPDX-License-Identifier: Apache-2.0
#include "gateway/query.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rpc/status.h"

namespace allezon::gateway {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

TEST(QueryTest, ATargetIsSplitAtItsFirstQuestionMark) {
  EXPECT_EQ(SplitTarget("/a/b?x=1?y=2").path, "/a/b");
  EXPECT_EQ(SplitTarget("/a/b?x=1?y=2").query, "x=1?y=2");
  EXPECT_EQ(SplitTarget("/a").query, "");
  EXPECT_EQ(SplitTarget("http://host:80/a?b").path, "/a");
  EXPECT_EQ(SplitTarget("http://host").path, "/");
  EXPECT_EQ(SplitTarget("/a?u=http://x").path, "/a");
}

TEST(QueryTest, PercentDecoding) {
  const std::pair<const char*, const char*> kGood[] = {{"a%2Fb", "a/b"}, {"%2f", "/"},
                                                       {"%252F", "%2F"}, {"za%C5%BC", "zaż"},
                                                       {"a+b", "a+b"},   {"", ""}};
  for (const auto& [text, decoded] : kGood) EXPECT_EQ(PercentDecode(text, false).value(), decoded);
  EXPECT_EQ(PercentDecode("a+b%2B", true).value(), "a b+");
  EXPECT_EQ(PercentDecode("%00", true).value(), std::string(1, '\0'));
  for (const char* text : {"%", "a%4", "%zz", "%-1", "%ff", "%C5", "%ed%a0%80", "\xff"}) {
    EXPECT_FALSE(PercentDecode(text, false).ok()) << text;
  }
}

TEST(QueryTest, ParametersAreTakenApartBeforeTheyAreDecoded) {
  EXPECT_THAT(ParseParameters("&&a=1&b=x%26y&c=p=q&d&e=?limit=2&%61=z").value(),
              ElementsAre(Pair("a", "1"), Pair("b", "x&y"), Pair("c", "p=q"), Pair("d", ""),
                          Pair("e", "?limit=2"), Pair("a", "z")));
  EXPECT_EQ(rpc::FieldOf(ParseParameters("a=1&origin=%ff").status()), "origin");
  EXPECT_FALSE(ParseParameters("%ff=1").ok());
}

constexpr char kRange[] = "time_range=2022-03-22T12:15:00.000_2022-03-22T12:30:00.000";

TEST(QueryTest, AProfileQuery) {
  const auto query = ParseProfileQuery("a%2Fb+c", std::string(kRange) + "&limit=7");
  ASSERT_TRUE(query.ok()) << query.status();
  EXPECT_EQ(query->cookie, "a/b+c");
  EXPECT_EQ(query->from_ms, 1'647'951'300'000);
  EXPECT_EQ(query->to_ms, 1'647'952'200'000);
  EXPECT_EQ(query->limit, 7u);
}

TEST(QueryTest, LimitsBeyondTheTopAreTheTop) {
  const std::pair<const char*, uint32_t> kLimits[] = {{"", 200},
                                                      {"&limit=0", 0},
                                                      {"&limit=200", 200},
                                                      {"&limit=201", 200},
                                                      {"?limit=5", 5},
                                                      {"&limit=007", 7},
                                                      {"&limit=99999999999999999999999", 200}};
  for (const auto& [text, limit] : kLimits) {
    const auto query = ParseProfileQuery("c", std::string(kRange) + text);
    ASSERT_TRUE(query.ok()) << text << query.status();
    EXPECT_EQ(query->limit, limit) << text;
  }
}

TEST(QueryTest, AQueryMayAskForAQuorum) {
  const std::pair<std::string, bool> kCases[] = {{"", false},
                                                 {"&consistency=one", false},
                                                 {"&consistency=ONE", false},
                                                 {"&consistency=quorum", true},
                                                 {"&consistency=Quorum", true}};
  for (const auto& [text, quorum] : kCases) {
    const auto profile = ParseProfileQuery("c", std::string(kRange) + text);
    ASSERT_TRUE(profile.ok()) << text << profile.status();
    EXPECT_EQ(profile->quorum, quorum) << text;
    const auto aggregate = ParseAggregateRequest(
        "time_range=2022-03-01T00:05:00_2022-03-01T00:07:00&action=BUY&aggregates=COUNT" + text);
    ASSERT_TRUE(aggregate.ok()) << text << aggregate.status();
    EXPECT_EQ(aggregate->query.quorum, quorum) << text;
  }
}

TEST(QueryTest, BadProfileQueriesAreRefusedByName) {
  const std::string range = kRange;
  const std::pair<std::string, const char*> kCases[] = {
      {"", "time_range"},
      {"limit=5", "time_range"},
      {"time_range=", "time_range"},
      {"time_range=2022-03-01T00:00:00", "time_range"},
      {"time_range=2022-03-01T00:00:00_", "time_range"},
      {"time_range=_2022-03-01T00:00:00", "time_range"},
      {"time_range=2022-03-01T00:00:00-2022-03-02T00:00:00", "time_range"},
      {"time_range=2022-03-01T00:00:00Z_2022-03-02T00:00:00Z", "time_range"},
      {"time_range=2022-03-02T00:00:00_2022-03-01T00:00:00", "time_range"},
      {"time_range=2022-02-30T00:00:00_2022-03-02T00:00:00", "time_range"},
      {"time_range=2022-03-01T00:00:00_2022-03-02T00:00:00_2022-03-02T00:00:00", "time_range"},
      {range + "&" + range, "time_range"},
      {range + "&limit=", "limit"},
      {range + "&limit", "limit"},
      {range + "&limit=-1", "limit"},
      {range + "&limit=+5", "limit"},
      {range + "&limit=%2B5", "limit"},
      {range + "&limit=1.5", "limit"},
      {range + "&limit=1e3", "limit"},
      {range + "&limit=0x10", "limit"},
      {range + "&limit=5%205", "limit"},
      {range + "&limit=1&limit=2", "limit"},
      {range + "&limit=%ff", "limit"},
      {range + "&limit=%", "limit"},
      {range + "&consistency=", "consistency"},
      {range + "&consistency=all", "consistency"},
      {range + "&consistency=one&consistency=one", "consistency"},
  };
  for (const auto& [text, field] : kCases) {
    const absl::Status status = ParseProfileQuery("c", text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_EQ(rpc::FieldOf(status), field) << text;
  }
  for (const std::string& cookie :
       {std::string(), std::string("%"), std::string("%ff"), std::string(257, 'a')}) {
    EXPECT_EQ(rpc::FieldOf(ParseProfileQuery(cookie, range).status()), "cookie") << cookie;
  }
}

constexpr char kMinutes[] = "time_range=2022-03-01T00:05:00_2022-03-01T00:07:00.000";

// A '?' is a character like others, but where the assignment means a '&'.
TEST(QueryTest, AValueMayHaveAQuestionMark) {
  const auto query = ParseAggregateRequest(
      std::string(kMinutes) + "&action=BUY&aggregates=COUNT&origin=a?b&brand_id=c?limit=5");
  ASSERT_TRUE(query.ok()) << query.status();
  EXPECT_EQ(query->query.origin, "a?b");
  EXPECT_EQ(query->query.brand_id, "c?limit=5");
}

TEST(QueryTest, AnAggregateRequest) {
  const auto request = ParseAggregateRequest(
      std::string(kMinutes) +
      "&action=BUY&aggregates=SUM_PRICE&brand_id=a+b&aggregates=count&origin=&unknown=1");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->query.from_minute, 27'434'885);
  EXPECT_EQ(request->query.to_minute, 27'434'887);
  EXPECT_EQ(request->query.brand_id, "a b");
  EXPECT_EQ(request->query.origin, "");
  EXPECT_EQ(request->query.category_id, std::nullopt);
  EXPECT_THAT(request->aggregates, ElementsAre(Aggregate::kSumPrice, Aggregate::kCount));
}

TEST(QueryTest, HabitsOfAskingForAggregates) {
  for (const char* habit :
       {"aggregates[]=COUNT&aggregates[]=SUM_PRICE", "aggregates=COUNT,SUM_PRICE",
        "aggregates%5B%5D=COUNT,sum_price", "aggregates=count%2Csum_price",
        "aggregates=COUNT&aggregates[]=SUM_PRICE"}) {
    const auto request = ParseAggregateRequest(std::string(kMinutes) + "&action=VIEW&" + habit);
    ASSERT_TRUE(request.ok()) << habit << request.status();
    EXPECT_THAT(request->aggregates, ElementsAre(Aggregate::kCount, Aggregate::kSumPrice)) << habit;
  }
}

TEST(QueryTest, BadAggregateRequestsAreRefusedByName) {
  const std::string good = std::string(kMinutes) + "&action=VIEW&aggregates=COUNT";
  ASSERT_TRUE(ParseAggregateRequest(good).ok());
  const auto with_range = [](const char* range) {
    return std::string("action=VIEW&aggregates=COUNT&time_range=") + range;
  };
  const std::string long_text(257, 'a');
  const std::pair<std::string, const char*> kCases[] = {
      {"", "time_range"},
      {std::string(kMinutes) + "&aggregates=COUNT", "action"},
      {std::string(kMinutes) + "&action=VIEW", "aggregates"},
      {std::string(kMinutes) + "&action=view&aggregates=COUNT", "action"},
      {std::string(kMinutes) + "&action=&aggregates=COUNT", "action"},
      {good + "&action=BUY", "action"},
      {good + ",", "aggregates"},
      {good + ",COUNT", "aggregates"},
      {good + "&aggregates=count", "aggregates"},
      {good + "&aggregates[]=", "aggregates"},
      {good + "&aggregates=AVG", "aggregates"},
      {good + "&origin=a&origin=a", "origin"},
      {good + "&consistency=two", "consistency"},
      {good + "&consistency=quorum&consistency=quorum", "consistency"},
      {good + "&origin=%ff", "origin"},
      {good + "&brand_id=" + long_text, "brand_id"},
      {good + "&category_id=a&category_id=b", "category_id"},
      {with_range("2022-03-01T00:00:30_2022-03-01T00:01:00"), "time_range"},
      {with_range("2022-03-01T00:00:00_2022-03-01T00:01:01"), "time_range"},
      {with_range("2022-03-01T00:00:00.001_2022-03-01T00:01:00"), "time_range"},
      {with_range("2022-03-01T00:01:00_2022-03-01T00:00:00"), "time_range"},
      {with_range("2022-03-01T00:00:00_2022-03-01T00:11:00"), "time_range"},
      {with_range("2022-03-01T00:00_2022-03-01T00:01"), "time_range"},
  };
  for (const auto& [text, field] : kCases) {
    const absl::Status status = ParseAggregateRequest(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_EQ(rpc::FieldOf(status), field) << text;
  }
  EXPECT_TRUE(ParseAggregateRequest(with_range("2022-03-01T00:00:00_2022-03-01T00:10:00")).ok());
  EXPECT_TRUE(ParseAggregateRequest(with_range("1969-12-31T23:59:00_1970-01-01T00:00:00")).ok());
}

}  // namespace
}  // namespace allezon::gateway
