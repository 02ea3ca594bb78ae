// SPDX-License-Identifier: Apache-2.0
#include <httplib.h>
#include <sys/socket.h>

#include <thread>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "rpc/address.h"
#include "rpc/metrics.h"

namespace allezon::rpc {
namespace {

constexpr size_t kThreads = 4;
// A scrape is one small request; who is slower than this holds a thread for nothing.
constexpr time_t kIdleMax_s = 1;
constexpr time_t kReadMax_s = 2;
constexpr time_t kWriteMax_s = 5;
constexpr size_t kRequestBodyBytesMax = 1'024;
constexpr char kContentType[] = "text/plain; version=0.0.4; charset=utf-8";

}  // namespace

struct MetricsServer::Impl {
  httplib::Server http;
  int port = 0;
  std::thread listener;
  absl::Notification ended;

  ~Impl() {
    if (!listener.joinable()) return;
    http.stop();
    listener.join();
  }
};

MetricsServer::MetricsServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
MetricsServer::~MetricsServer() = default;
int MetricsServer::port() const { return impl_->port; }

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& address) {
  const absl::StatusOr<HostPort> parsed = ParseHostPort(address);
  if (!parsed.ok()) return parsed.status();
  if (absl::Status status = CheckListenable(*parsed); !status.ok()) return status;

  auto impl = std::make_unique<Impl>();
  httplib::Server& http = impl->http;
  http.new_task_queue = [] { return std::make_unique<httplib::ThreadPool>(kThreads).release(); };
  // The library's own choice is SO_REUSEPORT, with which two processes share a port in silence.
  http.set_socket_options([](socket_t fd) {
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  });
  http.set_tcp_nodelay(true);
  // One request a connection, so that a scraper's idle connections never hold all the threads.
  http.set_keep_alive_max_count(1);
  http.set_keep_alive_timeout(kIdleMax_s);
  http.set_read_timeout(kReadMax_s);
  http.set_write_timeout(kWriteMax_s);
  http.set_payload_max_length(kRequestBodyBytesMax);
  http.Get("/metrics", [](const httplib::Request&, httplib::Response& response) {
    response.set_content(MetricsText(), kContentType);
  });

  if (parsed->port == 0) {
    impl->port = http.bind_to_any_port(parsed->host);
  } else if (http.bind_to_port(parsed->host, parsed->port)) {
    impl->port = parsed->port;
  }
  if (impl->port <= 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address));
  }
  impl->listener = std::thread([impl = impl.get()] {
    impl->http.listen_after_bind();
    impl->ended.Notify();
  });
  // stop() before the listener runs would be lost, and the destructor would wait for ever.
  while (!http.is_running()) {
    if (impl->ended.WaitForNotificationWithTimeout(absl::Milliseconds(1))) {
      return absl::UnavailableError(absl::StrCat("cannot accept connections on ", address));
    }
  }
  return absl::WrapUnique(new MetricsServer(std::move(impl)));
}

}  // namespace allezon::rpc
