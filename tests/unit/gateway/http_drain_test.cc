// SPDX-License-Identifier: Apache-2.0
//
// A server that goes: which clients notice.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <netinet/in.h>

#include <atomic>
#include <cerrno>
#include <thread>
#include <vector>

#include "gateway/http_server.h"
#include "tests/unit/gateway/http_server_testing.h"

namespace allezon::gateway {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr std::string_view kGetHealth = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

class HttpDrainTest : public HttpServerTest {};

TEST_F(HttpDrainTest, WhileDrainingEachAnswerEndsItsConnectionAndIdleOnesAreKept) {
  Start();
  Client used(port()), kept(port());
  ASSERT_THAT(used.Call(kGetHealth), Not(HasSubstr("Connection: close")));
  ASSERT_THAT(kept.Call(PostTag(kTagJson)), Not(HasSubstr("Connection: close")));
  server_->Drain();
  for (const std::string& request : {std::string(kGetHealth), PostTag(kTagJson)}) {
    Client fresh(port());
    const std::string answer = fresh.Call(request);
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 20"));
    EXPECT_THAT(answer, HasSubstr("Connection: close"));
    EXPECT_TRUE(fresh.Closed());
  }
  EXPECT_THAT(used.Call(kGetHealth), HasSubstr("Connection: close"));
  EXPECT_TRUE(used.Closed());
  // Its client may keep it until the server stops.
  EXPECT_FALSE(kept.HasNews());
  EXPECT_THAT(kept.Call(PostTag(kTagJson)), StartsWith("HTTP/1.1 204 "));
}

// What became of one client that connects and sends a tag at once.
enum class Fate { kNotConnected, kAnswered, kReset };

Fate SendOneTag(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address);
  // Less than the second after which the kernel asks again who was not heard.
  constexpr int kConnectMs = 200;
  pollfd waited{fd, POLLOUT, 0};
  int error = 0;
  socklen_t length = sizeof error;
  Fate fate = Fate::kNotConnected;
  if (poll(&waited, 1, kConnectMs) == 1 &&
      getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0) {
    fate = Fate::kReset;
    const std::string request = PostTag(kTagJson);
    char answer[512];
    waited.events = POLLIN;
    if (send(fd, request.data(), request.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(request.size()) &&
        poll(&waited, 1, kPatienceMs) == 1 && recv(fd, answer, sizeof answer, 0) > 0) {
      fate = Fate::kAnswered;
    }
  }
  close(fd);
  return fate;
}

// The port is closed, or newcomers are dropped.
void AwaitStopping(int port) {
  while (SendOneTag(port) == Fate::kAnswered) {
  }
}

TEST_F(HttpDrainTest, ARequestThatIsOnTheWireWhenTheServerStopsIsAnswered) {
  HttpServerOptions options;
  options.idle_at_stop = milliseconds(kPatienceMs);
  Start(options);
  Client fresh(port()), used(port());
  ASSERT_THAT(used.Call(kGetHealth), StartsWith("HTTP/1.1 200 "));
  std::jthread stopping([&] { server_->Stop(milliseconds(kPatienceMs)); });
  AwaitStopping(port());
  for (Client* client : {&fresh, &used}) {
    const std::string answer = client->Call(PostTag(kTagJson));
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 204 "));
    EXPECT_THAT(answer, HasSubstr("Connection: close"));
    EXPECT_TRUE(client->Closed());
  }
}

TEST_F(HttpDrainTest, WhoeverIsConnectedIsAnsweredWhileTheServerStops) {
  constexpr int kRounds = 30;
  constexpr int kClients = 4;
  constexpr int kAnsweredFirst = 50;
  int reset = 0;
  for (int round = 0; round < kRounds; ++round) {
    Start();
    std::atomic<bool> stopped{false};
    std::atomic<int> answered{0};
    std::atomic<int> lost{0};
    {
      std::vector<std::jthread> clients;
      for (int i = 0; i < kClients; ++i) {
        clients.emplace_back([&] {
          while (!stopped.load()) {
            const Fate fate = SendOneTag(port());
            if (fate == Fate::kAnswered) ++answered;
            if (fate == Fate::kReset) ++lost;
          }
        });
      }
      while (answered.load() < kAnsweredFirst) std::this_thread::sleep_for(milliseconds(1));
      server_->Stop(milliseconds(kPatienceMs));
      stopped.store(true);
    }
    reset += lost.load();
  }
  EXPECT_EQ(reset, 0) << "in " << kRounds << " rounds";
}

}  // namespace
}  // namespace allezon::gateway
