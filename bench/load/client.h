// SPDX-License-Identifier: Apache-2.0
//
// An HTTP/1.1 client for many requests at once: one thread, epoll, kept-alive connections with one
// request in flight each.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/load/http_response.h"

namespace allezon::load {

int64_t NowNs();  // monotonic

struct Target {
  std::string name;  // host:port as it was given
  sockaddr_storage address{};
  socklen_t address_bytes = 0;
};

// Of host:port,host:port,… kInvalidArgument where one is malformed or does not resolve.
absl::StatusOr<std::vector<Target>> ParseTargets(std::string_view list);

// What became of a request that got no answer.
enum class Failure { kTimeout, kClosed, kMalformed };

class ResponseHandler {
 public:
  virtual ~ResponseHandler() = default;
  virtual void OnResponse(uint32_t token, const Response& response, int64_t now_ns) = 0;
  virtual void OnFailure(uint32_t token, Failure failure, std::string_view detail,
                         int64_t now_ns) = 0;
};

// Not thread-safe. Connections are divided evenly among the targets and opened again on demand; a
// target that refuses is left alone for a moment, and its share goes to the others.
class Client {
 public:
  class Connection;

  // `handler` must outlive it; its functions are called from Launch, Poll and ExpireDeadlines, and
  // must not call back.
  Client(std::vector<Target> targets, int connections, ResponseHandler* handler);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Opens what is closed, as far as targets are not left alone.
  void OpenAll(int64_t now_ns);

  // An idle connection, of each target in turn, with an empty out(); nullptr where none is: then
  // connections are being opened, if any may be. Follow it by Launch before any other call.
  Connection* Acquire(int64_t now_ns);
  // Sends what is in out(). Exactly one call to the handler with `token` follows.
  void Launch(Connection* connection, uint32_t token, int64_t now_ns, int64_t deadline_ns);

  // Handles what the network brings, waiting up to `wait_ns` for it. A signal ends the wait.
  void Poll(int64_t wait_ns);
  // Gives up the requests whose deadline has passed. A pass over all connections.
  void ExpireDeadlines(int64_t now_ns);

  bool all_idle() const { return busy_ == 0; }
  int connected() const { return connected_; }
  uint64_t opened() const { return opened_; }
  uint64_t refused() const { return refused_; }
  // Closed by the server while idle or after an answer, which is its right.
  uint64_t closed_idle() const { return closed_idle_; }
  const std::string& last_refusal() const { return last_refusal_; }

 private:
  struct TargetState {
    Target target;
    std::deque<uint32_t> idle;    // connections, longest idle first
    std::deque<uint32_t> closed;  // connections
    int64_t avoid_until_ns = 0;
  };

  Connection* TakeIdle(TargetState* target, int64_t now_ns);
  bool Open(TargetState* target, int64_t now_ns);
  void OnConnected(Connection* connection, int64_t now_ns);
  void OnRefused(Connection* connection, int error, int64_t now_ns);
  void OnReadable(Connection* connection, int64_t now_ns);
  void OnEnd(Connection* connection, int error, int64_t now_ns);
  void OnBytes(Connection* connection, std::string_view bytes, int64_t now_ns);
  void Write(Connection* connection, int64_t now_ns);
  void Watch(Connection* connection, bool write);
  void Close(Connection* connection);
  void Finish(Connection* connection);
  void Fail(Connection* connection, Failure failure, std::string_view detail, int64_t now_ns);

  ResponseHandler* const handler_;
  int epoll_fd_ = -1;
  std::vector<TargetState> targets_;
  std::vector<Connection> connections_;
  size_t next_target_ = 0;
  int busy_ = 0;
  int connected_ = 0;
  int connecting_ = 0;
  uint64_t opened_ = 0;
  uint64_t refused_ = 0;
  uint64_t closed_idle_ = 0;
  std::string last_refusal_;
  std::vector<char> buffer_;
};

class Client::Connection {
 public:
  std::string* out() { return &out_; }
  const std::string& host() const { return host_; }

 private:
  friend class Client;
  enum class State { kClosed, kConnecting, kIdle, kBusy };

  uint32_t index_ = 0;
  uint32_t target_ = 0;
  State state_ = State::kClosed;
  int fd_ = -1;
  bool watches_write_ = false;
  uint32_t token_ = 0;
  int64_t deadline_ns_ = 0;  // of the request, or of the connect
  int64_t idle_since_ns_ = 0;
  int64_t keep_alive_ns_ = 0;  // how long the server keeps it idle; 0: it did not say
  size_t written_ = 0;         // of out_
  std::string out_;
  std::string host_;
  ResponseReader reader_;
};

}  // namespace allezon::load
