// SPDX-License-Identifier: Apache-2.0
//
// The gateway's HTTP server: a thread for each connection that is open, up to a bound. At the bound
// a new client takes the place of the one that has been idle, or slow to send, for longest; where
// every connection is being served it is refused with 503.
//
// Life: Start, then clients come and go, then Stop. Stop must not be called twice at a time;
// everything else is thread-safe.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "gateway/api.h"

namespace allezon::gateway {

struct HttpServerOptions {
  std::string listen;  // host:port, port 0: any
  size_t connections_max = 1024;
  // Bytes of bodies over 64 KiB that are held at a time; more is refused with 503.
  size_t body_bytes_total_max = size_t{256} << 20;
  // The same of answers to queries while they are sent.
  size_t answer_bytes_total_max = size_t{192} << 20;
  // A connection between two requests. Longer than proxies keep theirs, which then close first.
  std::chrono::milliseconds idle_timeout{75'000};
  // Where all are taken, an idle one gives way to a new one after so long; before, its client's
  // next request may be on the wire, and the new one is told to come back.
  std::chrono::milliseconds idle_min{1000};
  // While the server stops: the client's next request may be on the wire, and is answered.
  std::chrono::milliseconds idle_at_stop{100};
  // From a request's first byte to the end of its head, and to the end of its body.
  std::chrono::milliseconds head_timeout{10'000};
  std::chrono::milliseconds body_timeout{30'000};
  std::chrono::milliseconds write_timeout{10'000};
};

class HttpServer {
 public:
  // kInvalidArgument: no such address. kUnavailable: it is taken, or not ours. `api` must outlive
  // the server.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(Api& api, HttpServerOptions options);
  // Stops without grace.
  ~HttpServer();

  int port() const;
  // From now on each answer says that its connection ends with it; those that are idle are kept,
  // and new ones are taken. Clients leave by and by, and Stop has few to send away.
  void Drain();
  // Accepts who has begun to connect, and nobody after that; closes what stays idle, lets the
  // requests under way end; what is not done after `grace` is cut off. Returns once every thread
  // has ended: a request that is with the services is waited for, until its deadline at most.
  void Stop(std::chrono::milliseconds grace);

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace allezon::gateway
