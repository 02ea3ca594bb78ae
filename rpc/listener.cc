// SPDX-License-Identifier: Apache-2.0
#include "rpc/listener.h"

#include <linux/filter.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>

#include "absl/strings/str_cat.h"
#include "rpc/address.h"

namespace allezon::rpc {
namespace {

// How often another port is tried where any will do, and one address of several has it in use.
constexpr int kPortsTried = 10;

using Addresses = std::vector<sockaddr_storage>;

absl::Status CannotListen(const std::string& address, const char* why) {
  return absl::UnavailableError(absl::StrCat("cannot listen on ", address, ": ", why));
}

void SetOption(int fd, int level, int option, int value) {
  setsockopt(fd, level, option, &value, sizeof value);
}

// Each one once: a name may be in /etc/hosts twice.
absl::StatusOr<Addresses> Resolve(const std::string& address, const HostPort& parsed) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const std::string port = std::to_string(parsed.port);
  if (const int error = getaddrinfo(parsed.host.c_str(), port.c_str(), &hints, &found)) {
    return CannotListen(address, gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  Addresses addresses;
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    sockaddr_storage one{};
    std::memcpy(&one, info->ai_addr, info->ai_addrlen);
    const auto is_same = [&](const sockaddr_storage& other) {
      return std::memcmp(&one, &other, sizeof one) == 0;
    };
    if (std::none_of(addresses.begin(), addresses.end(), is_same)) addresses.push_back(one);
  }
  return addresses;
}

in_port_t& PortOf(sockaddr_storage& address) {
  return address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                       : reinterpret_cast<sockaddr_in&>(address).sin_port;
}

// 0, and one listener more, or an errno.
int ListenOn(const sockaddr_storage& address, std::vector<Listener>& listeners) {
  const int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return errno;
  // A port whose connections linger in TIME_WAIT may be bound, one in use may not. Only this
  // option: with SO_REUSEPORT two processes would share the port in silence.
  SetOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  // [::] is for IPv4 as well, whatever the machine's default is.
  if (address.ss_family == AF_INET6) SetOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
  sockaddr_storage bound{};
  socklen_t bound_bytes = sizeof bound;
  const socklen_t bytes =
      address.ss_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), bytes) != 0 ||
      listen(fd, SOMAXCONN) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &bound_bytes) != 0) {
    const int error = errno;
    close(fd);
    return error;
  }
  listeners.emplace_back(fd, ntohs(PortOf(bound)));
  return 0;
}

// On all that this machine has; 0 or an errno.
int ListenOnAll(Addresses addresses, std::vector<Listener>& listeners) {
  int last_error = 0;
  for (sockaddr_storage& address : addresses) {
    // The port that the first one got is that of all.
    if (!listeners.empty()) PortOf(address) = htons(static_cast<uint16_t>(listeners[0].port()));
    const int error = ListenOn(address, listeners);
    if (error == EADDRNOTAVAIL || error == EAFNOSUPPORT) {
      last_error = error;  // localhost's ::1 on a machine without IPv6
    } else if (error != 0) {
      return error;
    }
  }
  return listeners.empty() ? last_error : 0;
}

}  // namespace

Listener::~Listener() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<std::vector<Listener>> Listen(const std::string& address) {
  const absl::StatusOr<HostPort> parsed = ParseHostPort(address);
  if (!parsed.ok()) return parsed.status();
  const absl::StatusOr<Addresses> addresses = Resolve(address, *parsed);
  if (!addresses.ok()) return addresses.status();
  int error = 0;
  for (int tried = 0; tried < kPortsTried; ++tried) {
    std::vector<Listener> listeners;
    error = ListenOnAll(*addresses, listeners);
    if (error == 0) return listeners;
    if (error != EADDRINUSE || parsed->port != 0) break;
  }
  return CannotListen(address, std::strerror(error));
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
  if (setsockopt(listener.fd(), SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) != 0) {
    return absl::UnavailableError(absl::StrCat("SO_ATTACH_FILTER: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

}  // namespace allezon::rpc
