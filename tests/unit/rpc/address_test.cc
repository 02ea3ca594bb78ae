// SPDX-License-Identifier: Apache-2.0
#include "rpc/address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "listener.h"

namespace allezon::rpc {
namespace {

using ::testing::HasSubstr;

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

TEST(AddressTest, AFreeAddressIsListenable) {
  EXPECT_TRUE(CheckListenable({"127.0.0.1", 0}).ok());
  EXPECT_TRUE(CheckListenable({"localhost", 0}).ok());
  EXPECT_TRUE(CheckListenable({"0.0.0.0", 0}).ok());
}

TEST(AddressTest, ATakenPortIsUnavailableAlsoThroughAnotherNameOfTheHost) {
  const OtherProcessListener other;
  ASSERT_GT(other.port(), 0);
  for (const char* host : {"127.0.0.1", "localhost", "0.0.0.0"}) {
    const absl::Status status = CheckListenable({host, other.port()});
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << host;
    EXPECT_THAT(std::string(status.message()), HasSubstr("in use"));
  }
}

TEST(AddressTest, AnAddressThatIsNotOursIsUnavailable) {
  // 192.0.2.0/24 is reserved for documentation.
  EXPECT_EQ(CheckListenable({"192.0.2.1", 0}).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(CheckListenable({"999.1.1.1.", 0}).code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace allezon::rpc
