// SPDX-License-Identifier: Apache-2.0
#include "bench/load/http_response.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace allezon::load {
namespace {

using Progress = ResponseReader::Progress;

// Feeds the text in pieces of `bytes`.
Progress FeedCut(std::string_view text, size_t bytes, ResponseReader* reader) {
  Progress progress = Progress::kMore;
  while (!text.empty() && progress == Progress::kMore) {
    progress = reader->Feed(text.substr(0, bytes));
    text.remove_prefix(std::min(bytes, text.size()));
  }
  return progress;
}

struct Good {
  std::string_view text;
  int status;
  std::string_view body;
  bool close;
};

TEST(ResponseReader, ReadsAnswersHoweverTheyAreCut) {
  const std::vector<Good> answers = {
      {"HTTP/1.1 204 No Content\r\n\r\n", 204, "", false},
      {"HTTP/1.1 204\r\nContent-Length: 5\r\n\r\n", 204, "", false},
      {"HTTP/1.1 200 OK\r\ncontent-LENGTH:  5 \r\nX: y\r\n\r\nhello", 200, "hello", false},
      {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n", 200, "", true},
      {"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, "x", true},
      {"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\nx", 200, "x", false},
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
       "5\r\nhello\r\nA;x=y\r\n, universe\r\n0\r\nTrailer: t\r\n\r\n",
       200, "hello, universe", false},
      {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno", 503, "no",
       false},
      {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\r\n\r\n", 200, "\r\n\r\n", false},
  };
  for (const Good& good : answers) {
    for (const size_t bytes : {size_t{1}, size_t{2}, size_t{3}, size_t{7}, good.text.size()}) {
      ResponseReader reader;
      ASSERT_EQ(FeedCut(good.text, bytes, &reader), Progress::kDone) << good.text << bytes;
      EXPECT_EQ(reader.response().status, good.status) << good.text;
      EXPECT_EQ(reader.response().body, good.body) << good.text;
      EXPECT_EQ(reader.response().close, good.close) << good.text;
      EXPECT_EQ(reader.extra_bytes(), 0) << good.text;
    }
  }
}

TEST(ResponseReader, ABodyWithoutALengthEndsWithTheConnection) {
  ResponseReader reader;
  EXPECT_EQ(reader.Feed("HTTP/1.1 200 OK\r\n\r\nhel"), Progress::kMore);
  EXPECT_EQ(reader.Feed("lo"), Progress::kMore);
  EXPECT_EQ(reader.FeedEnd(), Progress::kDone);
  EXPECT_EQ(reader.response().body, "hello");
  EXPECT_TRUE(reader.response().close);
}

TEST(ResponseReader, AnEndTooEarlyIsBroken) {
  for (const std::string_view text :
       {"", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"}) {
    ResponseReader reader;
    EXPECT_EQ(reader.Feed(text), Progress::kMore) << text;
    EXPECT_EQ(reader.FeedEnd(), Progress::kBroken) << text;
    EXPECT_FALSE(reader.error().empty());
  }
}

TEST(ResponseReader, RefusesWhatIsNotHttp) {
  for (const std::string_view text :
       {"SSH-2.0-OpenSSH\r\n\r\n", "HTTP/2 200\r\n\r\n", "HTTP/1.1 20x OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFF\r\n"}) {
    ResponseReader reader;
    EXPECT_EQ(FeedCut(text, 5, &reader), Progress::kBroken) << text;
  }
}

TEST(ResponseReader, AHeadWithoutAnEndIsRefused) {
  ResponseReader reader;
  const std::string piece(10'000, 'a');
  Progress progress = reader.Feed("HTTP/1.1 200 OK\r\nX: ");
  for (int i = 0; i < 10 && progress == Progress::kMore; ++i) progress = reader.Feed(piece);
  EXPECT_EQ(progress, Progress::kBroken);
}

TEST(ResponseReader, CountsWhatFollowsAnAnswer) {
  ResponseReader reader;
  EXPECT_EQ(reader.Feed("HTTP/1.1 204 No Content\r\n\r\nbody"), Progress::kDone);
  EXPECT_EQ(reader.extra_bytes(), 4);
  reader.Reset();
  EXPECT_EQ(reader.Feed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP"), Progress::kDone);
  EXPECT_EQ(reader.extra_bytes(), 4);
}

TEST(ResponseReader, ReadsHowLongAnIdleConnectionIsKept) {
  ResponseReader reader;
  reader.Feed("HTTP/1.1 204 No Content\r\nKeep-Alive: timeout=5, max=100\r\n\r\n");
  EXPECT_EQ(reader.response().keep_alive_s, 5);
  reader.Reset();
  EXPECT_EQ(reader.response().keep_alive_s, -1);
}

}  // namespace
}  // namespace allezon::load
