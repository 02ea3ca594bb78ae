// SPDX-License-Identifier: Apache-2.0
#include "bench/programs/minimal_http.h"

#include <httplib.h>
#include <sys/socket.h>

#include <cstdio>
#include <limits>
#include <utility>

namespace allezon::bench {
namespace {

constexpr int kBacklog =
    1024;  // the library's own is 5, and bursts of connections wait for seconds
constexpr int kIdleSeconds = 60;
// For probes of whether the port is open.
constexpr int kSpareThreads = 4;

}  // namespace

int ServeMinimalHttp(int port, int connections, std::function<int(const std::string& body)> take) {
  httplib::Server server;
  server.new_task_queue = [connections] {
    return new httplib::ThreadPool(static_cast<size_t>(connections) + kSpareThreads);
  };
  server.set_tcp_nodelay(true);
  server.set_keep_alive_max_count(std::numeric_limits<size_t>::max());
  server.set_keep_alive_timeout(kIdleSeconds);
  int listener = -1;
  server.set_socket_options([&listener](socket_t socket) {
    constexpr int kYes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &kYes, sizeof(kYes));
    listener = socket;
  });
  server.Post("/user_tags", [&take](const httplib::Request& request, httplib::Response& response) {
    response.status = take(request.body);
  });
  if (!server.bind_to_port("127.0.0.1", port) || ::listen(listener, kBacklog) != 0) {
    std::fprintf(stderr, "cannot listen on port %d\n", port);
    return 1;
  }
  return server.listen_after_bind() ? 0 : 1;
}

}  // namespace allezon::bench
