// SPDX-License-Identifier: Apache-2.0
#include "gateway/http_head.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace allezon::gateway {
namespace {

using ::testing::ElementsAre;

TEST(HttpHeadTest, AHeadIsReadAsItCameOverTheWire) {
  Head head;
  ASSERT_FALSE(
      ParseHead("POST /a%2Fb?x=1?limit=2 HTTP/1.1\r\nHost: x\r\nidempotency-key:  a%20b+c \r\n"
                "Content-Type: application/json\r\nContent-Length: 12\r\n"
                "Expect: 100-Continue\r\nEmpty:\r\nContent-Encoding: Identity\r\n\r\n",
                head));
  EXPECT_EQ(head.method, "POST");
  EXPECT_EQ(head.target, "/a%2Fb?x=1?limit=2");
  EXPECT_THAT(head.idempotency_keys, ElementsAre("a%20b+c"));
  EXPECT_EQ(head.content_type, "application/json");
  EXPECT_EQ(head.content_length, 12u);
  EXPECT_TRUE(head.expects_continue);
  EXPECT_TRUE(head.keep_alive);
  EXPECT_EQ(head.content_encoding, "");
  EXPECT_TRUE(head.has_body());
}

TEST(HttpHeadTest, AnEmptyKeyIsAKey) {
  Head head;
  ASSERT_FALSE(ParseHead("GET / HTTP/1.1\r\nHost: x\r\nIdempotency-Key:\r\n\r\n", head));
  EXPECT_THAT(head.idempotency_keys, ElementsAre(""));
}

TEST(HttpHeadTest, KeepAlive) {
  const std::pair<const char*, bool> kCases[] = {
      {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", true},
      {"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", false},
      {"GET / HTTP/1.1\r\nHost: x\r\nConnection: x, CLOSE\r\n\r\n", false},
      {"GET / HTTP/1.0\r\n\r\n", false},
      {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true}};
  for (const auto& [text, keep_alive] : kCases) {
    Head head;
    ASSERT_FALSE(ParseHead(text, head)) << text;
    EXPECT_EQ(head.keep_alive, keep_alive) << text;
  }
}

TEST(HttpHeadTest, BrokenHeadsAreRefused) {
  const std::string long_target(kTargetBytesMax + 1, 'a');
  std::string many;
  for (size_t i = 0; i <= kHeadersMax; ++i) many += "X: y\r\n";
  const std::pair<std::string, int> kCases[] = {
      {"", 400},
      {"\r\n", 400},
      {"GET\r\n\r\n", 400},
      {"GET /\r\n\r\n", 400},
      {"GET  HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET /  HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET / x HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {" GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"G(T / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET / HTTP/9.9\r\n\r\n", 505},
      {"GET / HTTP/11\r\n\r\n", 400},
      {"GET / HTTP/1.x\r\n\r\n", 400},
      {"get / http/1.1\r\n\r\n", 400},
      {"PRI * HTTP/2.0\r\n\r\n", 505},
      {"GET /a\tb HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {std::string("GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n", 28), 400},
      {"GET /\nX: y HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET /" + long_target + " HTTP/1.1\r\nHost: x\r\n\r\n", 414},
      {"GET / HTTP/1.1\r\nHost: x\r\n" + many + "\r\n", 431},
      {"GET / HTTP/1.1\r\nHost: x\r\nNo-Colon\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\n: x\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\nA : x\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\nA: x\r\n folded\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\nA: x\ny: z\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1x\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: "
       "chunked\r\n\r\n",
       400},
      {"GET / HTTP/1.1\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400},
      {"GET / HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400},
      {"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
  };
  for (const auto& [text, status] : kCases) {
    Head head;
    const auto problem = ParseHead(text, head);
    ASSERT_TRUE(problem) << text.substr(0, 100);
    EXPECT_EQ(problem->status, status) << text.substr(0, 100);
  }
}

TEST(HttpHeadTest, HostsThatMayBe) {
  for (const char* line :
       {"HTTP/1.0\r\n", "HTTP/1.0\r\nHost: x\r\n", "HTTP/1.1\r\nHost:\r\n",
        "HTTP/1.1\r\nhost: [::1]:8080\r\n", "HTTP/1.7\r\nHost: a.b-c_d:80\r\n"}) {
    Head head;
    const auto problem = ParseHead(absl::StrCat("GET / ", line, "\r\n"), head);
    EXPECT_FALSE(problem) << line << problem->detail;
    EXPECT_EQ(head.http_1_0, absl::StrContains(line, "1.0")) << line;
  }
}

TEST(HttpHeadTest, ExpectationsThatNobodyKnowsAreNoted) {
  Head head;
  ASSERT_FALSE(ParseHead("GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue, magic\r\n\r\n", head));
  EXPECT_TRUE(head.expects_continue);
  EXPECT_TRUE(head.expects_other);
}

TEST(HttpHeadTest, ALengthBeyond64BitsIsTooLargeAndNotWrapped) {
  Head head;
  ASSERT_FALSE(ParseHead(
      "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", head));
  EXPECT_EQ(head.content_length, UINT64_MAX);
}

}  // namespace
}  // namespace allezon::gateway
