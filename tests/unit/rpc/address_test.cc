// SPDX-License-Identifier: Apache-2.0
#include "rpc/address.h"

#include <gtest/gtest.h>

namespace allezon::rpc {
namespace {

TEST(AddressTest, HostAndPortAreTakenApart) {
  const auto expect = [](const char* address, const char* host, int port) {
    const auto parsed = ParseHostPort(address);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->host, host);
    EXPECT_EQ(parsed->port, port);
  };
  expect("127.0.0.1:8080", "127.0.0.1", 8080);
  expect("localhost:0", "localhost", 0);
  expect("profile-0.profile:65535", "profile-0.profile", 65535);
  expect("[::1]:7001", "::1", 7001);
}

TEST(AddressTest, AnythingElseIsRefused) {
  for (const char* address : {"", ":", "h", "h:", ":1", "[]:1", "h:65536", "h:-1", "h:+1", "h: 1",
                              "h:1 ", "h:http", "::1:1", "h:99999999999999999999", "h:1:2"}) {
    EXPECT_EQ(ParseHostPort(address).status().code(), absl::StatusCode::kInvalidArgument)
        << address;
  }
}

}  // namespace
}  // namespace allezon::rpc
