// SPDX-License-Identifier: Apache-2.0
#include "gateway/connection.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <utility>

#include "gateway/tag_json.h"

namespace allezon::gateway {
namespace {

constexpr size_t kReceiveBytes = 16 << 10;
constexpr size_t kChunkLineBytesMax = 256;
constexpr size_t kTrailersMax = 32;
// Bodies up to this size are not counted: every connection may hold one.
constexpr size_t kUncountedBytes = 64 << 10;
constexpr size_t kBudgetStepBytes = 256 << 10;
// A client that is still sending when it is answered sees the answer only if its bytes go on being
// taken: so long at most, with so much time between two of them. One that is slow gives way to
// others before.
constexpr auto kLingerTime = std::chrono::seconds(30);
constexpr auto kLingerIdleTime = std::chrono::seconds(1);
constexpr size_t kLingerBytesMax = size_t{256} << 20;

int PollTimeoutMs(SteadyTime deadline) {
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  return static_cast<int>(std::clamp<int64_t>(left.count(), 0, 3'600'000));
}

}  // namespace

bool Body::Grow(size_t more) {
  const size_t needed = size_ + more;
  while (needed > kUncountedBytes + taken_) {
    if (!budget_.Take(kBudgetStepBytes)) return false;
    taken_ += kBudgetStepBytes;
  }
  // Doubles, so that a body costs what it sends and not what it announces.
  if (bytes_.size() < needed + kJsonPaddingBytes) {
    bytes_.resize(std::max(needed, std::min(2 * size_, needed + kBudgetStepBytes)) +
                  kJsonPaddingBytes);
  }
  return true;
}

void Body::GiveBack() {
  size_ = 0;
  std::string().swap(bytes_);
  budget_.Give(std::exchange(taken_, 0));
}

Connection::~Connection() { close(fd_); }

void Connection::Use(size_t bytes) {
  used_ += bytes;
  if (used_ == buffer_.size()) {
    buffer_.clear();
    used_ = 0;
  }
}

Io Connection::Await(short events, SteadyTime deadline) {
  for (;;) {
    pollfd waited{fd_, events, 0};
    const int ready = poll(&waited, 1, PollTimeoutMs(deadline));
    if (ready > 0) return Io::kOk;
    if (ready == 0) return Io::kTimeout;
    if (errno != EINTR) return Io::kClosed;
  }
}

Io Connection::Receive(char* to, size_t bytes_max, SteadyTime deadline, size_t& bytes) {
  for (;;) {
    // A client that always has another byte ready must meet the deadline too.
    if (std::chrono::steady_clock::now() >= deadline) return Io::kTimeout;
    const ssize_t received = recv(fd_, to, bytes_max, 0);
    if (received > 0) {
      bytes = static_cast<size_t>(received);
      return Io::kOk;
    }
    if (received == 0) return Io::kClosed;
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) return Io::kClosed;
    if (const Io io = Await(POLLIN, deadline); io != Io::kOk) return io;
  }
}

Io Connection::Fill(SteadyTime deadline) {
  if (used_ > 0) {
    buffer_.erase(0, used_);
    used_ = 0;
  }
  const size_t had = buffer_.size();
  buffer_.resize(had + kReceiveBytes);
  size_t bytes = 0;
  const Io io = Receive(buffer_.data() + had, kReceiveBytes, deadline, bytes);
  buffer_.resize(had + bytes);
  return io;
}

Io Connection::WaitForRequest(SteadyTime deadline) {
  if (!Buffered().empty()) return Io::kOk;
  if (const Io io = Await(POLLIN, deadline); io != Io::kOk) return io;
  return Fill(std::max(deadline, std::chrono::steady_clock::now() + std::chrono::seconds(1)));
}

Io Connection::ReadHead(SteadyTime deadline, std::string& head) {
  size_t skipped = 0;
  size_t searched = 0;
  for (;;) {
    while (Buffered().starts_with("\r\n") && skipped < kHeadBytesMax) {
      Use(2);
      skipped += 2;
      searched = 0;
    }
    const std::string_view text = Buffered();
    if (const size_t end = text.find("\r\n\r\n", searched > 3 ? searched - 3 : 0);
        end != std::string_view::npos && end + 4 <= kHeadBytesMax) {
      head.assign(text.substr(0, end + 4));
      Use(end + 4);
      return Io::kOk;
    } else if (text.size() >= kHeadBytesMax || skipped >= kHeadBytesMax) {
      head.assign(text);
      return Io::kTooLarge;
    }
    searched = text.size();
    if (const Io io = Fill(deadline); io != Io::kOk) {
      head.assign(Buffered());
      return io;
    }
  }
}

Io Connection::ReadBytes(size_t bytes, SteadyTime deadline, Body& body) {
  const std::string_view buffered = Buffered().substr(0, bytes);
  if (!body.Grow(buffered.size())) return Io::kNoMemory;
  buffered.copy(body.bytes_.data() + body.size_, buffered.size());
  body.size_ += buffered.size();
  bytes -= buffered.size();
  Use(buffered.size());
  while (bytes > 0) {
    const size_t step = std::min(bytes, kBudgetStepBytes / 4);
    if (!body.Grow(step)) return Io::kNoMemory;
    size_t received = 0;
    if (const Io io = Receive(body.bytes_.data() + body.size_, step, deadline, received);
        io != Io::kOk) {
      return io;
    }
    body.size_ += received;
    bytes -= received;
  }
  return Io::kOk;
}

Io Connection::ReadLine(size_t bytes_max, SteadyTime deadline, std::string& line) {
  for (;;) {
    const std::string_view text = Buffered();
    if (const size_t end = text.find("\r\n"); end != std::string_view::npos && end <= bytes_max) {
      line.assign(text.substr(0, end));
      Use(end + 2);
      return Io::kOk;
    } else if (text.size() > bytes_max + 1) {
      return Io::kMalformed;
    }
    if (const Io io = Fill(deadline); io != Io::kOk) return io;
  }
}

Io Connection::ReadChunks(size_t bytes_max, SteadyTime deadline, Body& body) {
  std::string line;
  for (;;) {
    if (const Io io = ReadLine(kChunkLineBytesMax, deadline, line); io != Io::kOk) return io;
    // A line that others end at a CR or LF alone would end their body elsewhere.
    if (line.find_first_of(std::string_view("\0\r\n", 3)) != std::string::npos)
      return Io::kMalformed;
    const std::string_view digits = std::string_view(line).substr(0, line.find_first_of("; \t"));
    size_t length = 0;
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), length, 16);
    if (error == std::errc::result_out_of_range) return Io::kTooLarge;
    if (error != std::errc() || end != digits.data() + digits.size()) return Io::kMalformed;
    if (length > bytes_max - body.size_) return Io::kTooLarge;
    if (length == 0) break;
    if (const Io io = ReadBytes(length, deadline, body); io != Io::kOk) return io;
    if (const Io io = ReadLine(0, deadline, line); io != Io::kOk) return io;
  }
  for (size_t trailers = 0; trailers <= kTrailersMax; ++trailers) {
    if (const Io io = ReadLine(kChunkLineBytesMax, deadline, line); io != Io::kOk) return io;
    if (line.empty()) return Io::kOk;
    if (!IsHeaderLine(line)) return Io::kMalformed;
  }
  return Io::kMalformed;
}

Io Connection::ReadBody(const Head& head, size_t bytes_max, SteadyTime deadline, Body& body) {
  const uint64_t length = head.content_length.value_or(0);
  if (length > bytes_max) return Io::kTooLarge;
  if (head.has_body() && head.expects_continue && !head.http_1_0 && Buffered().empty()) {
    if (const Io io = Write("HTTP/1.1 100 Continue\r\n\r\n", "", deadline); io != Io::kOk)
      return io;
  }
  const Io io = head.chunked ? ReadChunks(bytes_max, deadline, body)
                             : ReadBytes(static_cast<size_t>(length), deadline, body);
  if (io == Io::kOk && !body.Grow(0)) return Io::kNoMemory;  // the padding, also of no bytes
  return io;
}

Io Connection::Write(std::string_view head, std::string_view body, SteadyTime deadline) {
  while (!head.empty() || !body.empty()) {
    // The kernel only reads what it sends.
    iovec parts[] = {{const_cast<char*>(head.data()), head.size()},
                     {const_cast<char*>(body.data()), body.size()}};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = std::size(parts);
    const ssize_t sent = sendmsg(fd_, &message, MSG_NOSIGNAL);
    if (sent > 0) {
      const size_t of_head = std::min(head.size(), static_cast<size_t>(sent));
      head.remove_prefix(of_head);
      body.remove_prefix(static_cast<size_t>(sent) - of_head);
    } else if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      if (const Io io = Await(POLLOUT, deadline); io != Io::kOk) return io;
    } else if (sent < 0 && errno != EINTR) {
      return Io::kClosed;
    }
  }
  return Io::kOk;
}

void Connection::EndSending() { shutdown(fd_, SHUT_WR); }

bool Connection::DropArrived() {
  char dropped[kReceiveBytes];
  const ssize_t received = recv(fd_, dropped, sizeof dropped, MSG_DONTWAIT);
  return received > 0 ||
         (received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR));
}

void Connection::Linger() {
  EndSending();
  const SteadyTime end = std::chrono::steady_clock::now() + kLingerTime;
  std::string dropped(kReceiveBytes, '\0');
  size_t bytes = 0;
  for (size_t total = 0; total < kLingerBytesMax; total += bytes) {
    const SteadyTime deadline = std::min(end, std::chrono::steady_clock::now() + kLingerIdleTime);
    if (Receive(dropped.data(), dropped.size(), deadline, bytes) != Io::kOk) return;
  }
}

}  // namespace allezon::gateway
