// SPDX-License-Identifier: Apache-2.0
#include "rpc/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <simdjson.h>

#include <cmath>
#include <functional>
#include <limits>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace allezon::rpc {
namespace {

using ::testing::MatchesRegex;
using ::testing::SizeIs;

// The lines that `write` puts on stderr.
std::vector<std::string> LinesOf(const std::function<void()>& write) {
  testing::internal::CaptureStderr();
  write();
  std::istringstream text(testing::internal::GetCapturedStderr());
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  return lines;
}

// A field of the one line that `write` puts on stderr; the parser is a strict one.
class Line {
 public:
  explicit Line(const std::function<void()>& write) {
    const std::vector<std::string> lines = LinesOf(write);
    EXPECT_THAT(lines, SizeIs(1));
    if (lines.size() != 1) return;
    raw_ = lines[0];
    const simdjson::error_code error = parser_.parse(raw_).get(document_);
    EXPECT_EQ(error, simdjson::SUCCESS) << raw_;
    parsed_ = error == simdjson::SUCCESS;
  }
  std::string Text(std::string_view name) { return std::string(Value<std::string_view>(name)); }
  template <typename T>
  T Value(std::string_view name) {
    T value{};
    if (!parsed_) return value;
    EXPECT_EQ(document_[name].get(value), simdjson::SUCCESS) << name << " in " << raw_;
    return value;
  }

 private:
  std::string raw_;
  bool parsed_ = false;
  simdjson::dom::parser parser_;
  simdjson::dom::element document_;
};

TEST(LogTest, ALineIsOneObjectWithTimeLevelProcessAndMessage) {
  ASSERT_TRUE(InitLog("info", "gateway-1"));
  const absl::Time before = absl::Now() - absl::Milliseconds(1);
  Line line([] { LogWarn("queue full", {{"lane", "p-1"}}); });
  EXPECT_EQ(line.Text("level"), "warn");
  EXPECT_EQ(line.Text("process"), "gateway-1");
  EXPECT_EQ(line.Text("message"), "queue full");
  EXPECT_EQ(line.Text("lane"), "p-1");
  const std::string time = line.Text("time");
  EXPECT_THAT(time, MatchesRegex("....-..-..T..:..:..\\....Z"));
  absl::Time parsed;
  ASSERT_TRUE(absl::ParseTime(absl::RFC3339_full, time, &parsed, nullptr));
  EXPECT_GE(parsed, before);
  EXPECT_LE(parsed, absl::Now());
}

TEST(LogTest, FieldsKeepTheirTypes) {
  ASSERT_TRUE(InitLog("info", "p"));
  Line line([] {
    LogInfo("m", {{"yes", true},
                  {"no", false},
                  {"int", -7},
                  {"big", std::numeric_limits<uint64_t>::max()},
                  {"small", std::numeric_limits<int64_t>::min()},
                  {"real", 0.5},
                  {"text", std::string("x")},
                  {"view", std::string_view("yz", 1)},
                  {"digits", "12"},
                  {"empty", ""}});
  });
  EXPECT_TRUE(line.Value<bool>("yes"));
  EXPECT_FALSE(line.Value<bool>("no"));
  EXPECT_EQ(line.Value<int64_t>("int"), -7);
  EXPECT_EQ(line.Value<uint64_t>("big"), std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(line.Value<int64_t>("small"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(line.Value<double>("real"), 0.5);
  EXPECT_EQ(line.Text("text"), "x");
  EXPECT_EQ(line.Text("view"), "y");
  EXPECT_EQ(line.Text("digits"), "12");
  EXPECT_EQ(line.Text("empty"), "");
}

TEST(LogTest, NumbersThatJsonDoesNotHaveAreStrings) {
  ASSERT_TRUE(InitLog("info", "p"));
  Line line([] {
    LogInfo("m", {{"nan", std::nan("")}, {"up", INFINITY}, {"down", -INFINITY}, {"max", 1e300}});
  });
  EXPECT_THAT(line.Text("nan"), testing::HasSubstr("nan"));
  EXPECT_EQ(line.Text("up"), "inf");
  EXPECT_EQ(line.Text("down"), "-inf");
  EXPECT_EQ(line.Value<double>("max"), 1e300);
}

TEST(LogTest, EveryCharacterSurvivesInMessagesFieldsNamesAndProcess) {
  std::string all;
  for (int c = 0; c < 0x80; ++c) all += static_cast<char>(c);
  all += "zażółć 漢字 🛒 \u2028 \u00a0";
  ASSERT_TRUE(InitLog("info", "a\"b\\c\n"));
  Line line([&] { LogInfo(all, {{"f", all}, {"na\"me\n", 1}}); });
  EXPECT_EQ(line.Text("message"), all);
  EXPECT_EQ(line.Text("f"), all);
  EXPECT_EQ(line.Text("process"), "a\"b\\c\n");
  EXPECT_EQ(line.Value<int64_t>("na\"me\n"), 1);
}

TEST(LogTest, BracesAndPercentSignsAreNoFormat) {
  ASSERT_TRUE(InitLog("info", "p"));
  EXPECT_EQ(Line([] { LogInfo("{} {0} %v %n %%"); }).Text("message"), "{} {0} %v %n %%");
}

TEST(LogTest, BytesThatAreNotUtf8BecomeReplacementCharacters) {
  ASSERT_TRUE(InitLog("info", "p"));
  EXPECT_EQ(Line([] {
              LogInfo(
                  "a\xff"
                  "b\xc3");
            }).Text("message"),
            "a\uFFFDb\uFFFD");
}

TEST(LogTest, LevelsBelowTheOneSetAreSilent) {
  const auto all = [] {
    LogDebug("d");
    LogInfo("i");
    LogWarn("w");
    LogError("e");
  };
  const std::vector<std::string> levels = {"error", "warn", "info", "debug"};
  for (size_t i = 0; i < levels.size(); ++i) {
    ASSERT_TRUE(InitLog(levels[i], "p"));
    EXPECT_THAT(LinesOf(all), SizeIs(i + 1)) << levels[i];
  }
}

TEST(LogTest, AnUnknownLevelIsRefusedAndChangesNothing) {
  ASSERT_TRUE(InitLog("error", "before"));
  for (const char* level : {"", "INFO", "trace", "warning", "off"}) {
    EXPECT_FALSE(InitLog(level, "after")) << level;
  }
  EXPECT_EQ(Line([] {
              LogInfo("i");
              LogError("e");
            }).Text("process"),
            "before");
}

TEST(LogTest, LinesOfManyThreadsDoNotMix) {
  constexpr int kThreads = 4;
  constexpr int kLinesEach = 200;
  ASSERT_TRUE(InitLog("info", "p"));
  const std::string long_text(3'000, 'x');
  const std::vector<std::string> lines = LinesOf([&] {
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < kLinesEach; ++i) LogInfo(long_text, {{"i", i}});
      });
    }
  });
  EXPECT_THAT(lines, SizeIs(kThreads * kLinesEach));
  simdjson::dom::parser parser;
  for (const std::string& line : lines) {
    ASSERT_EQ(parser.parse(line).error(), simdjson::SUCCESS) << line;
  }
}

}  // namespace
}  // namespace allezon::rpc
