// SPDX-License-Identifier: Apache-2.0
//
// Connections: time-outs, bounds, who gives way to whom, and the end.
#include <gmock/gmock.h>

#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gateway/http_server.h"
#include "tests/unit/gateway/http_server_testing.h"

namespace allezon::gateway {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class HttpConnectionsTest : public HttpServerTest {
 protected:
  // Who was just answered keeps the one connection.
  void StartWithRoomForOne() {
    HttpServerOptions options;
    options.connections_max = 1;
    options.idle_min = std::chrono::hours(1);
    Start(options);
  }
};

TEST_F(HttpConnectionsTest, IdleAndSlowClientsAreCutOff) {
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
  EXPECT_THAT(slow_body.Call("POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"),
              StartsWith("HTTP/1.1 408 "));
}

TEST_F(HttpConnectionsTest, AClientThatDripsMeetsTheDeadlineOfTheWholeRequest) {
  HttpServerOptions options;
  options.head_timeout = milliseconds(300);
  Start(options);
  Client client(port());
  client.Send("GET /healthz HTTP/1.1\r\nHost: x\r\n");
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

TEST_F(HttpConnectionsTest, IdleClientsGiveWayToNewOnes) {
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

TEST_F(HttpConnectionsTest, ClientsThatWereJustAnsweredDoNotGiveWay) {
  StartWithRoomForOne();
  Client busy(port());
  ASSERT_THAT(busy.Call(PostTag(kTagJson)), StartsWith("HTTP/1.1 204 "));
  for (int i = 0; i < 10; ++i) {
    const std::string refused = Call(PostTag(kTagJson));
    EXPECT_THAT(refused, StartsWith("HTTP/1.1 503 "));
    EXPECT_THAT(refused, HasSubstr("Retry-After: 1"));
    EXPECT_THAT(busy.Call(PostTag(kTagJson)), StartsWith("HTTP/1.1 204 "));
  }
}

TEST_F(HttpConnectionsTest, WhoIsRefusedMaySendTheRequestAndReadsWhy) {
  StartWithRoomForOne();
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

TEST_F(HttpConnectionsTest, SlowSendersGiveWayToNewClients) {
  HttpServerOptions options;
  options.connections_max = 4;
  Start(options);
  std::vector<std::unique_ptr<Client>> slow;
  for (int i = 0; i < 4; ++i) {
    slow.push_back(std::make_unique<Client>(port()));
    slow.back()->Send("POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{");
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

TEST_F(HttpConnectionsTest, WhereEveryConnectionIsBeingServedANewOneIsRefusedAtOnce) {
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

TEST_F(HttpConnectionsTest, HundredsOfClientsAtATime) {
  Start();
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 400; ++i) clients.push_back(std::make_unique<Client>(port()));
  for (int round = 0; round < 3; ++round) {
    for (auto& client : clients) client->Send(PostTag(kTagJson));
    for (auto& client : clients) ASSERT_THAT(client->Receive(), StartsWith("HTTP/1.1 204 "));
  }
}

TEST_F(HttpConnectionsTest, StopEndsIdleConnectionsAndLetsRequestsEnd) {
  Start();
  services_.profile_writer.Hold();
  Client idle(port()), used(port()), busy(port());
  ASSERT_THAT(used.Call("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"), StartsWith("HTTP/1.1 200 "));
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

TEST_F(HttpConnectionsTest, StopIsBoundedWhereClientsNeverEnd) {
  Start();
  Client stuck(port());
  stuck.Send("POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{");
  Client reader(port());  // makes sure that the first one was accepted
  ASSERT_THAT(reader.Call("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"), StartsWith("HTTP/1.1 200 "));
  server_->Stop(milliseconds(100));
}

// Its thread has it in hand while the server looks whether any is left.
TEST_F(HttpConnectionsTest, StopIsBoundedForAConnectionThatHasJustCome) {
  HttpServerOptions options;
  options.body_timeout = milliseconds(kPatienceMs);
  for (int i = 0; i < 200; ++i) {
    Start(options);
    Client stuck(port());
    const std::jthread sender(
        [&] { stuck.Send("POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"); });
    const auto start = std::chrono::steady_clock::now();
    server_->Stop(milliseconds(10));
    ASSERT_LT(std::chrono::steady_clock::now() - start, milliseconds(kPatienceMs / 2)) << i;
  }
}

TEST_F(HttpConnectionsTest, ATakenPortIsRefused) {
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
