// SPDX-License-Identifier: Apache-2.0
#include "gateway/listener.h"

#include <linux/filter.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>

#include "absl/strings/str_cat.h"
#include "rpc/address.h"

namespace allezon::gateway {
namespace {

absl::Status Failed(const std::string& address, const char* what) {
  return absl::UnavailableError(
      absl::StrCat("cannot listen on ", address, ": ", what, ": ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<Listener> Listen(const std::string& address) {
  absl::StatusOr<rpc::HostPort> parsed = rpc::ParseHostPort(address);
  if (!parsed.ok()) return parsed.status();
  if (absl::Status s = rpc::CheckListenable(*parsed); !s.ok()) return s;
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const std::string port = std::to_string(parsed->port);
  if (const int error = getaddrinfo(parsed->host.c_str(), port.c_str(), &hints, &found)) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address, ": ", gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return Failed(address, "socket");
  // Only this option: with SO_REUSEPORT two processes would share the port in silence.
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_storage bound{};
  socklen_t length = sizeof bound;
  if (bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, kBacklog) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &length) != 0) {
    const absl::Status failed = Failed(address, "bind");
    close(fd);
    return failed;
  }
  const in_port_t bound_port = bound.ss_family == AF_INET6
                                   ? reinterpret_cast<sockaddr_in6&>(bound).sin6_port
                                   : reinterpret_cast<sockaddr_in&>(bound).sin_port;
  return Listener{fd, ntohs(bound_port)};
}

absl::Status DropNewcomers(const Listener& listener) {
  constexpr uint32_t kFlagsOffset = 13;  // in the header of TCP, where a filter of TCP begins
  constexpr uint32_t kDrop = 0;
  constexpr uint32_t kTakeAll = UINT32_MAX;
  // A SYN without an ACK is dropped, all else is taken. Connections that are accepted later have
  // the filter too; they get no such packet.
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, kFlagsOffset),
      BPF_STMT(BPF_ALU | BPF_AND | BPF_K, TH_SYN | TH_ACK),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TH_SYN, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, kDrop),
      BPF_STMT(BPF_RET | BPF_K, kTakeAll),
  };
  const sock_fprog filter{std::size(program), program};
  if (setsockopt(listener.fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) != 0) {
    return absl::UnavailableError(absl::StrCat("SO_ATTACH_FILTER: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

}  // namespace allezon::gateway
