// SPDX-License-Identifier: Apache-2.0
#include "gateway/tag_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gateway/stored_tag_json.h"
#include "rpc/status.h"
#include "tests/unit/gateway/testing.h"

namespace allezon::gateway {
namespace {

absl::Status Parse(std::string_view json, v1::Tag* tag = nullptr) {
  static TagParser parser;  // kept, as threads keep theirs: what one tag left must not show
  v1::Tag parsed;
  const Padded padded(json);
  absl::Status status = parser.Parse(padded.text(), parsed);
  if (tag != nullptr) *tag = parsed;
  return status;
}

std::string Print(const v1::Tag& tag) {
  std::string out;
  EXPECT_TRUE(AppendTagJson(tag.SerializeAsString(), out));
  return out;
}

TEST(TagJsonTest, ATagComesBackAsItWasSent) {
  v1::Tag tag;
  ASSERT_TRUE(Parse(kTagJson, &tag).ok()) << Parse(kTagJson);
  EXPECT_EQ(tag.time_ms(), 1'647'951'300'000);
  EXPECT_EQ(tag.cookie(), "c1");
  EXPECT_EQ(tag.device(), v1::DEVICE_PC);
  EXPECT_EQ(tag.action(), v1::ACTION_VIEW);
  EXPECT_EQ(tag.product_info().product_id().number(), 7);
  EXPECT_EQ(tag.product_info().price(), 1299);
  EXPECT_EQ(Print(tag), kTagJson);
}

TEST(TagJsonTest, GoodTagsOfEveryKind) {
  const std::pair<const char*, const char*> kChanges[] = {
      {"\"PC\"", "\"MOBILE\""},
      {"\"PC\"", "\"TV\""},
      {"\"VIEW\"", "\"BUY\""},
      {"1299", "-2147483648"},
      {"1299", "2147483647"},
      {"1299", "0"},
      {":7,", ":\"7\","},
      {":7,", ":\"\","},
      {":7,", ":-9223372036854775808,"},
      {":7,", ":9223372036854775807,"},
      {"\"campaign\"", "\"\""},
      {"\"campaign\"", "\"null\""},
      {"\"campaign\"", "\"zażółć 😀\""},
      {"\"campaign\"", R"("\"\\\n\t")"},
      {"\"PL\"", R"("\u0000")"},
  };
  for (const auto& [from, to] : kChanges) {
    const std::string json = Replaced(kTagJson, from, to);
    v1::Tag tag;
    ASSERT_TRUE(Parse(json, &tag).ok()) << json << Parse(json);
    EXPECT_EQ(Print(tag), json);
  }
}

TEST(TagJsonTest, EscapesAndOrderAndSpaceDoNotMatter) {
  v1::Tag tag;
  const std::string json = R"( { "product_info" : { "price" : 1299 , "category_id" : "sh\u006fes",
      "brand_id":"Nike", "product_id" : 7 }, "origin": "\uD83D\uDE00\/", "\u0061ction":"VIEW",
      "device":"P\u0043","country":"PL","cookie":"c1","time":"2022-03-22T12:15:00Z" } )";
  ASSERT_TRUE(Parse(json, &tag).ok()) << Parse(json);
  EXPECT_EQ(tag.origin(), "😀/");
  EXPECT_EQ(tag.product_info().category_id(), "shoes");
}

TEST(TagJsonTest, UnknownFieldsAreIgnoredWhereverTheyStand) {
  for (const char* value :
       {"1", "1e400", "123456789012345678901234567890", "null", "true", "\"x\"", "[]", "{}",
        R"([1,{"price":"x"},[[]]])", R"({"time":1,"cookie":{"a":[]}})"}) {
    const std::string extra = std::string("\"extra\":") + value + ",";
    for (const char* at : {"\"time\"", "\"origin\"", "\"product_id\"", "\"price\""}) {
      const std::string json = Replaced(kTagJson, at, extra + at);
      v1::Tag tag;
      ASSERT_TRUE(Parse(json, &tag).ok()) << json << Parse(json);
      EXPECT_EQ(Print(tag), kTagJson);
    }
    const std::string last =
        Replaced(kTagJson, "1299}}", "1299,\"x\":" + std::string(value) + "},\"x\":" + value + "}");
    EXPECT_TRUE(Parse(last).ok()) << last << Parse(last);
  }
}

TEST(TagJsonTest, UnknownFieldsMustBeJson) {
  for (const char* value :
       {"",        "tru",       "truex", "01",   "1.",        "+1",         "nul",
        "x",       "[}",        "{]",    "[1,]", "{\"a\"}",   "{\"a\":1,}", "[1 2]",
        "\"\\x\"", "\"\\u12\"", "1 2",   "-",    "[\"\\q\"]", "'a'",        "NaN"}) {
    for (const char* at : {"\"time\"", "\"product_id\""}) {
      const std::string json = Replaced(kTagJson, at, std::string("\"extra\":") + value + "," + at);
      EXPECT_FALSE(Parse(json).ok()) << json;
    }
  }
}

struct Refusal {
  const char* from;
  const char* to;
  const char* field;
};

TEST(TagJsonTest, WhatIsOutsideTheRulesIsRefusedByName) {
  static const std::string long_text = "\"" + std::string(257, 'a') + "\"";
  static const std::string long_utf8 = "\"" + [] {
    std::string s;
    for (int i = 0; i < 129; ++i) s += "ą";
    return s;
  }() + "\"";
  const Refusal kRefusals[] = {
      {"\"2022-03-22T12:15:00.000Z\"", "\"2022-02-30T12:15:00.000Z\"", "time"},
      {"\"2022-03-22T12:15:00.000Z\"", "1647951300000", "time"},
      {"\"2022-03-22T12:15:00.000Z\"", "null", "time"},
      {"\"c1\"", "\"\"", "cookie"},
      {"\"c1\"", "7", "cookie"},
      {"\"c1\"", "null", "cookie"},
      {"\"c1\"", "[\"c1\"]", "cookie"},
      {"\"c1\"", "{}", "cookie"},
      {"\"c1\"", long_text.c_str(), "cookie"},
      {"\"c1\"", long_utf8.c_str(), "cookie"},
      {"\"PL\"", long_text.c_str(), "country"},
      {"\"PL\"", "true", "country"},
      {"\"PC\"", "\"pc\"", "device"},
      {"\"PC\"", "\"DEVICE_PC\"", "device"},
      {"\"PC\"", "1", "device"},
      {"\"VIEW\"", "\"view\"", "action"},
      {"\"VIEW\"", "\"\"", "action"},
      {"\"campaign\"", long_text.c_str(), "origin"},
      {"\"campaign\"", "1.5", "origin"},
      {":7,", ":7.5,", "product_info.product_id"},
      {":7,", ":75e-1,", "product_info.product_id"},
      {":7,", ":9223372036854775808,", "product_info.product_id"},
      {":7,", ":-9223372036854775809,", "product_info.product_id"},
      {":7,", ":null,", "product_info.product_id"},
      {":7,", ":{},", "product_info.product_id"},
      {":7,", ":[7],", "product_info.product_id"},
      {":7,", ":true,", "product_info.product_id"},
      {"\"Nike\"", long_text.c_str(), "product_info.brand_id"},
      {"\"Nike\"", "null", "product_info.brand_id"},
      {"\"shoes\"", long_text.c_str(), "product_info.category_id"},
      {"1299", "\"12\"", "product_info.price"},
      {"1299", "12.5", "product_info.price"},
      {"1299", "1e-1", "product_info.price"},
      {"1299", "2147483648", "product_info.price"},
      {"1299", "-2147483649", "product_info.price"},
      {"1299", "99999999999999999999", "product_info.price"},
      {"1299", "null", "product_info.price"},
      {"1299", "true", "product_info.price"},
      {"1299", "[]", "product_info.price"},
      {"\"cookie\":\"c1\"", "\"cookie\":\"c1\",\"cookie\":\"c1\"", "cookie"},
      {"\"cookie\":\"c1\"", "\"cookie\":\"c1\",\"\\u0063ookie\":\"c1\"", "cookie"},
      {"\"product_info\"", "\"product_info\":{},\"product_info\"", "product_info.product_id"},
      {"\"price\":1299", "\"price\":1299,\"price\":1", "product_info.price"},
      {"\"time\"", "\"Time\"", "time"},
      {"\"cookie\"", "\"cooky\"", "cookie"},
      {"\"country\"", "\"x\"", "country"},
      {"\"device\"", "\"x\"", "device"},
      {"\"action\"", "\"x\"", "action"},
      {"\"origin\"", "\"x\"", "origin"},
      {"\"product_info\"", "\"x\"", "product_info"},
      {"\"product_id\"", "\"x\"", "product_info.product_id"},
      {"\"brand_id\"", "\"x\"", "product_info.brand_id"},
      {"\"category_id\"", "\"x\"", "product_info.category_id"},
      {"\"price\"", "\"x\"", "product_info.price"},
      {"\"product_info\":{", "\"product_info\":[],\"y\":{", "product_info"},
      {"\"product_info\":{", "\"product_info\":null,\"y\":{", "product_info"},
  };
  for (const Refusal& refusal : kRefusals) {
    const std::string json = Replaced(kTagJson, refusal.from, refusal.to);
    ASSERT_NE(json, kTagJson) << refusal.from;
    const absl::Status status = Parse(json);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << json;
    EXPECT_EQ(rpc::FieldOf(status), refusal.field) << json << status;
  }
}

TEST(TagJsonTest, BrokenJsonIsRefused) {
  std::vector<std::string> broken = {"",
                                     " ",
                                     "{",
                                     "}",
                                     "[]",
                                     "null",
                                     "1",
                                     "\"tag\"",
                                     "{}",
                                     "{{}",
                                     "{\"a\"",
                                     "\xff\xfe",
                                     "{\"time\"}",
                                     "{\"time\":}",
                                     "{\"a\":1,}",
                                     "{\"a\":1}{\"a\":1}",
                                     "<tag/>",
                                     "{'cookie':'x'}",
                                     "\xef\xbb\xbf{}",
                                     std::string(100, '\0'),
                                     std::string(60'000, '{'),
                                     std::string(60'000, '['),
                                     std::string(kTagJson) + "x",
                                     std::string(kTagJson) + kTagJson,
                                     std::string(kTagJson) + ",",
                                     std::string(kTagJson) + "}",
                                     std::string(kTagJson) + std::string(1, '\0'),
                                     "[" + std::string(kTagJson) + "]",
                                     "\xef\xbb\xbf" + std::string(kTagJson)};
  std::string deep;
  for (int i = 0; i < 10'000; ++i) deep += "{\"a\":";
  broken.push_back(deep);
  broken.push_back(Replaced(kTagJson, "{",
                            "{\"a\":" + std::string(20'000, '[') + std::string(20'000, ']') + ","));
  const std::pair<std::string, std::string> kChanges[] = {{"\"campaign\"", "\"\xff\""},
                                                          {"\"campaign\"", "\"\xc0\x80\""},
                                                          {"\"campaign\"", "\"\xed\xa0\x80\""},
                                                          {"\"campaign\"", "\"\xf4\x90\x80\x80\""},
                                                          {"\"campaign\"", "\"\\ud800\""},
                                                          {"\"campaign\"", "\"\\udc00\""},
                                                          {"\"campaign\"", "\"\\ud800\\u0041\""},
                                                          {"\"campaign\"", "\"\\u12\""},
                                                          {"\"campaign\"", "\"\\x41\""},
                                                          {"\"campaign\"", "\"a\x01\""},
                                                          {"\"campaign\"", "\"a\nb\""},
                                                          {"1299", "01299"},
                                                          {"1299", "+1"},
                                                          {"1299", "--1"},
                                                          {"1299", ""},
                                                          {"1299", "1299 1299"},
                                                          {"}}", "}} x"},
                                                          {"}}", "}"},
                                                          {"}}", "},}"},
                                                          {"}}", "}}}"},
                                                          {"\"time\"", "time"},
                                                          {"{", "{,"},
                                                          {"\"PC\",", "\"PC\""},
                                                          {"\"PC\",", "\"PC\",,"},
                                                          {"\"cookie\":", "\"cookie\""},
                                                          {"\"cookie\":", "\"cookie\"::"},
                                                          {"\"\xff\"", ""}};
  for (const auto& [from, to] : kChanges) {
    const std::string json = Replaced(kTagJson, from, to);
    if (json != kTagJson) broken.push_back(json);
  }
  for (const std::string& json : broken) {
    EXPECT_EQ(Parse(json).code(), absl::StatusCode::kInvalidArgument) << json.substr(0, 400);
    EXPECT_TRUE(Parse(kTagJson).ok()) << "after " << json.substr(0, 400);
  }
}

TEST(TagJsonTest, EveryPrefixOfATagIsRefused) {
  const std::string json = kTagJson;
  for (size_t n = 0; n < json.size(); ++n) {
    EXPECT_FALSE(Parse(std::string_view(json).substr(0, n)).ok()) << n;
  }
}

TEST(TagJsonTest, NoSingleByteChangeBreaksTheParser) {
  const std::string json = kTagJson;
  for (size_t n = 0; n < json.size(); ++n) {
    for (const char c : {'\0', '"', '\\', '{', '}', '[', ']', ',', ':', ' ', '\xff', '\x80', '1'}) {
      std::string changed = json;
      changed[n] = c;
      v1::Tag tag;
      if (Parse(changed, &tag).ok()) {
        v1::Tag again;
        ASSERT_TRUE(Parse(Print(tag), &again).ok()) << changed;
        EXPECT_EQ(Print(again), Print(tag));
      }
    }
  }
}

}  // namespace
}  // namespace allezon::gateway
