// SPDX-License-Identifier: Apache-2.0
//
// Requests and their answers.
#include "gateway/http_server.h"

#include <gmock/gmock.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gateway/connection.h"
#include "gateway/tag_json.h"
#include "tests/unit/gateway/http_server_testing.h"

namespace allezon::gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST_F(HttpServerTest, ManyRequestsOnOneConnection) {
  Start();
  Client client(port());
  for (int i = 0; i < 100; ++i) {
    const std::string response = client.Call(PostTag(kTagJson));
    ASSERT_THAT(response, StartsWith("HTTP/1.1 204 "));
    EXPECT_THAT(response, Not(HasSubstr("Content-Length")));
    EXPECT_THAT(response, Not(HasSubstr("Connection: close")));
  }
  EXPECT_EQ(services_.profile_writer.events().size(), 100u);
}

TEST_F(HttpServerTest, PipelinedRequestsAreAnsweredInOrder) {
  Start();
  Client client(port());
  client.Send(PostTag(kTagJson) + "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" +
              "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(client.Receive(), StartsWith("HTTP/1.1 204 "));
  EXPECT_THAT(client.Receive(), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(client.Receive(), StartsWith("HTTP/1.1 404 "));
}

TEST_F(HttpServerTest, WhatFollowsATagThatIsBeingStoredWaitsForItsAnswer) {
  services_.profile_writer.Hold();
  Start();
  Client client(port());
  client.Send(absl::StrCat(PostTag(kTagJson), "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"));
  ASSERT_TRUE(services_.profile_writer.WaitForEvents(1));
  services_.profile_writer.Release(absl::OkStatus());
  EXPECT_THAT(client.Receive(), StartsWith("HTTP/1.1 204 "));
  EXPECT_THAT(client.Receive(), StartsWith("HTTP/1.1 200 "));
}

TEST_F(HttpServerTest, AConnectionThatEndsWithATagIsClosedOnceItIsAnswered) {
  services_.profile_writer.Hold();
  Start();
  Client client(port());
  client.Send(PostTag(kTagJson, "Connection: close\r\n"));
  ASSERT_TRUE(services_.profile_writer.WaitForEvents(1));
  services_.profile_writer.Release(absl::OkStatus());
  EXPECT_THAT(client.Receive(), StartsWith("HTTP/1.1 204 "));
  EXPECT_TRUE(client.Closed());
}

TEST_F(HttpServerTest, AClientThatLeavesBeforeItsTagIsStoredHarmsNobody) {
  services_.profile_writer.Hold();
  HttpServerOptions options;
  options.connections_max = 1;
  Start(options);
  {
    Client client(port());
    client.Send(PostTag(kTagJson));
    ASSERT_TRUE(services_.profile_writer.WaitForEvents(1));
  }
  services_.profile_writer.Release(absl::OkStatus());
  // Until then its place is taken.
  std::string response;
  do {
    response = Client(port()).Call(PostTag(kTagJson));
  } while (response.starts_with("HTTP/1.1 503 "));
  EXPECT_THAT(response, StartsWith("HTTP/1.1 204 "));
}

TEST_F(HttpServerTest, ARequestInSinglesBytesIsUnderstood) {
  Start();
  Client client(port());
  for (const char c : PostTag(kTagJson)) client.Send(std::string_view(&c, 1));
  EXPECT_THAT(client.Receive(), StartsWith("HTTP/1.1 204 "));
}

TEST_F(HttpServerTest, ConnectionsEndWhereTheClientSaysSo) {
  Start();
  Client closing(port());
  EXPECT_THAT(closing.Call(PostTag(kTagJson, "Connection: close\r\n")),
              HasSubstr("Connection: close"));
  EXPECT_TRUE(closing.Closed());
  Client old(port());
  EXPECT_THAT(old.Call("GET /healthz HTTP/1.0\r\n\r\n"), HasSubstr("Connection: close"));
  EXPECT_TRUE(old.Closed());
  Client kept(port());
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(kept.Call("GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
                HasSubstr("Connection: keep-alive"));
  }
  Client half(port());
  half.Send(PostTag(kTagJson));
  half.EndSending();
  EXPECT_THAT(half.Receive(), StartsWith("HTTP/1.1 204 "));
  EXPECT_TRUE(half.Closed());
}

TEST_F(HttpServerTest, TheKeyIsTakenAsItCame) {
  Start();
  EXPECT_THAT(Call(PostTag(kTagJson, "Idempotency-Key: a%20b\r\n")), StartsWith("HTTP/1.1 204 "));
  EXPECT_EQ(services_.profile_writer.events()[0]->id, router::KeyedEventId("a%20b", "c1"));
  EXPECT_THAT(Call(PostTag(kTagJson, "Idempotency-Key:\r\n")), StartsWith("HTTP/1.1 400 "));
}

TEST_F(HttpServerTest, TheTargetIsTakenAsItCame) {
  Start();
  EXPECT_THAT(
      Call("GET /user_profiles/a%2Fb+c%252F?time_range=2022-03-01T00%3A00:00_2022-03-02T00:00:00"
           "?limit=3 HTTP/1.1\r\nHost: x\r\n\r\n"),
      HasSubstr(R"({"cookie":"a/b+c%2F","views":[],"buys":[]})"));
  EXPECT_EQ(services_.profile_reader.last().limit, 3u);
}

TEST_F(HttpServerTest, ChunkedBodies) {
  Start();
  const std::string head =
      "POST /user_tags HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  const std::string tag = kTagJson;
  const std::string good = absl::StrFormat("%x;ext=1\r\n%s\r\n%X\r\n%s\r\n0\r\nTrailer: x\r\n\r\n",
                                           10, tag.substr(0, 10), tag.size() - 10, tag.substr(10));
  Client client(port());
  EXPECT_THAT(client.Call(head + good), StartsWith("HTTP/1.1 204 "));
  EXPECT_THAT(client.Call(head + good), StartsWith("HTTP/1.1 204 "));
  for (const char* bad :
       {"zz\r\n", "-1\r\n", "\r\n", "3\r\nabcd\r\n0\r\n\r\n", "0x3\r\nabc\r\n", "5;\nxx\r\n",
        "5;\rxx\r\n", "5\n12345\r\n0\r\n\r\n", "0\r\nno trailer\r\n\r\n",
        "0\r\nA: b\nContent-Length: 5\r\n\r\n", "0\r\n folded: x\r\n\r\n"}) {
    EXPECT_THAT(Call(head + bad), StartsWith("HTTP/1.1 400 ")) << bad;
  }
  for (const char* large : {"ffffffffffffffff\r\n", "fffffffffffffffffffff\r\n", "10001\r\n"}) {
    EXPECT_THAT(Call(head + large), StartsWith("HTTP/1.1 413 ")) << large;
  }
}

TEST_F(HttpServerTest, BodiesAreBounded) {
  Start();
  const std::string tag = kTagJson;
  const std::string full = tag + std::string(kTagBytesMax - tag.size(), ' ');
  EXPECT_THAT(Call(PostTag(full)), StartsWith("HTTP/1.1 204 "));
  EXPECT_THAT(Call(PostTag(full, "Content-Type: application/x-www-form-urlencoded\r\n")),
              StartsWith("HTTP/1.1 204 "));
  const std::string over = Call(PostTag(full + " "));
  EXPECT_THAT(over, StartsWith("HTTP/1.1 413 "));
  EXPECT_THAT(over, HasSubstr("Content-Type: application/problem+json"));
  EXPECT_THAT(over, HasSubstr("Connection: close"));
  const std::string batch(kBatchBytesMax, '\n');
  EXPECT_THAT(Call(PostTag(batch, "Content-Type: application/x-ndjson\r\n")),
              HasSubstr(R"({"accepted":0,"rejected":[]})"));
  EXPECT_THAT(Call(PostTag(batch + "\n", "Content-Type: application/x-ndjson\r\n")),
              StartsWith("HTTP/1.1 413 "));
  // Nothing of such a length is waited for.
  EXPECT_THAT(
      Call("POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n"),
      StartsWith("HTTP/1.1 413 "));
}

TEST_F(HttpServerTest, LargeBodiesShareABudget) {
  HttpServerOptions options;
  options.body_bytes_total_max = 1 << 20;
  Start(options);
  const std::string headers = "Content-Type: application/x-ndjson\r\n";
  const std::string refused = Call(PostTag(std::string(4 << 20, '\n'), headers));
  EXPECT_THAT(refused, StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(refused, HasSubstr("Retry-After: 1"));
  for (int i = 0; i < 20; ++i) {  // what was taken is given back
    EXPECT_THAT(Call(PostTag(std::string(500'000, '\n'), headers)), StartsWith("HTTP/1.1 200 "));
  }
}

TEST_F(HttpServerTest, LargeAnswersShareABudget) {
  TagParser parser;
  v1::Tag tag;
  const Padded json(kTagJson);
  ASSERT_TRUE(parser.Parse(json.text(), tag).ok());
  const std::string stored = tag.SerializeAsString();
  const std::vector<std::string_view> views(800, stored);  // some 200 KB as JSON
  services_.profile_reader.answer = router::Profile{views, {}, nullptr};
  const std::string request =
      "GET /user_profiles/c?time_range=2022-03-01T00:00:00_2022-03-02T00:00:00"
      " HTTP/1.1\r\nHost: x\r\n\r\n";
  HttpServerOptions options;
  options.answer_bytes_total_max = 1 << 20;
  Start(options);
  for (int i = 0; i < 20; ++i) {  // what was taken is given back
    const std::string answer = Call(request);
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 "));
    EXPECT_GT(answer.size(), 64u << 10);
  }
  server_.reset();
  options.answer_bytes_total_max = 64 << 10;
  Start(options);
  const std::string refused = Call(request);
  EXPECT_THAT(refused, StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(refused, HasSubstr("Retry-After: 1"));
  EXPECT_THAT(Call("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"), StartsWith("HTTP/1.1 200 "));
}

TEST_F(HttpServerTest, AClientThatExpectsToBeAskedIsAsked) {
  Start();
  Client client(port());
  client.Send(absl::StrCat(
      "POST /user_tags HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: ",
      std::string_view(kTagJson).size(), "\r\n\r\n"));
  EXPECT_EQ(client.Receive(), "HTTP/1.1 100 Continue\r\n\r\n");
  EXPECT_THAT(client.Call(kTagJson), StartsWith("HTTP/1.1 204 "));
  EXPECT_THAT(Call("POST /user_tags HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: "
                   "70000\r\n\r\n"),
              StartsWith("HTTP/1.1 413 "));
}

// An answer that does not depend on the body is given before it is sent.
TEST_F(HttpServerTest, WhoExpectsToBeAskedIsToldAtOnceWhereItIsInVain) {
  Start();
  const std::pair<const char*, const char*> kCases[] = {
      {"PUT /user_tags HTTP/1.1\r\n", "405"},
      {"POST /nothing HTTP/1.1\r\n", "404"},
      {"POST /user_tags HTTP/1.1\r\nContent-Encoding: gzip\r\n", "415"},
      {"POST /user_tags HTTP/1.1\r\nExpect: magic\r\n", "417"},
  };
  for (const auto& [begin, status] : kCases) {
    EXPECT_THAT(
        Call(absl::StrCat(begin,
                          "Host: x\r\nExpect: 100-continue\r\n"
                          "Content-Length: 100\r\n\r\n")),
        AllOf(StartsWith(absl::StrCat("HTTP/1.1 ", status)), HasSubstr("Connection: close")))
        << begin;
  }
}

// The client of a body that is far too long sends it whole before it reads anything.
TEST_F(HttpServerTest, WhoSendsFarTooMuchSeesTheAnswer) {
  Start();
  const std::string long_body(32 << 20, ' ');
  EXPECT_THAT(Call(PostTag(long_body)), StartsWith("HTTP/1.1 413 "));
}

TEST_F(HttpServerTest, EveryAnswerTellsTheTime) {
  Start();
  for (const std::string& request :
       {PostTag(kTagJson), std::string("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"),
        std::string("GET /nothing HTTP/1.0\r\n\r\n"), std::string("no request\r\n\r\n")}) {
    const std::string answer = Call(request);
    const size_t at = answer.find("\r\nDate: ");
    ASSERT_NE(at, std::string::npos) << answer;
    absl::Time time;
    std::string error;
    ASSERT_TRUE(absl::ParseTime("%a, %d %b %Y %H:%M:%S GMT",
                                answer.substr(at + 8, answer.find("\r\n", at + 2) - at - 8), &time,
                                &error))
        << error << answer;
    EXPECT_LT(absl::AbsDuration(absl::Now() - time), absl::Seconds(30));
  }
}

TEST_F(HttpServerTest, HeadHasNoBodyAndRangeAndEncodingAreNotForUs) {
  Start();
  Client client(port());
  client.Send("HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  client.EndSending();
  std::string all;
  Client get(port());
  const std::string body = get.Call(
      "GET /healthz HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\nAccept-Encoding: gzip, br\r\n\r\n");
  EXPECT_THAT(body, StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(body, HasSubstr(R"({"status":"ok"})"));
  EXPECT_THAT(Call("GET /healthz HTTP/1.1\r\nHost: x\r\nRange: bytes=zz\r\n\r\n"),
              StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(Call(PostTag(kTagJson, "Content-Encoding: gzip\r\n")), StartsWith("HTTP/1.1 415 "));
  EXPECT_THAT(Call("BREW /user_tags HTTP/1.1\r\nHost: x\r\n\r\n"),
              AllOf(StartsWith("HTTP/1.1 405 "), HasSubstr("Allow: POST, OPTIONS")));
  EXPECT_THAT(Call("OPTIONS /aggregates HTTP/1.1\r\nHost: x\r\n\r\n"),
              AllOf(StartsWith("HTTP/1.1 204 "), HasSubstr("Allow: GET, HEAD, POST, OPTIONS")));
}

TEST_F(HttpServerTest, ABodyWhereNoneBelongsIsNotTheNextRequest) {
  Start();
  Client client(port());
  const std::string smuggled = "DELETE /user_tags HTTP/1.1\r\nHost: x\r\n\r\n";
  EXPECT_THAT(client.Call(absl::StrCat("GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: ",
                                       smuggled.size(), "\r\n\r\n", smuggled)),
              StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(client.Call("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"), StartsWith("HTTP/1.1 404 "));
}

TEST_F(HttpServerTest, WhatIsNoRequestIsAProblemAndTheEndOfTheConnection) {
  Start();
  const std::pair<std::string, const char*> kCases[] = {
      {std::string(1000, '\0') + "\r\n\r\n", "400"},
      {"GET\r\n\r\n", "400"},
      {"GET / HTTP/2.0\r\n\r\n", "505"},
      {"GET / HTTP/1.1\r\n\r\n", "400"},
      {"POST /user_tags HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
      {"POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "400"},
      {"POST /user_tags HTTP/1.1\r\nHost: x\r\nbad\r\n\r\n", "400"},
      {"GET /" + std::string(100'000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n", "414"},
      {"GET /" + std::string(10'000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n", "414"},
      {"GET / HTTP/1.1\r\nHost: x\r\nX: " + std::string(200'000, 'a') + "\r\n\r\n", "431"},
      {"GET / HTTP/1.1\r\nHost: x\r\n" +
           [] {
             std::string s;
             for (int i = 0; i < 20'000; ++i) s += "X: y\r\n";
             return s;
           }() +
           "\r\n",
       "431"},
  };
  for (const auto& [request, status] : kCases) {
    Client client(port());
    const std::string response = client.Call(request);
    EXPECT_THAT(response, StartsWith(absl::StrCat("HTTP/1.1 ", status))) << request.substr(0, 60);
    EXPECT_THAT(response, HasSubstr("application/problem+json"));
    client.EndSending();
    EXPECT_TRUE(client.Closed()) << request.substr(0, 60);
  }
  EXPECT_THAT(Call(PostTag(kTagJson)), StartsWith("HTTP/1.1 204 "));
}

TEST_F(HttpServerTest, ABodyThatEndsEarlyStoresNothing) {
  Start();
  Client client(port());
  client.Send(PostTag(kTagJson).substr(0, 150));
  client.EndSending();
  EXPECT_THAT(client.Receive(), StartsWith("HTTP/1.1 400 "));
  EXPECT_TRUE(services_.profile_writer.events().empty());
}

}  // namespace
}  // namespace allezon::gateway
