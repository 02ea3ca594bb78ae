// SPDX-License-Identifier: Apache-2.0
//
// The least HTTP/1.1 server that a test platform needs: keep-alive, Content-Length, one thread a
// connection. cpp-httplib would refuse the second question mark that the assignment's platform
// sends.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace allezon::load {

struct PlainRequest {
  std::string method, path;                                 // the path is decoded
  std::vector<std::pair<std::string, std::string>> params;  // decoded, in their order
  std::map<std::string, std::string> headers;               // names in lower case
  std::string body{};

  // The first one of that name.
  std::optional<std::string> Param(const std::string& name) const;
  std::string Header(const std::string& name) const;
};

struct PlainResponse {
  int status = 200;
  std::string body{};
  bool close = false;       // say so, and do so
  bool unanswered = false;  // close in the middle of the head
};

class PlainHttpServer {
 public:
  // `handle` is called from many threads.
  explicit PlainHttpServer(std::function<PlainResponse(const PlainRequest&)> handle);
  // Cuts all connections and waits for their threads.
  ~PlainHttpServer() ABSL_LOCKS_EXCLUDED(mutex_);
  int port() const { return port_; }

 private:
  void Accept() ABSL_LOCKS_EXCLUDED(mutex_);
  void Serve(int fd);

  const std::function<PlainResponse(const PlainRequest&)> handle_;
  int listen_fd_ = -1;
  int port_ = 0;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<int> fds_ ABSL_GUARDED_BY(mutex_);  // closed by the destructor, so none is reused
  std::list<std::jthread> threads_ ABSL_GUARDED_BY(mutex_);
  std::jthread acceptor_;
};

}  // namespace allezon::load
