// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace allezon::rpc {

// A socket that listens and does not block; closed in the end.
class Listener {
 public:
  // Takes the descriptor.
  Listener(int fd, int port) : fd_(fd), port_(port) {}
  Listener(Listener&& other) noexcept : fd_(std::exchange(other.fd_, -1)), port_(other.port_) {}
  Listener& operator=(Listener&&) = delete;
  ~Listener();

  int fd() const { return fd_; }
  int port() const { return port_; }

 private:
  int fd_;
  int port_;
};

// Listens on host:port (port 0: any, the same for all), on every address that the host resolves to
// and this machine has. Connections that wait to be accepted are as many as the kernel allows
// (net.core.somaxconn, 4,096 at most). kInvalidArgument: that is no address. kUnavailable, with the
// reason: one address is in use, none is this machine's, or the host does not resolve; a port is
// never shared with another process.
absl::StatusOr<std::vector<Listener>> Listen(const std::string& address);

// From now on the kernel drops, in silence, the first packet of whoever begins to connect: clients
// send it again a second later. Who has begun before is connected, and accepted, as ever. Cannot be
// undone. kUnavailable: the kernel does not do so.
absl::Status DropNewcomers(const Listener& listener);

}  // namespace allezon::rpc
