// SPDX-License-Identifier: Apache-2.0
#include "rpc/address.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace allezon::rpc {
namespace {

constexpr int kPortMax = 65'535;

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

}  // namespace allezon::rpc
