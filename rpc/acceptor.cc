// SPDX-License-Identifier: Apache-2.0
#include "rpc/acceptor.h"

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
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "rpc/log.h"
#include "rpc/metrics.h"

namespace allezon::rpc {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// How long one that has begun to connect may take to do so, before the port is closed.
constexpr milliseconds kHandshakeTime{20};
// Without the filter there is no end of those who come.
constexpr int kTakenLastMax = SOMAXCONN;
constexpr milliseconds kPauseTime{10};
constexpr std::chrono::seconds kLogInterval{5};

}  // namespace

absl::StatusOr<std::unique_ptr<Acceptor>> Acceptor::Start(std::vector<Listener> listeners,
                                                          Options options) {
  const int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd < 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot accept connections: eventfd: ", std::strerror(errno)));
  }
  return absl::WrapUnique(new Acceptor(std::move(listeners), std::move(options), wake_fd));
}

Acceptor::Acceptor(std::vector<Listener> listeners, Options options, int wake_fd)
    : options_(std::move(options)),
      listeners_(std::move(listeners)),
      port_(listeners_.front().port()),
      wake_fd_(wake_fd),
      failures_(MakeCounter("allezon_accept_failures_total",
                            "Tries to accept a connection for which there was no descriptor or no "
                            "memory; it waits, and the next try is 10 ms later.",
                            {{"listener", options_.name}})),
      thread_([this] { Run(); }) {}

Acceptor::~Acceptor() { Stop(); }

void Acceptor::Stop() {
  if (!thread_.joinable()) return;
  stopping_.store(true);
  eventfd_write(wake_fd_, 1);
  thread_.join();
  listeners_.clear();
  close(wake_fd_);
}

bool Acceptor::TakeOne(const Listener& listener) {
  const int fd = accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd >= 0) {
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    RoomAgain();
    options_.take(fd);
    return true;
  }
  if (errno == EAGAIN || errno == EWOULDBLOCK) return false;
  if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
    NoRoom(errno);
    return false;
  }
  // Any other error is about the one connection that did not come to be.
  return true;
}

void Acceptor::NoRoom(int error) {
  ++failed_;
  failures_.Increment();
  const steady_clock::time_point now = steady_clock::now();
  if (!logged_ || now - *logged_ >= kLogInterval) {
    LogError("cannot accept a connection",
             {{"listener", options_.name}, {"error", std::strerror(error)}, {"tries", failed_}});
    logged_ = now;
    said_ = true;
  }
  options_.make_room();
  std::this_thread::sleep_for(kPauseTime);
}

void Acceptor::RoomAgain() {
  if (!said_) return;
  LogInfo("accepts connections again", {{"listener", options_.name}, {"tries", failed_}});
  failed_ = 0;
  said_ = false;
}

bool Acceptor::TakeSome() {
  bool taken = false;
  for (const Listener& listener : listeners_) taken = TakeOne(listener) || taken;
  return taken;
}

void Acceptor::AwaitNext(int timeout_ms, bool or_stop) {
  std::vector<pollfd> waited;
  for (const Listener& listener : listeners_) waited.push_back({listener.fd(), POLLIN, 0});
  if (or_stop) waited.push_back({wake_fd_, POLLIN, 0});
  poll(waited.data(), waited.size(), timeout_ms);
}

void Acceptor::Run() {
  while (!stopping_.load()) {
    if (!TakeSome()) AwaitNext(-1, true);
  }
  if (options_.takes_last) TakeLast();
}

// The kernel connects clients by itself, and resets those who were not accepted when the port is
// closed. So nobody else may begin; who has begun is through after a round trip.
void Acceptor::TakeLast() {
  steady_clock::time_point until = steady_clock::now();
  for (const Listener& listener : listeners_) {
    if (const absl::Status s = DropNewcomers(listener); s.ok()) {
      until = steady_clock::now() + kHandshakeTime;
    } else {
      LogWarn("clients that connect just now may be reset", {{"error", std::string(s.message())}});
    }
  }
  for (int taken = 0; taken < kTakenLastMax;) {
    if (TakeSome()) {
      ++taken;
      continue;
    }
    const auto left = std::chrono::ceil<milliseconds>(until - steady_clock::now());
    if (left <= milliseconds(0)) return;
    AwaitNext(static_cast<int>(left.count()), false);
  }
}

}  // namespace allezon::rpc
