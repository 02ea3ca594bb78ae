// SPDX-License-Identifier: Apache-2.0
#include "rpc/address.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace allezon::rpc {
namespace {

constexpr int kPortMax = 65'535;

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

// 0 or an errno.
int TryBind(const addrinfo& info) {
  const Socket socket_(socket(info.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (socket_.fd() < 0) return errno;
  const int on = 1;
  // As servers do: a port whose connections linger in TIME_WAIT may be bound, one in use may not.
  setsockopt(socket_.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  return bind(socket_.fd(), info.ai_addr, info.ai_addrlen) == 0 ? 0 : errno;
}

absl::Status CannotListen(const HostPort& address, std::string_view why) {
  return absl::UnavailableError(absl::StrCat("cannot listen on ", address.host, ":", address.port,
                                             ": ", absl::string_view(why.data(), why.size())));
}

}  // namespace

absl::StatusOr<HostPort> ParseHostPort(std::string_view address) {
  const auto refuse = [&](const char* why) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", std::string(address), "' is not host:port: ", why));
  };
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos) return refuse("it has no port");
  std::string_view host = address.substr(0, colon);
  const std::string_view port = address.substr(colon + 1);
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return refuse("an IPv6 address needs brackets");
  }
  if (host.empty()) return refuse("the host is empty");
  HostPort result{.host = std::string(host), .port = 0};
  const bool digits = !port.empty() && port.find_first_not_of("0123456789") == port.npos;
  if (!digits || !absl::SimpleAtoi(absl::string_view(port.data(), port.size()), &result.port) ||
      result.port > kPortMax) {
    return refuse("the port is not a number from 0 to 65535");
  }
  return result;
}

absl::Status CheckListenable(const HostPort& address) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int error =
      getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  if (error != 0) return CannotListen(address, gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  int bound = 0;
  int last_error = 0;
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    const int bind_error = TryBind(*info);
    if (bind_error == 0) {
      ++bound;
    } else if (bind_error == EADDRNOTAVAIL || bind_error == EAFNOSUPPORT) {
      last_error = bind_error;  // localhost's ::1 on a machine without IPv6
    } else {
      return CannotListen(address, std::strerror(bind_error));
    }
  }
  return bound > 0 ? absl::OkStatus() : CannotListen(address, std::strerror(last_error));
}

}  // namespace allezon::rpc
