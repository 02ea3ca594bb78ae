// SPDX-License-Identifier: Apache-2.0
//
// Plain sockets for the tests of servers.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

namespace allezon::rpc {

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

inline sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

inline FileDescriptor ConnectTo(int port) {
  FileDescriptor fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = Loopback(port);
  const bool connected =
      connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  return connected ? std::move(fd) : FileDescriptor(-1);
}

inline sockaddr_in6 LoopbackIpv6(int port) {
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_addr = in6addr_loopback;
  address.sin6_port = htons(static_cast<uint16_t>(port));
  return address;
}

inline bool HasIpv6() {
  const FileDescriptor fd(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in6 address = LoopbackIpv6(0);
  return bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

inline FileDescriptor ConnectToIpv6(int port) {
  FileDescriptor fd(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in6 address = LoopbackIpv6(port);
  const bool connected =
      connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  return connected ? std::move(fd) : FileDescriptor(-1);
}

// Whether the kernel takes a connection in less than the second after which it asks again.
inline bool ConnectsSoon(int port) {
  constexpr int kSoonMs = 200;
  const FileDescriptor fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const sockaddr_in address = Loopback(port);
  connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  pollfd waited{fd.get(), POLLOUT, 0};
  int error = 0;
  socklen_t length = sizeof(error);
  return poll(&waited, 1, kSoonMs) == 1 &&
         getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0;
}

// Listens on 127.0.0.1, willing to share the port (SO_REUSEPORT); -1 where that fails.
inline FileDescriptor ListenSharing(int port) {
  FileDescriptor fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
  const sockaddr_in address = Loopback(port);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(fd.get(), 1) != 0) {
    return FileDescriptor(-1);
  }
  return fd;
}

// Another process that listens on a port of 127.0.0.1 for as long as this object lives.
class OtherProcessListener {
 public:
  OtherProcessListener() {
    int channel[2];
    if (pipe(channel) != 0) return;
    pid_ = fork();
    if (pid_ == 0) {
      const FileDescriptor fd = ListenSharing(0);
      sockaddr_in address{};
      socklen_t length = sizeof(address);
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length);
      const int port = ntohs(address.sin_port);
      if (write(channel[1], &port, sizeof(port)) != sizeof(port)) _exit(1);
      for (;;) pause();
    }
    if (read(channel[0], &port_, sizeof(port_)) != sizeof(port_)) port_ = 0;
    close(channel[0]);
    close(channel[1]);
  }
  ~OtherProcessListener() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  OtherProcessListener(const OtherProcessListener&) = delete;
  OtherProcessListener& operator=(const OtherProcessListener&) = delete;

  int port() const { return port_; }

 private:
  pid_t pid_ = -1;
  int port_ = 0;
};

}  // namespace allezon::rpc
