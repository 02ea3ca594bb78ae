// SPDX-License-Identifier: Apache-2.0
#include "bench/load/stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "bench/load/text.h"
#include "simdjson.h"

namespace allezon::load {
namespace {

constexpr int64_t kStartMs = 1'647'950'400'000;  // 2022-03-22T12:00:00Z

StreamOptions Options(uint64_t seed = 1) {
  StreamOptions options;
  options.seed = seed;
  options.start_ms = kStartMs;
  return options;
}

std::string Body(const TagStream& stream, uint64_t index) {
  std::string body;
  stream.AppendBody(stream.At(index), &body);
  return body;
}

TEST(TagStream, TheSameOptionsMakeTheSameStream) {
  const TagStream a(Options()), b(Options());
  EXPECT_EQ(a.run(), b.run());
  for (uint64_t i = 0; i < 2000; ++i) ASSERT_EQ(Body(a, i), Body(b, i));
}

// A change of this text changes every stream: a report's seed would no longer repeat its run.
TEST(TagStream, SeedOneBeginsAsItAlwaysDid) {
  const TagStream stream(Options());
  EXPECT_EQ(Body(stream, 0),
            R"({"time":"2022-03-22T12:00:00.003Z","cookie":"887c4132-2465","country":"C85",)"
            R"("device":"TV","action":"BUY","origin":"origin_880","product_info":)"
            R"({"product_id":5058,"brand_id":"brand_118","category_id":"category_27",)"
            R"("price":90590}})");
  uint64_t hash = 0;
  for (uint64_t i = 0; i < 10'000; ++i) {
    for (const char c : Body(stream, i)) hash = Mix(hash + static_cast<unsigned char>(c));
  }
  EXPECT_EQ(hash, 8419538636412304263u);
}

TEST(TagStream, AnotherSeedOrStartMakesOtherTagsCookiesAndKeys) {
  StreamOptions later = Options();
  later.start_ms += 1;
  const TagStream a(Options()), b(Options(2)), c(later);
  EXPECT_NE(a.run(), b.run());
  EXPECT_NE(a.run(), c.run());
  EXPECT_NE(a.CookieName(7), b.CookieName(7));
  EXPECT_NE(a.CookieName(7), c.CookieName(7));
  int same = 0;
  for (uint64_t i = 0; i < 1000; ++i) same += a.At(i).cookie == b.At(i).cookie;
  EXPECT_LT(same, 10);
}

TEST(TagStream, TimeGoesOnByTheStepAndStaysWithinTheJitter) {
  StreamOptions options = Options();
  options.step_us = 2500;
  options.jitter_ms = 7;
  const TagStream stream(options);
  bool out_of_order = false;
  for (uint64_t i = 0; i < 20'000; ++i) {
    const int64_t time_ms = stream.TimeMs(i);
    ASSERT_EQ(time_ms, stream.At(i).time_ms);
    ASSERT_GE(time_ms, stream.EarliestMs(i));
    ASSERT_LE(time_ms, kStartMs + static_cast<int64_t>(i) * 5 / 2 + 7);
    ASSERT_LE(stream.EarliestMs(i), stream.EarliestMs(i + 1));
    out_of_order = out_of_order || (i > 0 && time_ms < stream.TimeMs(i - 1));
  }
  EXPECT_TRUE(out_of_order);
}

TEST(TagStream, SometimesACookieHasTwoTagsAtOneTime) {
  const TagStream stream(Options());
  int ties = 0;
  for (uint64_t i = 1; i < 20'000; ++i) {
    const Tag a = stream.At(i - 1), b = stream.At(i);
    ties += a.time_ms == b.time_ms && a.cookie == b.cookie && a.action == b.action;
  }
  EXPECT_GT(ties, 10);
  EXPECT_LT(ties, 200);
}

TEST(TagStream, UsesAllTheValuesOfTheAssignment) {
  const TagStream stream(Options());
  std::set<int> countries, devices, origins, brands, categories, actions, kinds;
  std::set<uint32_t> cookies;
  for (uint64_t i = 0; i < 200'000; ++i) {
    const Tag tag = stream.At(i);
    countries.insert(tag.country);
    devices.insert(tag.device);
    origins.insert(tag.origin);
    brands.insert(tag.brand);
    categories.insert(tag.category);
    actions.insert(static_cast<int>(tag.action));
    kinds.insert(static_cast<int>(tag.product_kind));
    cookies.insert(tag.cookie);
  }
  EXPECT_EQ(countries.size(), 100);
  EXPECT_EQ(devices.size(), 3);
  EXPECT_EQ(origins.size(), 1000);
  EXPECT_EQ(brands.size(), 250);
  EXPECT_EQ(categories.size(), 67);
  EXPECT_EQ(actions.size(), 2);
  EXPECT_EQ(kinds.size(), 3);
  EXPECT_GT(cookies.size(), 19'900);
  EXPECT_LE(*cookies.rbegin(), 19'999);
}

TEST(TagStream, ZipfMakesTheFirstCookiesPopular) {
  for (const double exponent : {0.7, 1.0, 1.3}) {
    StreamOptions options = Options();
    options.zipf = exponent;
    const TagStream stream(options);
    std::map<uint32_t, int> counts;
    for (uint64_t i = 0; i < 50'000; ++i) ++counts[stream.At(i).cookie];
    EXPECT_GT(counts[0], 5 * counts[50]) << exponent;
    EXPECT_GT(counts[0], 0);
    EXPECT_LE(counts.rbegin()->first, 19'999);
  }
}

TEST(TagStream, EveryBodyIsJsonThatSaysWhatTheAnswerSays) {
  const TagStream stream(Options());
  simdjson::dom::parser parser, answer_parser;
  for (uint64_t i = 0; i < 20'000; ++i) {
    const Tag tag = stream.At(i);
    std::string answer;
    stream.AppendAnswer(tag, &answer);
    simdjson::dom::element body, expected;
    ASSERT_EQ(parser.parse(Body(stream, i)).get(body), simdjson::SUCCESS) << Body(stream, i);
    ASSERT_EQ(answer_parser.parse(answer).get(expected), simdjson::SUCCESS) << answer;
    for (const char* name : {"cookie", "country", "device", "action", "origin", "product_info"}) {
      ASSERT_EQ(simdjson::minify(body[name]), simdjson::minify(expected[name]));
    }
    ASSERT_EQ(std::string_view(expected["time"]).size(), 24);
    ASSERT_EQ(ParseTime(std::string_view(expected["time"])), tag.time_ms);
  }
}

TEST(TagStream, CookieNamesAreDistinct) {
  const TagStream stream(Options());
  std::set<std::string> names;
  for (uint32_t i = 0; i <= 20'000; ++i) names.insert(stream.CookieName(i));
  EXPECT_EQ(names.size(), 20'001);
}

TEST(Text, TimesAreWrittenAndReadBack) {
  for (const auto& [time_ms, text] :
       std::map<int64_t, std::string>{{0, "1970-01-01T00:00:00.000"},
                                      {-1, "1969-12-31T23:59:59.999"},
                                      {951'782'399'001, "2000-02-28T23:59:59.001"},
                                      {951'868'800'000, "2000-03-01T00:00:00.000"},
                                      {1'647'950'400'123, "2022-03-22T12:00:00.123"}}) {
    std::string written;
    AppendMillis(time_ms, &written);
    EXPECT_EQ(written, text);
    EXPECT_EQ(ParseTime(text), time_ms);
    EXPECT_EQ(ParseTime(text + "Z"), time_ms);
  }
  EXPECT_EQ(ParseTime("2022-03-22T12:00:00"), 1'647'950'400'000);
  for (const char* text : {"", "now", "2022-02-30T00:00:00", "2022-03-22", "2022-03-22T12:00:00.12",
                           "infinite-future", " 2022-03-22T12:00:00", "2022-03-22T12:00:00+01"}) {
    EXPECT_EQ(ParseTime(text), std::nullopt) << text;
  }
}

TEST(Text, EscapesJsonAndUrls) {
  std::string json, url;
  AppendJsonString("a\"\\\n\x01\u017c/", &json);
  EXPECT_EQ(json, "\"a\\\"\\\\\\n\\u0001\u017c/\"");
  AppendPercentEncoded("a b/%+?\u017c~", &url);
  EXPECT_EQ(url, "a%20b%2F%25%2B%3F%C5%BC~");
}

}  // namespace
}  // namespace allezon::load
