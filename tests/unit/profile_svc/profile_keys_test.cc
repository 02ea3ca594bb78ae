// SPDX-License-Identifier: Apache-2.0
#include "profile_svc/profile_keys.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "absl/strings/escaping.h"

namespace allezon::profile_svc {
namespace {

constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

std::string KeyOf(router::ShardId shard, std::string_view cookie, v1::Action action,
                  int64_t time_ms, std::string_view id) {
  std::string key;
  SetPrefix(key, shard, cookie, action);
  AppendInvertedTime(key, time_ms);
  key.append(id);
  return key;
}

const std::string kId(16, 'i');

// What is on disk stays readable: these bytes must never change.
TEST(ProfileKeysTest, BytesAreThoseOfTheFormat) {
  const std::string key = KeyOf(0x0102, "ab", v1::ACTION_BUY, 1, kId);
  EXPECT_EQ(absl::BytesToHexString(key),
            "0102"
            "0002"
            "6162"
            "02"
            "7ffffffffffffffe"
            "69696969696969696969696969696969");
  std::string value;
  SetAccepted(value, 0x01020304);
  EXPECT_EQ(absl::BytesToHexString(value), "04030201");
}

TEST(ProfileKeysTest, ParseGivesBackWhatWasWritten) {
  for (const int64_t time_ms : {kMin, kMin + 1, int64_t{-1}, int64_t{0}, int64_t{1}, kMax}) {
    const std::string cookie("a\0b", 3);
    const std::string key = KeyOf(4095, cookie, v1::ACTION_VIEW, time_ms, kId);
    const auto parsed = ParseKey(key);
    ASSERT_TRUE(parsed.has_value());
    EXPECT_EQ(parsed->time_ms, time_ms);
    EXPECT_EQ(parsed->event_id, kId);
    EXPECT_EQ(parsed->prefix.size(), key.size() - kSuffixBytes);
  }
  std::string value;
  SetAccepted(value, 0xfffffffe);
  value += "tag";
  const auto parsed = ParseValue(value);
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(parsed->accepted_s, 0xfffffffe);
  EXPECT_EQ(parsed->tag, "tag");
}

TEST(ProfileKeysTest, LaterTimesSortFirst) {
  const std::vector<int64_t> times = {kMax, kMax - 1, 1, 0, -1, kMin + 1, kMin};
  std::vector<std::string> keys;
  for (const int64_t t : times) keys.push_back(KeyOf(1, "c", v1::ACTION_VIEW, t, kId));
  EXPECT_TRUE(std::is_sorted(keys.begin(), keys.end()));
}

TEST(ProfileKeysTest, NoPrefixBeginsAnother) {
  const std::vector<std::string> cookies = {"a",
                                            "ab",
                                            "abc",
                                            std::string("a\0", 2),
                                            std::string("\0", 1),
                                            std::string("a\1", 2),
                                            std::string("a\2", 2),
                                            std::string(256, 'a'),
                                            std::string(255, 'a'),
                                            "\xff"};
  std::vector<std::string> prefixes;
  for (const std::string& cookie : cookies) {
    for (const v1::Action action : {v1::ACTION_VIEW, v1::ACTION_BUY}) {
      SetPrefix(prefixes.emplace_back(), 1, cookie, action);
    }
  }
  for (size_t i = 0; i < prefixes.size(); ++i) {
    EXPECT_EQ(PrefixBytes(prefixes[i]), prefixes[i].size());
    for (size_t j = 0; j < prefixes.size(); ++j) {
      EXPECT_EQ(prefixes[i].starts_with(prefixes[j]), i == j) << i << " " << j;
    }
  }
}

TEST(ProfileKeysTest, OtherBytesAreNoKeyAndNoValue) {
  const std::string key = KeyOf(1, "cookie", v1::ACTION_VIEW, 5, kId);
  for (size_t bytes = 0; bytes < key.size(); ++bytes) {
    EXPECT_FALSE(ParseKey(std::string_view(key).substr(0, bytes)).has_value()) << bytes;
  }
  EXPECT_FALSE(ParseKey(key + "x").has_value());
  EXPECT_FALSE(ParseValue("abc").has_value());
}

}  // namespace
}  // namespace allezon::profile_svc
