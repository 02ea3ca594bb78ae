// SPDX-License-Identifier: Apache-2.0
//
// A gRPC server as every node runs it: reflection, health per service, keepalive limits,
// a port of its own (never shared in silence), drained on shutdown.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace grpc {
class Service;
}

namespace allezon::rpc {

struct ServerOptions {
  std::string listen;                    // host:port, port 0: any
  std::vector<grpc::Service*> services;  // must outlive the server
  // Services with a health of their own; "" is always there, and "live", which is SERVING from the
  // start on.
  std::vector<std::string> health_names;
  int message_bytes_max = 16 << 20;
  // What gRPC itself may hold of calls; beyond, it reads no more, and then ends some. 0: no bound.
  size_t grpc_bytes_max = 0;
};

class Server {
 public:
  // Not serving at first. kUnavailable where the address is taken or does not resolve, or the
  // process has no descriptors left.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options);
  ~Server();
  int port() const;
  // All health names at once, but for "live". Thread-safe.
  void SetServing(bool serving);
  // Says not serving, closes the port, lets calls under way end, cancels what is left after
  // `grace`. Idempotent.
  void Shutdown(absl::Duration grace);

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace allezon::rpc
