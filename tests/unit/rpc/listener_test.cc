// SPDX-License-Identifier: Apache-2.0
#include "rpc/listener.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netdb.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "sockets.h"

namespace allezon::rpc {
namespace {

using ::testing::HasSubstr;

TEST(ListenerTest, AFreeAddressIsListenedOn) {
  for (const char* address : {"127.0.0.1:0", "localhost:0", "0.0.0.0:0"}) {
    const auto listeners = Listen(address);
    ASSERT_TRUE(listeners.ok()) << listeners.status();
    ASSERT_FALSE(listeners->empty());
    for (const Listener& listener : *listeners) {
      EXPECT_GT(listener.port(), 0);
      EXPECT_EQ(listener.port(), listeners->front().port());
    }
    EXPECT_GE(ConnectTo(listeners->front().port()).get(), 0) << address;
  }
}

bool KnowsIpv6(const char* name) {
  addrinfo hints{};
  hints.ai_family = AF_INET6;
  addrinfo* found = nullptr;
  if (getaddrinfo(name, nullptr, &hints, &found) != 0) return false;
  freeaddrinfo(found);
  return true;
}

TEST(ListenerTest, EveryAddressOfANameIsListenedOn) {
  if (!HasIpv6()) GTEST_SKIP() << "this machine has no IPv6";
  const auto any = Listen("[::]:0");
  ASSERT_TRUE(any.ok()) << any.status();
  EXPECT_GE(ConnectTo(any->front().port()).get(), 0);
  EXPECT_GE(ConnectToIpv6(any->front().port()).get(), 0);
  // Some machines know localhost as an address of IPv4 only.
  const auto named = Listen("localhost:0");
  ASSERT_TRUE(named.ok()) << named.status();
  EXPECT_GE(ConnectTo(named->front().port()).get(), 0);
  EXPECT_EQ(ConnectToIpv6(named->front().port()).get() >= 0, KnowsIpv6("localhost"));
}

TEST(ListenerTest, ATakenPortIsUnavailableAlsoThroughAnotherNameOfTheHost) {
  const OtherProcessListener other;
  ASSERT_GT(other.port(), 0);
  for (const char* host : {"127.0.0.1", "localhost", "0.0.0.0"}) {
    const absl::Status status = Listen(absl::StrCat(host, ":", other.port())).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << host;
    EXPECT_THAT(std::string(status.message()), HasSubstr("in use"));
  }
}

TEST(ListenerTest, AnAddressThatIsNotOursIsUnavailable) {
  // 192.0.2.0/24 is reserved for documentation.
  EXPECT_EQ(Listen("192.0.2.1:0").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Listen("999.1.1.1.:0").status().code(), absl::StatusCode::kUnavailable);
}

TEST(ListenerTest, WhatIsNoAddressIsRefused) {
  EXPECT_EQ(Listen("127.0.0.1").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ListenerTest, NewcomersAreDroppedAndWhoWaitsIsNot) {
  const auto listeners = Listen("127.0.0.1:0");
  ASSERT_TRUE(listeners.ok()) << listeners.status();
  const Listener& listener = listeners->front();
  const FileDescriptor waiting = ConnectTo(listener.port());
  ASSERT_GE(waiting.get(), 0);
  const absl::Status dropping = DropNewcomers(listener);
  ASSERT_TRUE(dropping.ok()) << dropping;
  EXPECT_FALSE(ConnectsSoon(listener.port()));
  const FileDescriptor taken(accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_GE(taken.get(), 0);
  // The connection has inherited the filter, and works.
  ASSERT_EQ(send(waiting.get(), "ping", 4, MSG_NOSIGNAL), 4);
  char received[8];
  EXPECT_EQ(recv(taken.get(), received, sizeof received, 0), 4);
  EXPECT_EQ(accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC), -1);
  EXPECT_EQ(errno, EAGAIN);
}

TEST(ListenerTest, WhereTheKernelDropsNobodyItSaysSo) {
  EXPECT_EQ(DropNewcomers(Listener(-1, 0)).code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace allezon::rpc
