// SPDX-License-Identifier: Apache-2.0
#include "rpc/utf8.h"

#include <gtest/gtest.h>
#include <simdjson.h>

#include <random>

namespace allezon::rpc {
namespace {

constexpr char kR[] = "\uFFFD";

TEST(Utf8Test, ValidTextStaysAsItIs) {
  for (const std::string text :
       {"", "a", "\u007f\u0080\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"}) {
    EXPECT_EQ(ReplaceInvalidUtf8(text), text);
  }
  const std::string zero("a\0b", 3);
  EXPECT_EQ(ReplaceInvalidUtf8(zero), zero);
}

TEST(Utf8Test, EachMaximalInvalidPartBecomesOneReplacement) {
  const std::string r = kR;
  EXPECT_EQ(ReplaceInvalidUtf8("\x80"), r);
  EXPECT_EQ(ReplaceInvalidUtf8("\xc0\xaf"), r + r) << "overlong";
  EXPECT_EQ(ReplaceInvalidUtf8("\xe0\x9f\xbf"), r + r + r) << "overlong";
  EXPECT_EQ(ReplaceInvalidUtf8("\xed\xa0\x80"), r + r + r) << "surrogate";
  EXPECT_EQ(ReplaceInvalidUtf8("\xf4\x90\x80\x80"), r + r + r + r) << "above U+10FFFF";
  EXPECT_EQ(ReplaceInvalidUtf8("\xf8"), r);
  EXPECT_EQ(ReplaceInvalidUtf8("\xe2\x82"), r) << "cut";
  EXPECT_EQ(ReplaceInvalidUtf8("\xe2\x82"
                               "A"),
            r + "A");
  // The example of the Unicode standard, table 3-8.
  EXPECT_EQ(ReplaceInvalidUtf8("a\xF1\x80\x80\xE1\x80\xC2"
                               "b\x80"
                               "c\x80\xBF"
                               "d"),
            "a" + r + r + r + "b" + r + "c" + r + r + "d");
}

TEST(Utf8Test, WhatComesOutIsAlwaysValid) {
  std::mt19937 random(1);
  for (int i = 0; i < 20'000; ++i) {
    std::string text(random() % 12, '\0');
    for (char& c : text) c = static_cast<char>(random() % 4 == 0 ? random() % 128 : random());
    const std::string out = ReplaceInvalidUtf8(text);
    ASSERT_TRUE(simdjson::validate_utf8(out));
    ASSERT_EQ(out == text, simdjson::validate_utf8(text));
  }
}

TEST(Utf8Test, TruncationKeepsCodePointsWhole) {
  const std::string text = "a\u00e9\u20ac\U0001F6D2";  // 1 + 2 + 3 + 4 bytes
  const size_t wholes[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 10};
  for (size_t bytes_max = 0; bytes_max < std::size(wholes); ++bytes_max) {
    EXPECT_EQ(TruncateUtf8(text, bytes_max), text.substr(0, wholes[bytes_max])) << bytes_max;
  }
}

}  // namespace
}  // namespace allezon::rpc
