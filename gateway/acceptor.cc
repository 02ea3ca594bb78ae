// SPDX-License-Identifier: Apache-2.0
#include "gateway/acceptor.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "rpc/log.h"

namespace allezon::gateway {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// How long one that has begun to connect may take to do so, before the port is closed.
constexpr milliseconds kHandshakeTime{20};
constexpr milliseconds kPauseTime{10};
constexpr int64_t kLogIntervalSeconds = 1;

}  // namespace

Acceptor::Acceptor(Listener listener, std::function<void(int fd)> take,
                   std::function<void()> make_room)
    : listener_(listener),
      take_(std::move(take)),
      make_room_(std::move(make_room)),
      wake_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      thread_([this] { Run(); }) {}

Acceptor::~Acceptor() { Stop(); }

void Acceptor::Stop() {
  if (!thread_.joinable()) return;
  stopping_.store(true);
  eventfd_write(wake_fd_, 1);
  thread_.join();
  close(listener_.fd);
  close(wake_fd_);
}

bool Acceptor::TakeOne() {
  const int fd = accept4(listener_.fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd >= 0) {
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    take_(fd);
    return true;
  }
  if (errno == EAGAIN || errno == EWOULDBLOCK) return false;
  if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
    const int64_t now_s = absl::ToUnixSeconds(absl::Now());
    if (now_s - std::exchange(logged_s_, std::max(logged_s_, now_s)) >= kLogIntervalSeconds) {
      rpc::LogError("cannot accept a connection", {{"error", std::strerror(errno)}});
    }
    make_room_();
    std::this_thread::sleep_for(kPauseTime);
    return false;
  }
  // Any other error is about the one connection that did not come to be.
  return true;
}

void Acceptor::Run() {
  while (!stopping_.load()) {
    if (TakeOne()) continue;
    pollfd waited[] = {{listener_.fd, POLLIN, 0}, {wake_fd_, POLLIN, 0}};
    poll(waited, 2, -1);
  }
  // The kernel connects clients by itself, and resets those who were not accepted when the port is
  // closed. So nobody else may begin; who has begun is through after a round trip.
  steady_clock::time_point until = steady_clock::now();
  if (const absl::Status s = DropNewcomers(listener_); s.ok()) {
    until += kHandshakeTime;
  } else {
    rpc::LogWarn("clients that connect just now may be reset",
                 {{"error", std::string(s.message())}});
  }
  // Without the filter there is no end of those who come.
  for (int taken = 0; taken < kBacklog;) {
    if (TakeOne()) {
      ++taken;
      continue;
    }
    const auto left = std::chrono::ceil<milliseconds>(until - steady_clock::now());
    if (left <= milliseconds(0)) return;
    pollfd waited{listener_.fd, POLLIN, 0};
    poll(&waited, 1, static_cast<int>(left.count()));
  }
}

}  // namespace allezon::gateway
