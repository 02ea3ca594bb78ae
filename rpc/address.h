// SPDX-License-Identifier: Apache-2.0
//
// Addresses that a process listens on.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace allezon::rpc {

struct HostPort {
  std::string host;  // an IPv6 address without its brackets
  int port = 0;      // 0 to 65535
};

// Reads `host:port` or `[ipv6]:port`. kInvalidArgument for anything else, an empty host included.
absl::StatusOr<HostPort> ParseHostPort(std::string_view address);

}  // namespace allezon::rpc
