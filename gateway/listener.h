// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace allezon::gateway {

// Connections that wait to be accepted, at most.
inline constexpr int kBacklog = 1024;

struct Listener {
  int fd = -1;  // non-blocking; the caller closes it
  int port = 0;
};

// Listens on host:port (port 0: any) with a deep backlog, on the first address that the host
// resolves to. kInvalidArgument: that is no address. kUnavailable: it is taken or cannot be bound;
// a port is never shared with another process.
absl::StatusOr<Listener> Listen(const std::string& address);

// From now on the kernel drops, in silence, the first packet of whoever begins to connect: clients
// send it again a second later. Who has begun before is connected, and accepted, as ever. Cannot be
// undone. kUnavailable: the kernel does not do so.
absl::Status DropNewcomers(const Listener& listener);

}  // namespace allezon::gateway
