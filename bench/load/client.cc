// SPDX-License-Identifier: Apache-2.0
#include "bench/load/client.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/status/status.h"

namespace allezon::load {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;
constexpr int64_t kConnectNs = 1000 * kNsPerMs;
constexpr int64_t kAvoidNs = 250 * kNsPerMs;
// A connection that was idle for longer is looked at before it is used: the server may have closed
// it, and that must not cost a request.
constexpr int64_t kLookAgainNs = 20 * kNsPerMs;
constexpr int64_t kKeepAliveMarginNs = 100 * kNsPerMs;
constexpr size_t kBufferBytes = 256 << 10;
constexpr int kEventsMax = 256;

std::string ErrnoText(int error) { return std::strerror(error); }

absl::StatusOr<Target> Resolve(const std::string& name) {
  const size_t colon = name.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == name.size()) {
    return absl::InvalidArgumentError("'" + name + "' is not host:port");
  }
  std::string host = name.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), name.c_str() + colon + 1, &hints, &found);
  if (error != 0) return absl::InvalidArgumentError("'" + name + "': " + gai_strerror(error));
  Target target;
  target.name = name;
  std::memcpy(&target.address, found->ai_addr, found->ai_addrlen);
  target.address_bytes = found->ai_addrlen;
  freeaddrinfo(found);
  return target;
}

}  // namespace

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

absl::StatusOr<std::vector<Target>> ParseTargets(std::string_view list) {
  std::vector<Target> targets;
  while (true) {
    const size_t comma = std::min(list.find(','), list.size());
    absl::StatusOr<Target> target = Resolve(std::string(list.substr(0, comma)));
    if (!target.ok()) return target.status();
    targets.push_back(*std::move(target));
    if (comma == list.size()) return targets;
    list.remove_prefix(comma + 1);
  }
}

Client::Client(std::vector<Target> targets, int connections, ResponseHandler* handler)
    : handler_(handler), epoll_fd_(epoll_create1(EPOLL_CLOEXEC)), buffer_(kBufferBytes) {
  for (Target& target : targets) targets_.push_back({std::move(target), {}, {}, 0});
  connections_.resize(std::max<size_t>(static_cast<size_t>(connections), targets_.size()));
  for (size_t i = 0; i < connections_.size(); ++i) {
    connections_[i].index_ = static_cast<uint32_t>(i);
    connections_[i].target_ = static_cast<uint32_t>(i % targets_.size());
    TargetState& target = targets_[connections_[i].target_];
    connections_[i].host_ = target.target.name;
    target.closed.push_back(static_cast<uint32_t>(i));
  }
}

Client::~Client() {
  for (Connection& connection : connections_) {
    if (connection.fd_ >= 0) close(connection.fd_);
  }
  close(epoll_fd_);
}

void Client::OpenAll(int64_t now_ns) {
  for (TargetState& target : targets_) {
    while (Open(&target, now_ns)) {
    }
  }
}

Client::Connection* Client::Acquire(int64_t now_ns) {
  for (size_t i = 0; i < targets_.size(); ++i) {
    TargetState& target = targets_[(next_target_ + i) % targets_.size()];
    if (Connection* connection = TakeIdle(&target, now_ns); connection != nullptr) {
      next_target_ = (next_target_ + i + 1) % targets_.size();
      connection->out_.clear();
      return connection;
    }
  }
  // One at a time for each target is enough: the next call opens the next.
  for (TargetState& target : targets_) Open(&target, now_ns);
  return nullptr;
}

Client::Connection* Client::TakeIdle(TargetState* target, int64_t now_ns) {
  while (!target->idle.empty()) {
    Connection* connection = &connections_[target->idle.front()];
    const int64_t idle_ns = now_ns - connection->idle_since_ns_;
    bool stale = connection->keep_alive_ns_ > 0 && idle_ns > connection->keep_alive_ns_;
    if (!stale && idle_ns > kLookAgainNs) {
      char byte;
      stale = recv(connection->fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN;
    }
    if (!stale) {
      target->idle.pop_front();
      return connection;
    }
    ++closed_idle_;
    Close(connection);
  }
  return nullptr;
}

bool Client::Open(TargetState* target, int64_t now_ns) {
  if (target->closed.empty() || now_ns < target->avoid_until_ns) return false;
  Connection* connection = &connections_[target->closed.front()];
  const int family = target->target.address.ss_family;
  const int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) {  // out of descriptors: what is open must do
    last_refusal_ = ErrnoText(errno);
    target->avoid_until_ns = now_ns + kAvoidNs;
    return false;
  }
  target->closed.pop_front();
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  connection->fd_ = fd;
  connection->state_ = Connection::State::kConnecting;
  connection->deadline_ns_ = now_ns + kConnectNs;
  connection->watches_write_ = true;
  connection->keep_alive_ns_ = 0;
  connection->reader_.Reset();
  ++connecting_;
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT;
  event.data.u32 = connection->index_;
  epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event);
  const auto* address = reinterpret_cast<const sockaddr*>(&target->target.address);
  if (connect(fd, address, target->target.address_bytes) != 0 && errno != EINPROGRESS) {
    OnRefused(connection, errno, now_ns);
    return false;
  }
  return true;
}

void Client::OnConnected(Connection* connection, int64_t now_ns) {
  --connecting_;
  ++connected_;
  ++opened_;
  connection->state_ = Connection::State::kIdle;
  connection->idle_since_ns_ = now_ns;
  Watch(connection, false);
  targets_[connection->target_].idle.push_back(connection->index_);
}

void Client::OnRefused(Connection* connection, int error, int64_t now_ns) {
  TargetState& target = targets_[connection->target_];
  ++refused_;
  last_refusal_ = target.target.name + ": " + ErrnoText(error);
  target.avoid_until_ns = now_ns + kAvoidNs;
  Close(connection);
}

void Client::Close(Connection* connection) {
  TargetState& target = targets_[connection->target_];
  switch (connection->state_) {
    case Connection::State::kClosed:
      return;
    case Connection::State::kConnecting:
      --connecting_;
      break;
    case Connection::State::kIdle:
      --connected_;
      target.idle.erase(std::find(target.idle.begin(), target.idle.end(), connection->index_));
      break;
    case Connection::State::kBusy:
      --connected_;
      --busy_;
      break;
  }
  close(connection->fd_);  // leaves the epoll set by itself
  connection->fd_ = -1;
  connection->state_ = Connection::State::kClosed;
  target.closed.push_back(connection->index_);
}

void Client::Launch(Connection* connection, uint32_t token, int64_t now_ns, int64_t deadline_ns) {
  connection->state_ = Connection::State::kBusy;
  ++busy_;
  connection->token_ = token;
  connection->deadline_ns_ = deadline_ns;
  connection->written_ = 0;
  connection->reader_.Reset();
  Write(connection, now_ns);
}

void Client::Write(Connection* connection, int64_t now_ns) {
  const std::string& out = connection->out_;
  while (connection->written_ < out.size()) {
    const ssize_t sent = send(connection->fd_, out.data() + connection->written_,
                              out.size() - connection->written_, MSG_NOSIGNAL);
    if (sent > 0) {
      connection->written_ += static_cast<size_t>(sent);
    } else if (errno == EAGAIN) {
      Watch(connection, true);
      return;
    } else if (errno == EPIPE || errno == ECONNRESET) {
      // The answer may be there already: a server may refuse a body without reading it.
      connection->written_ = out.size();
    } else if (errno != EINTR) {
      Fail(connection, Failure::kClosed, "send: " + ErrnoText(errno), now_ns);
      return;
    }
  }
  Watch(connection, false);
}

void Client::Watch(Connection* connection, bool write) {
  if (connection->watches_write_ == write) return;
  connection->watches_write_ = write;
  epoll_event event{};
  event.events = EPOLLIN | (write ? EPOLLOUT : 0u);
  event.data.u32 = connection->index_;
  epoll_ctl(epoll_fd_, EPOLL_CTL_MOD, connection->fd_, &event);
}

void Client::Poll(int64_t wait_ns) {
  epoll_event events[kEventsMax];
  wait_ns = std::max<int64_t>(wait_ns, 0);
  const timespec wait{wait_ns / 1'000'000'000, wait_ns % 1'000'000'000};
  int count = epoll_pwait2(epoll_fd_, events, kEventsMax, &wait, nullptr);
  if (count < 0 && errno == ENOSYS) {  // a kernel before 5.11: to the millisecond
    count = epoll_wait(epoll_fd_, events, kEventsMax,
                       static_cast<int>((wait_ns + kNsPerMs - 1) / kNsPerMs));
  }
  int64_t now_ns = NowNs();
  for (int i = 0; i < count; ++i) {
    Connection* connection = &connections_[events[i].data.u32];
    // Closed by an event before it: a number of its own is left out on purpose, as nothing opens a
    // connection within this loop.
    if (connection->state_ == Connection::State::kClosed) continue;
    if (connection->state_ == Connection::State::kConnecting) {
      int error = 0;
      socklen_t bytes = sizeof(error);
      getsockopt(connection->fd_, SOL_SOCKET, SO_ERROR, &error, &bytes);
      if (error != 0) {
        OnRefused(connection, error, now_ns);
      } else if (events[i].events & EPOLLOUT) {
        OnConnected(connection, now_ns);
      }
      continue;
    }
    if (events[i].events & EPOLLOUT) Write(connection, now_ns);
    if (connection->state_ != Connection::State::kClosed &&
        events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
      // Measured anew, as what came before it in this loop may have taken a while.
      now_ns = NowNs();
      OnReadable(connection, now_ns);
    }
  }
}

void Client::OnReadable(Connection* connection, int64_t now_ns) {
  while (true) {
    const ssize_t got = recv(connection->fd_, buffer_.data(), buffer_.size(), 0);
    if (got > 0) {
      OnBytes(connection, {buffer_.data(), static_cast<size_t>(got)}, now_ns);
      // What is left wakes the next Poll; one that is closed now has nothing.
      if (static_cast<size_t>(got) < buffer_.size() ||
          connection->state_ != Connection::State::kBusy) {
        return;
      }
    } else if (got == 0) {
      OnEnd(connection, 0, now_ns);
      return;
    } else if (errno == EAGAIN) {
      return;
    } else if (errno != EINTR) {
      OnEnd(connection, errno, now_ns);
      return;
    }
  }
}

void Client::OnEnd(Connection* connection, int error, int64_t now_ns) {
  if (connection->state_ == Connection::State::kIdle) {
    ++closed_idle_;
    Close(connection);
  } else if (error != 0) {
    Fail(connection, Failure::kClosed, "recv: " + ErrnoText(error), now_ns);
  } else if (connection->reader_.FeedEnd() == ResponseReader::Progress::kDone) {
    handler_->OnResponse(connection->token_, connection->reader_.response(), now_ns);
    Close(connection);
  } else {
    Fail(connection, Failure::kClosed, connection->reader_.error(), now_ns);
  }
}

void Client::OnBytes(Connection* connection, std::string_view bytes, int64_t now_ns) {
  if (connection->state_ == Connection::State::kIdle) {
    // A 408 before the close of an idle connection is usual; nothing was asked, nothing is lost.
    ++closed_idle_;
    Close(connection);
    return;
  }
  ResponseReader& reader = connection->reader_;
  switch (reader.Feed(bytes)) {
    case ResponseReader::Progress::kMore:
      return;
    case ResponseReader::Progress::kBroken:
      Fail(connection, Failure::kMalformed, reader.error(), now_ns);
      return;
    case ResponseReader::Progress::kDone:
      if (reader.extra_bytes() > 0) {
        Fail(connection, Failure::kMalformed, "bytes after the end of the answer", now_ns);
        return;
      }
      handler_->OnResponse(connection->token_, reader.response(), now_ns);
      // An answer before the whole request was read leaves the connection in no usable state.
      if (reader.response().close || connection->written_ < connection->out_.size()) {
        ++closed_idle_;
        Close(connection);
      } else {
        connection->idle_since_ns_ = now_ns;
        Finish(connection);
      }
  }
}

void Client::Finish(Connection* connection) {
  const int64_t keep_alive_s = connection->reader_.response().keep_alive_s;
  if (keep_alive_s >= 0) {
    connection->keep_alive_ns_ =
        std::max<int64_t>(keep_alive_s * 1000 * kNsPerMs - kKeepAliveMarginNs, 1);
  }
  --busy_;
  connection->state_ = Connection::State::kIdle;
  targets_[connection->target_].idle.push_back(connection->index_);
}

void Client::Fail(Connection* connection, Failure failure, std::string_view detail,
                  int64_t now_ns) {
  const uint32_t token = connection->token_;
  const std::string kept(detail);  // it may be the reader's own
  Close(connection);
  handler_->OnFailure(token, failure, kept, now_ns);
}

void Client::ExpireDeadlines(int64_t now_ns) {
  for (Connection& connection : connections_) {
    if (connection.deadline_ns_ > now_ns) continue;
    if (connection.state_ == Connection::State::kBusy) {
      Fail(&connection, Failure::kTimeout, "", now_ns);
    } else if (connection.state_ == Connection::State::kConnecting) {
      OnRefused(&connection, ETIMEDOUT, now_ns);
    }
  }
}

}  // namespace allezon::load
