// SPDX-License-Identifier: Apache-2.0
//
// allezon-bench-redis-load: tags into Redis by its own protocol, as fast as it answers. One thread,
// epoll, one tag in flight a connection, all its commands in one write.
#include <hiredis/hiredis.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "bench/programs/latencies.h"
#include "bench/programs/redis_tag.h"
#include "bench/programs/synthetic_tags.h"
#include "rpc/flags.h"

ABSL_FLAG(int, port, 6379, "of the primary on 127.0.0.1");
ABSL_FLAG(int, connections, 64, "one tag in flight each");
ABSL_FLAG(int, replicas, 1, "replicas that must have a tag besides the primary");
ABSL_FLAG(double, seconds, 10, "ends after so long");
ABSL_FLAG(int64_t, start_ms, 0, "logical time of the first tag, in milliseconds since 1970");

namespace allezon::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kEventsMax = 256;
constexpr int kStallMs = 10'000;  // where nothing was answered for so long, it failed
constexpr double kStepUs = 100;

struct Connection {
  explicit Connection(int replicas) : replies(replicas) {}
  std::unique_ptr<redisContext, decltype(&redisFree)> redis{nullptr, &redisFree};
  TagReplies replies;
  Clock::time_point sent;
};

class Load {
 public:
  Load() : epoll_fd_(epoll_create1(EPOLL_CLOEXEC)), replicas_(absl::GetFlag(FLAGS_replicas)) {
    options_.start_ms = absl::GetFlag(FLAGS_start_ms);
    options_.step_us = kStepUs;
  }
  ~Load() { close(epoll_fd_); }

  int Run() {
    if (!Connect()) return 1;
    const Clock::time_point began = Clock::now();
    const auto until =
        began + std::chrono::microseconds(static_cast<int64_t>(absl::GetFlag(FLAGS_seconds) * 1e6));
    for (Connection& connection : connections_) {
      if (!Send(connection)) return 1;
    }
    epoll_event events[kEventsMax];
    while (Clock::now() < until) {
      const int ready = epoll_wait(epoll_fd_, events, kEventsMax, kStallMs);
      if (ready <= 0) return Fail("nothing was answered");
      for (int i = 0; i < ready; ++i) {
        if (!Receive(connections_[events[i].data.u32])) return 1;
      }
    }
    const std::chrono::duration<double> took = Clock::now() - began;
    std::printf("{\"tags\":%llu,\"failed\":%llu,\"seconds\":%.6f,\"latency_us\":%s}\n",
                static_cast<unsigned long long>(stored_), static_cast<unsigned long long>(failed_),
                took.count(), latencies_.Json().c_str());
    return 0;
  }

 private:
  static int Fail(const char* what) {
    std::fprintf(stderr, "%s\n", what);
    return 1;
  }

  bool Connect() {
    for (int i = 0; i < absl::GetFlag(FLAGS_connections); ++i) {
      Connection& connection = connections_.emplace_back(replicas_);
      connection.redis.reset(redisConnectNonBlock("127.0.0.1", absl::GetFlag(FLAGS_port)));
      if (connection.redis == nullptr || connection.redis->err != 0) {
        return Fail("cannot connect") == 0;
      }
      epoll_event event{};
      event.events = EPOLLIN;
      event.data.u32 = static_cast<uint32_t>(i);
      epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, connection.redis->fd, &event);
    }
    return true;
  }

  bool Send(Connection& connection) {
    MakeTag(options_, next_++, tag_);
    member_.clear();
    AppendTsv(tag_, member_);
    // Two tags that are alike are two members.
    absl::StrAppend(&member_, next_);
    AppendTag(connection.redis.get(), tag_, member_, replicas_);
    connection.sent = Clock::now();
    for (int done = 0; done == 0;) {
      if (redisBufferWrite(connection.redis.get(), &done) != REDIS_OK) {
        return Fail(connection.redis->errstr) == 0;
      }
    }
    return true;
  }

  bool Receive(Connection& connection) {
    if (redisBufferRead(connection.redis.get()) != REDIS_OK) {
      return Fail(connection.redis->errstr) == 0;
    }
    void* reply = nullptr;
    while (redisGetReplyFromReader(connection.redis.get(), &reply) == REDIS_OK &&
           reply != nullptr) {
      if (!connection.replies.Take(reply)) continue;
      ++(connection.replies.ok() ? stored_ : failed_);
      latencies_.Add(Clock::now() - connection.sent);
      return Send(connection);
    }
    return true;
  }

  const int epoll_fd_;
  const int replicas_;
  SyntheticOptions options_;
  std::vector<Connection> connections_;
  uint64_t next_ = 0, stored_ = 0, failed_ = 0;
  v1::Tag tag_;
  std::string member_;
  Latencies latencies_;
};

}  // namespace
}  // namespace allezon::bench

int main(int argc, char** argv) {
  allezon::rpc::ParseFlags(argc, argv, "allezon-bench-redis-load puts tags into Redis.");
  return allezon::bench::Load().Run();
}
