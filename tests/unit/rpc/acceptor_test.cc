// SPDX-License-Identifier: Apache-2.0
#include "rpc/acceptor.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/tcp.h>

#include <atomic>
#include <cerrno>
#include <memory>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "accept_errors.h"
#include "rpc/metrics.h"
#include "sockets.h"

namespace allezon::rpc {
namespace {

constexpr absl::Duration kLong = absl::Seconds(30);

class AcceptorTest : public testing::Test {
 protected:
  void Start(
      const char* name, std::function<void()> make_room = [] {}) {
    auto listeners = Listen("127.0.0.1:0");
    ASSERT_TRUE(listeners.ok()) << listeners.status();
    Acceptor::Options options;
    options.name = name;
    options.take = [this](int fd) {
      absl::MutexLock lock(&mutex_);
      taken_.emplace_back(fd);
    };
    options.make_room = std::move(make_room);
    auto acceptor = Acceptor::Start(*std::move(listeners), std::move(options));
    ASSERT_TRUE(acceptor.ok()) << acceptor.status();
    acceptor_ = *std::move(acceptor);
    failures_ = &MakeCounter("allezon_accept_failures_total", "", {{"listener", name}});
  }
  // Whether so many have been taken before long.
  bool Takes(size_t connections) {
    absl::MutexLock lock(&mutex_);
    const auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return taken_.size() >= connections;
    };
    return mutex_.AwaitWithTimeout(absl::Condition(&enough), kLong);
  }
  size_t taken() {
    absl::MutexLock lock(&mutex_);
    return taken_.size();
  }
  void AwaitFailures(double more) {
    const double before = failures_->Value();
    while (failures_->Value() < before + more) absl::SleepFor(absl::Milliseconds(1));
  }

  absl::Mutex mutex_;
  std::vector<FileDescriptor> taken_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Acceptor> acceptor_;
  prometheus::Counter* failures_ = nullptr;
};

TEST_F(AcceptorTest, WhatItTakesDoesNotBlockNorDelayNorSurviveAnExec) {
  ASSERT_NO_FATAL_FAILURE(Start("options"));
  const FileDescriptor client = ConnectTo(acceptor_->port());
  ASSERT_TRUE(Takes(1));
  absl::MutexLock lock(&mutex_);
  const int fd = taken_[0].get();
  int no_delay = 0;
  socklen_t length = sizeof no_delay;
  ASSERT_EQ(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &no_delay, &length), 0);
  EXPECT_EQ(no_delay, 1);
  EXPECT_TRUE(fcntl(fd, F_GETFL) & O_NONBLOCK);
  EXPECT_TRUE(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

TEST_F(AcceptorTest, WhoComesWhileTheTableIsFullIsTakenWhenItIsNot) {
  if (!kTableMayBeFull) GTEST_SKIP() << "a sanitizer needs descriptors";
  std::atomic<int> asked{0};
  ASSERT_NO_FATAL_FAILURE(Start("full", [&] { ++asked; }));
  FileDescriptor client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  {
    const FullTable full;
    const sockaddr_in address = Loopback(acceptor_->port());
    ASSERT_EQ(connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
              0);
    AwaitFailures(3);
    EXPECT_GE(asked.load(), 2);
    EXPECT_EQ(taken(), 0);
  }
  EXPECT_TRUE(Takes(1));
  const FileDescriptor later = ConnectTo(acceptor_->port());
  EXPECT_TRUE(Takes(2));
}

TEST_F(AcceptorTest, NoErrorOfAcceptEndsIt) {
  ASSERT_NO_FATAL_FAILURE(Start("errors"));
  size_t connections = 0;
  for (const int error : {EMFILE, ENFILE, ENOBUFS, ENOMEM, ECONNABORTED, EPERM, EINTR}) {
    FailNextAccept(error);
    const FileDescriptor client = ConnectTo(acceptor_->port());
    EXPECT_TRUE(Takes(++connections)) << error;
    EXPECT_TRUE(AcceptHasFailed());
  }
}

TEST_F(AcceptorTest, ItEndsWhileTheTableIsFull) {
  if (!kTableMayBeFull) GTEST_SKIP() << "a sanitizer needs descriptors";
  ASSERT_NO_FATAL_FAILURE(Start("ends"));
  FileDescriptor client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const FullTable full;
  const sockaddr_in address = Loopback(acceptor_->port());
  ASSERT_EQ(connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  AwaitFailures(1);
  acceptor_->Stop();
  acceptor_->Stop();
  EXPECT_EQ(taken(), 0);
}

TEST_F(AcceptorTest, AfterStopThePortIsClosed) {
  ASSERT_NO_FATAL_FAILURE(Start("stops"));
  const int port = acceptor_->port();
  ASSERT_GE(ConnectTo(port).get(), 0);
  acceptor_->Stop();
  EXPECT_EQ(ConnectTo(port).get(), -1);
  EXPECT_EQ(acceptor_->port(), port);
}

}  // namespace
}  // namespace allezon::rpc
