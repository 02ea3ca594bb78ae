// SPDX-License-Identifier: Apache-2.0
//
// Addresses that a process listens on.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace allezon::rpc {

struct HostPort {
  std::string host;  // an IPv6 address without its brackets
  int port = 0;      // 0 to 65535
};

// Reads `host:port` or `[ipv6]:port`. kInvalidArgument for anything else, an empty host included.
absl::StatusOr<HostPort> ParseHostPort(std::string_view address);

// Whether a server may listen on `address` right now: binds every address that the host resolves
// to, and lets go. kUnavailable, with the reason, where one of them is in use, none is this
// machine's, or the host does not resolve. Servers call it first because the libraries below do not
// say why a bind failed, and settle for a part of the addresses (of localhost, say) in silence.
absl::Status CheckListenable(const HostPort& address);

}  // namespace allezon::rpc
