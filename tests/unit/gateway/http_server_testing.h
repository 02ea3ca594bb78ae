// SPDX-License-Identifier: Apache-2.0
//
// The server over real sockets, on services that are not there.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "gateway/http_server.h"
#include "tests/unit/gateway/testing.h"

namespace allezon::gateway {

inline constexpr int kPatienceMs = 20'000;

class Client {
 public:
  explicit Client(int port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~Client() { close(fd_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  bool connected() const { return connected_; }
  // False where the connection is broken.
  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  void EndSending() { shutdown(fd_, SHUT_WR); }

  // One response, by its Content-Length; empty where the server has closed.
  std::string Receive() {
    for (;;) {
      if (const size_t end = buffer_.find("\r\n\r\n"); end != std::string::npos) {
        size_t body = 0;
        if (const size_t at = buffer_.find("Content-Length: "); at < end) {
          body = std::stoul(buffer_.substr(at + 16));
        }
        if (buffer_.size() >= end + 4 + body) {
          const std::string response = buffer_.substr(0, end + 4 + body);
          buffer_.erase(0, response.size());
          return response;
        }
      }
      if (!ReceiveMore()) return "";
    }
  }
  // Whether the server closes, with nothing more to say.
  bool Closed() { return buffer_.empty() && !ReceiveMore() && !timed_out_; }
  // Whether it has said something, or closed, that was not received yet.
  bool HasNews() const {
    pollfd looked{fd_, POLLIN, 0};
    return poll(&looked, 1, 0) == 1;
  }

  std::string Call(std::string_view request) {
    Send(request);
    return Receive();
  }

 private:
  bool ReceiveMore() {
    pollfd waited{fd_, POLLIN, 0};
    timed_out_ = poll(&waited, 1, kPatienceMs) == 0;
    if (timed_out_) return false;
    char bytes[65536];
    const ssize_t received = recv(fd_, bytes, sizeof bytes, 0);
    if (received <= 0) return false;
    buffer_.append(bytes, static_cast<size_t>(received));
    return true;
  }

  const int fd_;
  bool connected_ = false;
  bool timed_out_ = false;
  std::string buffer_;
};

inline std::string PostTag(std::string_view body, std::string_view headers = "") {
  return absl::StrCat("POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Length: ", body.size(),
                      "\r\n", std::string(headers), "\r\n", std::string(body));
}

class HttpServerTest : public ::testing::Test {
 protected:
  void Start(HttpServerOptions options = {}) {
    options.listen = "127.0.0.1:0";
    auto server = HttpServer::Start(api_, options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  int port() const { return server_->port(); }
  // One request on a connection of its own.
  std::string Call(std::string_view request) { return Client(port()).Call(request); }

  FakeServices services_;
  Api api_{services_.backends(), {}};
  std::unique_ptr<HttpServer> server_;
};

}  // namespace allezon::gateway
