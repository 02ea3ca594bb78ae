// SPDX-License-Identifier: Apache-2.0
//
// The server over real sockets, on services that are not there.
#include "gateway/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gateway/connection.h"
#include "tests/unit/gateway/testing.h"

namespace allezon::gateway {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr int kPatienceMs = 20'000;

class Client {
 public:
  explicit Client(int port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~Client() { close(fd_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  bool connected() const { return connected_; }
  // False where the connection is broken.
  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  void EndSending() { shutdown(fd_, SHUT_WR); }

  // One response, by its Content-Length; empty where the server has closed.
  std::string Receive() {
    for (;;) {
      if (const size_t end = buffer_.find("\r\n\r\n"); end != std::string::npos) {
        size_t body = 0;
        if (const size_t at = buffer_.find("Content-Length: "); at < end) {
          body = std::stoul(buffer_.substr(at + 16));
        }
        if (buffer_.size() >= end + 4 + body) {
          const std::string response = buffer_.substr(0, end + 4 + body);
          buffer_.erase(0, response.size());
          return response;
        }
      }
      if (!ReceiveMore()) return "";
    }
  }
  // Whether the server closes, with nothing more to say.
  bool Closed() { return buffer_.empty() && !ReceiveMore() && !timed_out_; }
  // Whether it has said something, or closed, that was not received yet.
  bool HasNews() const {
    pollfd looked{fd_, POLLIN, 0};
    return poll(&looked, 1, 0) == 1;
  }

  std::string Call(std::string_view request) {
    Send(request);
    return Receive();
  }

 private:
  bool ReceiveMore() {
    pollfd waited{fd_, POLLIN, 0};
    timed_out_ = poll(&waited, 1, kPatienceMs) == 0;
    if (timed_out_) return false;
    char bytes[65536];
    const ssize_t received = recv(fd_, bytes, sizeof bytes, 0);
    if (received <= 0) return false;
    buffer_.append(bytes, static_cast<size_t>(received));
    return true;
  }

  const int fd_;
  bool connected_ = false;
  bool timed_out_ = false;
  std::string buffer_;
};

std::string PostTag(std::string_view body, std::string_view headers = "") {
  return absl::StrCat("POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Length: ", body.size(),
                      "\r\n", std::string(headers), "\r\n", std::string(body));
}

class HttpServerTest : public ::testing::Test {
 protected:
  void Start(HttpServerOptions options = {}) {
    options.listen = "127.0.0.1:0";
    auto server = HttpServer::Start(api_, options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  int port() const { return server_->port(); }
  // One request on a connection of its own.
  std::string Call(std::string_view request) { return Client(port()).Call(request); }

  FakeServices services_;
  Api api_{services_.backends(), {}};
  std::unique_ptr<HttpServer> server_;
};

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
  client.Send(PostTag(kTagJson) + "GET /healthz HTTP/1.1\r\n\r\n" +
              "GET /nothing HTTP/1.1\r\n\r\n");
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
           "?limit=3 HTTP/1.1\r\n\r\n"),
      HasSubstr(R"({"cookie":"a/b+c%2F","views":[],"buys":[]})"));
  EXPECT_EQ(services_.profile_reader.last.limit, 3u);
}

TEST_F(HttpServerTest, ChunkedBodies) {
  Start();
  const std::string head = "POST /user_tags HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
  const std::string tag = kTagJson;
  const std::string good = absl::StrFormat("%x;ext=1\r\n%s\r\n%X\r\n%s\r\n0\r\nTrailer: x\r\n\r\n",
                                           10, tag.substr(0, 10), tag.size() - 10, tag.substr(10));
  Client client(port());
  EXPECT_THAT(client.Call(head + good), StartsWith("HTTP/1.1 204 "));
  EXPECT_THAT(client.Call(head + good), StartsWith("HTTP/1.1 204 "));
  for (const char* bad : {"zz\r\n", "-1\r\n", "\r\n", "3\r\nabcd\r\n0\r\n\r\n", "0x3\r\nabc\r\n"}) {
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
  EXPECT_THAT(Call("POST /user_tags HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n"),
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

TEST_F(HttpServerTest, AClientThatExpectsToBeAskedIsAsked) {
  Start();
  Client client(port());
  client.Send(absl::StrCat("POST /user_tags HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: ",
                           std::string_view(kTagJson).size(), "\r\n\r\n"));
  EXPECT_EQ(client.Receive(), "HTTP/1.1 100 Continue\r\n\r\n");
  EXPECT_THAT(client.Call(kTagJson), StartsWith("HTTP/1.1 204 "));
  EXPECT_THAT(
      Call("POST /user_tags HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 70000\r\n\r\n"),
      StartsWith("HTTP/1.1 413 "));
}

TEST_F(HttpServerTest, HeadHasNoBodyAndRangeAndEncodingAreNotForUs) {
  Start();
  Client client(port());
  client.Send("HEAD /healthz HTTP/1.1\r\nConnection: close\r\n\r\n");
  client.EndSending();
  std::string all;
  Client get(port());
  const std::string body =
      get.Call("GET /healthz HTTP/1.1\r\nRange: bytes=0-1\r\nAccept-Encoding: gzip, br\r\n\r\n");
  EXPECT_THAT(body, StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(body, HasSubstr(R"({"status":"ok"})"));
  EXPECT_THAT(Call("GET /healthz HTTP/1.1\r\nRange: bytes=zz\r\n\r\n"),
              StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(Call(PostTag(kTagJson, "Content-Encoding: gzip\r\n")), StartsWith("HTTP/1.1 415 "));
  EXPECT_THAT(Call("BREW /user_tags HTTP/1.1\r\n\r\n"),
              AllOf(StartsWith("HTTP/1.1 405 "), HasSubstr("Allow: POST, OPTIONS")));
  EXPECT_THAT(Call("OPTIONS /aggregates HTTP/1.1\r\n\r\n"),
              AllOf(StartsWith("HTTP/1.1 204 "), HasSubstr("Allow: GET, HEAD, POST, OPTIONS")));
}

TEST_F(HttpServerTest, ABodyWhereNoneBelongsIsNotTheNextRequest) {
  Start();
  Client client(port());
  const std::string smuggled = "DELETE /user_tags HTTP/1.1\r\n\r\n";
  EXPECT_THAT(client.Call(absl::StrCat("GET /healthz HTTP/1.1\r\nContent-Length: ", smuggled.size(),
                                       "\r\n\r\n", smuggled)),
              StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(client.Call("GET /nothing HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 404 "));
}

TEST_F(HttpServerTest, WhatIsNoRequestIsAProblemAndTheEndOfTheConnection) {
  Start();
  const std::pair<std::string, const char*> kCases[] = {
      {std::string(1000, '\0') + "\r\n\r\n", "400"},
      {"GET\r\n\r\n", "400"},
      {"GET / HTTP/2.0\r\n\r\n", "400"},
      {"POST /user_tags HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "400"},
      {"POST /user_tags HTTP/1.1\r\nbad\r\n\r\n", "400"},
      {"GET /" + std::string(100'000, 'a') + " HTTP/1.1\r\n\r\n", "414"},
      {"GET /" + std::string(10'000, 'a') + " HTTP/1.1\r\n\r\n", "414"},
      {"GET / HTTP/1.1\r\nX: " + std::string(200'000, 'a') + "\r\n\r\n", "431"},
      {"GET / HTTP/1.1\r\n" +
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

TEST_F(HttpServerTest, IdleAndSlowClientsAreCutOff) {
  HttpServerOptions options;
  options.idle_timeout = milliseconds(100);
  options.head_timeout = milliseconds(200);
  options.body_timeout = milliseconds(300);
  Start(options);
  Client idle(port());
  EXPECT_TRUE(idle.Closed());
  Client slow_head(port());
  EXPECT_THAT(slow_head.Call("GET /healthz HT"), StartsWith("HTTP/1.1 408 "));
  Client slow_body(port());
  EXPECT_THAT(slow_body.Call("POST /user_tags HTTP/1.1\r\nContent-Length: 10\r\n\r\n{"),
              StartsWith("HTTP/1.1 408 "));
}

TEST_F(HttpServerTest, AClientThatDripsMeetsTheDeadlineOfTheWholeRequest) {
  HttpServerOptions options;
  options.head_timeout = milliseconds(300);
  Start(options);
  Client client(port());
  client.Send("GET /healthz HTTP/1.1\r\n");
  std::atomic<bool> done{false};
  std::thread dripping([&] {
    while (!done.load()) {
      client.Send("X: y\r\n");
      std::this_thread::sleep_for(milliseconds(50));
    }
  });
  EXPECT_THAT(client.Receive(), StartsWith("HTTP/1.1 408 "));
  done.store(true);
  dripping.join();
}

TEST_F(HttpServerTest, IdleClientsGiveWayToNewOnes) {
  HttpServerOptions options;
  options.connections_max = 8;
  options.idle_min = milliseconds(0);
  Start(options);
  std::vector<std::unique_ptr<Client>> idle;
  for (int i = 0; i < 50; ++i) idle.push_back(std::make_unique<Client>(port()));
  for (int i = 0; i < 20; ++i) {
    ASSERT_THAT(Call(PostTag(kTagJson, "Connection: close\r\n")), StartsWith("HTTP/1.1 204 "));
  }
  // Which ones are left is up to when their threads came to run.
  const auto still_open = [&] {
    return std::erase_if(idle, [](const auto& client) { return client->HasNews(); }), idle.size();
  };
  const auto deadline = std::chrono::steady_clock::now() + milliseconds(kPatienceMs);
  while (still_open() > 8 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_LE(idle.size(), 8);
}

TEST_F(HttpServerTest, ClientsThatWereJustAnsweredDoNotGiveWay) {
  HttpServerOptions options;
  options.connections_max = 1;
  options.idle_min = std::chrono::hours(1);
  Start(options);
  Client busy(port());
  ASSERT_THAT(busy.Call(PostTag(kTagJson)), StartsWith("HTTP/1.1 204 "));
  for (int i = 0; i < 10; ++i) {
    const std::string refused = Call(PostTag(kTagJson));
    EXPECT_THAT(refused, StartsWith("HTTP/1.1 503 "));
    EXPECT_THAT(refused, HasSubstr("Retry-After: 1"));
    EXPECT_THAT(busy.Call(PostTag(kTagJson)), StartsWith("HTTP/1.1 204 "));
  }
}

TEST_F(HttpServerTest, WhoIsRefusedMaySendTheRequestAndReadsWhy) {
  HttpServerOptions options;
  options.connections_max = 1;
  options.idle_min = std::chrono::hours(1);
  Start(options);
  Client busy(port());
  ASSERT_THAT(busy.Call(PostTag(kTagJson)), StartsWith("HTTP/1.1 204 "));
  Client refused(port());
  while (!refused.HasNews()) std::this_thread::sleep_for(milliseconds(1));
  // In pieces, as clients do that send the head first: a connection that was closed would break the
  // second one.
  const std::string request = PostTag(kTagJson);
  EXPECT_TRUE(refused.Send(std::string_view(request).substr(0, 20)));
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_TRUE(refused.Send(std::string_view(request).substr(20)));
  EXPECT_THAT(refused.Receive(), StartsWith("HTTP/1.1 503 "));
  EXPECT_TRUE(refused.Closed());
}

TEST_F(HttpServerTest, SlowSendersGiveWayToNewClients) {
  HttpServerOptions options;
  options.connections_max = 4;
  Start(options);
  std::vector<std::unique_ptr<Client>> slow;
  for (int i = 0; i < 4; ++i) {
    slow.push_back(std::make_unique<Client>(port()));
    slow.back()->Send("POST /user_tags HTTP/1.1\r\nContent-Length: 100\r\n\r\n{");
  }
  // At first they are only as slow as anyone may be, and a new client may be refused; never
  // silence.
  for (;;) {
    const std::string response = Call(PostTag(kTagJson));
    ASSERT_NE(response, "");
    if (response.starts_with("HTTP/1.1 204 ")) break;
    ASSERT_THAT(response, StartsWith("HTTP/1.1 503 "));
    std::this_thread::sleep_for(milliseconds(50));
  }
}

TEST_F(HttpServerTest, WhereEveryConnectionIsBeingServedANewOneIsRefusedAtOnce) {
  HttpServerOptions options;
  options.connections_max = 2;
  Start(options);
  services_.profile_writer.Hold();
  Client first(port()), second(port());
  first.Send(PostTag(kTagJson));
  second.Send(PostTag(kTagJson));
  ASSERT_TRUE(services_.profile_writer.WaitForEvents(2));
  Client third(port());
  const std::string response = third.Receive();
  EXPECT_THAT(response, StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(response, HasSubstr("Retry-After: 1"));
  services_.profile_writer.Release(absl::OkStatus());
  EXPECT_THAT(first.Receive(), StartsWith("HTTP/1.1 204 "));
  EXPECT_THAT(second.Receive(), StartsWith("HTTP/1.1 204 "));
}

TEST_F(HttpServerTest, HundredsOfClientsAtATime) {
  Start();
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 400; ++i) clients.push_back(std::make_unique<Client>(port()));
  for (int round = 0; round < 3; ++round) {
    for (auto& client : clients) client->Send(PostTag(kTagJson));
    for (auto& client : clients) ASSERT_THAT(client->Receive(), StartsWith("HTTP/1.1 204 "));
  }
}

TEST_F(HttpServerTest, StopEndsIdleConnectionsAtOnceAndLetsRequestsEnd) {
  Start();
  services_.profile_writer.Hold();
  Client idle(port()), used(port()), busy(port());
  ASSERT_THAT(used.Call("GET /healthz HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 200 "));
  busy.Send(PostTag(kTagJson));
  ASSERT_TRUE(services_.profile_writer.WaitForEvents(1));
  std::thread stopping([&] { server_->Stop(milliseconds(kPatienceMs)); });
  EXPECT_TRUE(idle.Closed());
  EXPECT_TRUE(used.Closed());
  services_.profile_writer.Release(absl::OkStatus());
  const std::string response = busy.Receive();
  EXPECT_THAT(response, StartsWith("HTTP/1.1 204 "));
  EXPECT_THAT(response, HasSubstr("Connection: close"));
  stopping.join();
  EXPECT_FALSE(Client(port()).connected());
}

TEST_F(HttpServerTest, StopIsBoundedWhereClientsNeverEnd) {
  Start();
  Client stuck(port());
  stuck.Send("POST /user_tags HTTP/1.1\r\nContent-Length: 100\r\n\r\n{");
  Client reader(port());  // makes sure that the first one was accepted
  ASSERT_THAT(reader.Call("GET /healthz HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 200 "));
  server_->Stop(milliseconds(100));
}

TEST_F(HttpServerTest, ATakenPortIsRefused) {
  Start();
  HttpServerOptions options;
  options.listen = absl::StrCat("127.0.0.1:", port());
  const auto second = HttpServer::Start(api_, options);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable) << second.status();
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(options.listen));
  options.listen = "nonsense";
  EXPECT_EQ(HttpServer::Start(api_, options).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace allezon::gateway
