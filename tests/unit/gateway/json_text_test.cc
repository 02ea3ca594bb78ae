// SPDX-License-Identifier: Apache-2.0
#include "gateway/json_text.h"

#include <gtest/gtest.h>
#include <simdjson.h>

#include "gateway/debug_compare.h"

namespace allezon::gateway {
namespace {

TEST(JsonTextTest, WhatIsWrittenReadsBackAsItWas) {
  std::string all;
  for (int c = 0; c < 128; ++c) all.push_back(static_cast<char>(c));
  all += "zażółć \xe2\x80\xa8 😀";
  for (const std::string& text :
       {all, std::string(), std::string("\0", 1), std::string("\\\"/"), std::string(1000, '"')}) {
    std::string json;
    AppendJsonString(text, json);
    simdjson::dom::parser parser;
    std::string_view read;
    ASSERT_FALSE(parser.parse(json).get_string().get(read)) << json;
    EXPECT_EQ(read, text);
    EXPECT_TRUE(IsJsonValue(json));
  }
}

TEST(JsonTextTest, TextThatIsNoUtf8BecomesUtf8) {
  std::string json;
  AppendJsonText("a\xff\"b", json);
  EXPECT_EQ(json, R"("a?\"b")");
}

TEST(JsonTextTest, EveryValueOfTheGrammarIsOne) {
  for (const char* text :
       {"1", "-0", "0.5", "1e400", "-1E+5", "123456789012345678901234567890", "true", "false",
        "null", "\"\"", R"("\u00e9\"\\\/\b\f\n\r\t")", "[]", "{}", " [ 1 , [ ] , { \"a\" : 1 } ] ",
        R"({"a":{"b":[1,2,{"c":null}]}})", "\t\r\n 1 \n"}) {
    EXPECT_TRUE(IsJsonValue(text)) << text;
  }
}

TEST(JsonTextTest, EverythingElseIsNone) {
  for (const char* text : {"",         " ",          "01",
                           "1.",       ".5",         "+1",
                           "--1",      "1e",         "0x1",
                           "NaN",      "tru",        "truex",
                           "nullnull", "'a'",        "\"",
                           "\"a",      "\"\\x\"",    "\"\\u12\"",
                           "\"\\",     "\"\t\"",     "[",
                           "[1",       "[1,]",       "[,1]",
                           "[1 2]",    "]",          "{",
                           "{}}",      "{1:2}",      "{\"a\"}",
                           "{\"a\":}", "{\"a\":1,}", "{\"a\":1 \"b\":2}",
                           "[}",       "{]",         "1 2",
                           "-"}) {
    EXPECT_FALSE(IsJsonValue(text)) << text;
  }
  EXPECT_FALSE(IsJsonValue(std::string_view("1\0", 2)));
  EXPECT_FALSE(IsJsonValue(std::string_view("\"\\\0\"", 4)));
}

TEST(JsonTextTest, DepthHasABound) {
  const auto nested = [](int depth) {
    return std::string(depth, '[') + "1" + std::string(depth, ']');
  };
  EXPECT_TRUE(IsJsonValue(nested(kJsonDepthMax)));
  EXPECT_FALSE(IsJsonValue(nested(kJsonDepthMax + 1)));
  EXPECT_TRUE(IsTooDeepJson(nested(kJsonDepthMax + 1)));
  EXPECT_FALSE(IsTooDeepJson(nested(kJsonDepthMax)));
  EXPECT_FALSE(IsTooDeepJson("[1,"));
  EXPECT_FALSE(IsJsonValue(std::string(10'000'000, '[')));
}

TEST(JsonTextTest, IntegersAreExact) {
  EXPECT_EQ(ParseJsonInteger("0"), 0);
  EXPECT_EQ(ParseJsonInteger("-0"), 0);
  EXPECT_EQ(ParseJsonInteger("9223372036854775807"), INT64_MAX);
  EXPECT_EQ(ParseJsonInteger("-9223372036854775808"), INT64_MIN);
  for (const char* token :
       {"", "-", "+1", "01", "-01", "1.5", "15e-1", "1.", ".1", "1e", "1e+", "1e19",
        "9223372036854775808", "-9223372036854775809", "1 ", " 1", "0x1", "1a"}) {
    EXPECT_EQ(ParseJsonInteger(token), std::nullopt) << token;
  }
}

TEST(JsonTextTest, IntegersMayBeSpelledInAnyWay) {
  const std::pair<const char*, int64_t> kCases[] = {
      {"1299.0", 1299},
      {"1.299e3", 1299},
      {"1.299E+3", 1299},
      {"129900e-2", 1299},
      {"-1.0", -1},
      {"0.0", 0},
      {"-0e99999999999999999999", 0},
      {"0.000e-99999999999999999999", 0},
      {"1e18", 1'000'000'000'000'000'000},
      {"9223372036854775807.000", INT64_MAX},
      {"-9223372036854775808e0", INT64_MIN},
      {"0.9223372036854775807e19", INT64_MAX},
  };
  for (const auto& [token, value] : kCases) EXPECT_EQ(ParseJsonInteger(token), value) << token;
  for (const char* token : {"1e-99999999999999999999", "1e99999999999999999999", "0.1e0",
                            "9223372036854775807.1", "922337203685477580.8e1"}) {
    EXPECT_EQ(ParseJsonInteger(token), std::nullopt) << token;
  }
  EXPECT_EQ(ParseJsonInteger("1." + std::string(100'000, '0')), 1);
}

TEST(DebugCompareTest, WhatDiffersOnlyInWritingIsEqual) {
  const char* answer = R"({"a":[1,"x",{"b":null}],"c":"é"})";
  for (const char* expected :
       {answer, R"({ "c" : "\u00e9", "a" : [ 1.0, "\u0078", {"b": null} ] })"}) {
    EXPECT_EQ(Difference(expected, answer), std::nullopt) << expected;
  }
}

TEST(DebugCompareTest, ADifferenceIsNamed) {
  const char* answer = R"({"a":[1,"x",{"b":null}],"c":7})";
  const std::pair<const char*, const char*> kCases[] = {
      {R"({"a":[2,"x",{"b":null}],"c":7})", "$.a[0]: expected 2, answered 1"},
      {R"({"a":["1","x",{"b":null}],"c":7})", "$.a[0]: expected \"1\", answered 1"},
      {R"({"a":[1,"x"],"c":7})", "$.a: expected an array of 2, answered an array of 3"},
      {R"({"a":[1,"x",{"b":null},4],"c":7})",
       "$.a: expected an array of 4, answered an array of 3"},
      {R"({"a":[1,"x",{}],"c":7})", "$.a[2].b: expected nothing, answered null"},
      {R"({"a":[1,"x",{"b":null}],"c":7,"d":1})", "$.d: expected 1, answered nothing"},
      {R"({"a":[1,"x",{"b":false}],"c":7})", "$.a[2].b: expected false, answered null"},
      {"[]", "$: expected an array of 0, answered an object of 2"},
  };
  for (const auto& [expected, difference] : kCases) {
    EXPECT_EQ(Difference(expected, answer), difference) << expected;
  }
}

TEST(DebugCompareTest, ABodyThatIsNoJsonDiffersFromEverything) {
  for (const std::string& body : {std::string("no json"), std::string("{"), std::string("\xff"),
                                  std::string(100'000, '['), std::string("\0", 1)}) {
    EXPECT_NE(Difference(body, "{}"), std::nullopt);
  }
  EXPECT_NE(Difference(R"({"a":1,"a":1})", R"({"a":1})"), std::nullopt);
}

TEST(DebugCompareTest, ADifferenceIsShort) {
  const std::string answer = R"({"a":")" + std::string(100'000, 'x') + R"("})";
  const std::optional<std::string> difference = Difference(R"({"a":1})", answer);
  ASSERT_NE(difference, std::nullopt);
  EXPECT_LT(difference->size(), 400u);
}

}  // namespace
}  // namespace allezon::gateway
