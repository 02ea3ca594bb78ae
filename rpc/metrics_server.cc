// SPDX-License-Identifier: Apache-2.0
#include <httplib.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "absl/memory/memory.h"
#include "rpc/acceptor.h"
#include "rpc/blocking_calls.h"
#include "rpc/metrics.h"

namespace allezon::rpc {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr int kThreads = 4;
// Scrapers that wait for a thread; beyond, a connection is closed.
constexpr size_t kWaitingMax = 64;
// A scrape is one small request; who is slower than this holds a thread for nothing.
constexpr milliseconds kRequestMax{1'000};
constexpr milliseconds kAnswerMax{5'000};
constexpr size_t kRequestBodyBytesMax = 1'024;
constexpr size_t kRequestBytesMax = 64 << 10;
constexpr char kContentType[] = "text/plain; version=0.0.4; charset=utf-8";

// One request of a connected socket that does not block, and its answer. Closes it in the end.
class Exchange final : public httplib::Stream {
 public:
  explicit Exchange(int fd) : fd_(fd) {}
  ~Exchange() override { close(fd_); }
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  bool is_readable() const override { return read_ < buffered_ || Await(POLLIN); }
  bool is_writable() const override { return Await(POLLOUT); }
  // The library asks for one byte at a time.
  ssize_t read(char* to, size_t size) override {
    if (read_ == buffered_) {
      // Of a body in chunks the library would take whatever comes.
      if (received_ > kRequestBytesMax || !Await(POLLIN)) return -1;
      const ssize_t received = recv(fd_, buffer_, sizeof buffer_, 0);
      if (received <= 0) return received;
      read_ = 0;
      buffered_ = static_cast<size_t>(received);
      received_ += buffered_;
    }
    const size_t bytes = std::min(size, buffered_ - read_);
    std::memcpy(to, buffer_ + read_, bytes);
    read_ += bytes;
    return static_cast<ssize_t>(bytes);
  }
  ssize_t write(const char* from, size_t size) override {
    if (!is_answer_) until_ = steady_clock::now() + kAnswerMax;
    is_answer_ = true;
    for (size_t sent = 0; sent < size;) {
      if (!Await(POLLOUT)) return -1;
      const ssize_t more = send(fd_, from + sent, size - sent, MSG_NOSIGNAL);
      if (more < 0) return -1;
      sent += static_cast<size_t>(more);
    }
    return static_cast<ssize_t>(size);
  }
  void get_remote_ip_and_port(std::string&, int& port) const override { port = 0; }
  void get_local_ip_and_port(std::string&, int& port) const override { port = 0; }
  socket_t socket() const override { return fd_; }

 private:
  bool Await(short events) const {
    const auto left = std::chrono::ceil<milliseconds>(until_ - steady_clock::now());
    if (left <= milliseconds(0)) return false;
    pollfd waited{fd_, events, 0};
    return poll(&waited, 1, static_cast<int>(left.count())) == 1;
  }

  const int fd_;
  steady_clock::time_point until_ = steady_clock::now() + kRequestMax;
  bool is_answer_ = false;
  char buffer_[4'096];
  size_t read_ = 0;
  size_t buffered_ = 0;
  size_t received_ = 0;
};

// The library's requests and answers, over connections of ours: its own loop has a backlog of 5 and
// ends for good at the first connection that it cannot accept.
class Http final : public httplib::Server {
 public:
  Http() {
    set_payload_max_length(kRequestBodyBytesMax);
    Get("/metrics", [](const httplib::Request&, httplib::Response& response) {
      response.set_content(MetricsText(), kContentType);
    });
  }
  // One request a connection, so that a scraper's idle connections never hold all the threads.
  void Serve(int fd) {
    Exchange exchange(fd);
    bool closed = false;
    process_request(exchange, /*close_connection=*/true, closed, nullptr);
  }
};

}  // namespace

struct MetricsServer::Impl {
  Http http;
  std::atomic<bool> ending{false};
  BlockingCalls scrapes{kThreads, kWaitingMax};
  std::unique_ptr<Acceptor> acceptor;

  ~Impl() {
    acceptor.reset();
    ending.store(true);  // for those who wait for a thread
  }

  void Take(int fd) {
    const bool runs = scrapes.Run([this, fd] {
      if (ending.load()) {
        close(fd);
      } else {
        http.Serve(fd);
      }
    });
    if (!runs) close(fd);
  }
};

MetricsServer::MetricsServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
MetricsServer::~MetricsServer() = default;
int MetricsServer::port() const { return impl_->acceptor->port(); }

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& address) {
  absl::StatusOr<std::vector<Listener>> listeners = Listen(address);
  if (!listeners.ok()) return listeners.status();
  auto impl = std::make_unique<Impl>();
  Acceptor::Options options;
  options.name = "metrics";
  options.take = [impl = impl.get()](int fd) { impl->Take(fd); };
  absl::StatusOr<std::unique_ptr<Acceptor>> acceptor =
      Acceptor::Start(*std::move(listeners), std::move(options));
  if (!acceptor.ok()) return acceptor.status();
  impl->acceptor = *std::move(acceptor);
  return absl::WrapUnique(new MetricsServer(std::move(impl)));
}

}  // namespace allezon::rpc
