// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/load/plain_http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>

namespace allezon::load {
namespace {

std::string Decode(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size()) {
      out += static_cast<char>(std::stoi(text.substr(i + 1, 2), nullptr, 16));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

// Of the head without its blank line.
PlainRequest ParseHead(const std::string& head) {
  PlainRequest request;
  std::istringstream lines(head);
  std::string target, version, line;
  lines >> request.method >> target >> version;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    if (line.ends_with('\r')) line.pop_back();
    const size_t colon = line.find(": ");
    std::string name = line.substr(0, colon);
    std::transform(name.begin(), name.end(), name.begin(), ::tolower);
    request.headers[name] = line.substr(colon + 2);
  }
  const size_t question = target.find('?');
  request.path = Decode(target.substr(0, question));
  if (question == std::string::npos) return request;
  std::string query = target.substr(question + 1);
  std::replace(query.begin(), query.end(), '?', '&');
  std::istringstream pairs(query);
  for (std::string pair; std::getline(pairs, pair, '&');) {
    const size_t equals = pair.find('=');
    request.params.emplace_back(Decode(pair.substr(0, equals)), Decode(pair.substr(equals + 1)));
  }
  return request;
}

void SendAll(int fd, const std::string& text) {
  for (size_t sent = 0; sent < text.size();) {
    const ssize_t n = send(fd, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return;
    sent += static_cast<size_t>(n);
  }
}

}  // namespace

std::optional<std::string> PlainRequest::Param(const std::string& name) const {
  for (const auto& [key, value] : params) {
    if (key == name) return value;
  }
  return std::nullopt;
}

std::string PlainRequest::Header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

PlainHttpServer::PlainHttpServer(std::function<PlainResponse(const PlainRequest&)> handle)
    : handle_(std::move(handle)), listen_fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* plain = reinterpret_cast<sockaddr*>(&address);
  socklen_t bytes = sizeof(address);
  if (bind(listen_fd_, plain, bytes) != 0 || listen(listen_fd_, 1024) != 0 ||
      getsockname(listen_fd_, plain, &bytes) != 0) {
    std::abort();
  }
  port_ = ntohs(address.sin_port);
  acceptor_ = std::jthread([this] { Accept(); });
}

PlainHttpServer::~PlainHttpServer() {
  std::list<std::jthread> threads;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    shutdown(listen_fd_, SHUT_RDWR);
    for (const int fd : fds_) shutdown(fd, SHUT_RDWR);
    threads.swap(threads_);
  }
  acceptor_.join();
  threads.clear();  // joins
  absl::MutexLock lock(&mutex_);
  for (const int fd : fds_) close(fd);
  close(listen_fd_);
}

void PlainHttpServer::Accept() {
  while (true) {
    const int fd = accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC);
    absl::MutexLock lock(&mutex_);
    if (stopping_ || fd < 0) {
      if (fd >= 0) close(fd);
      return;
    }
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    fds_.push_back(fd);
    threads_.emplace_back([this, fd] { Serve(fd); });
  }
}

void PlainHttpServer::Serve(int fd) {
  std::string in;
  char buffer[64 << 10];
  while (true) {
    size_t end;
    while ((end = in.find("\r\n\r\n")) == std::string::npos) {
      const ssize_t got = recv(fd, buffer, sizeof(buffer), 0);
      if (got <= 0) return;
      in.append(buffer, static_cast<size_t>(got));
    }
    PlainRequest request = ParseHead(in.substr(0, end + 2));
    const size_t length = std::strtoul(request.Header("content-length").c_str(), nullptr, 10);
    while (in.size() < end + 4 + length) {
      const ssize_t got = recv(fd, buffer, sizeof(buffer), 0);
      if (got <= 0) return;
      in.append(buffer, static_cast<size_t>(got));
    }
    request.body = in.substr(end + 4, length);
    in.erase(0, end + 4 + length);

    const PlainResponse response = handle_(request);
    std::string out = "HTTP/1.1 " + std::to_string(response.status) + " X\r\n";
    if (response.close) out += "Connection: close\r\n";
    if (response.status != 204) {
      out += "Content-Length: " + std::to_string(response.body.size()) + "\r\n";
    }
    out += "\r\n" + response.body;
    if (response.unanswered) out.resize(10);
    SendAll(fd, out);
    if (response.close || response.unanswered) {
      shutdown(fd, SHUT_RDWR);
      return;
    }
  }
}

}  // namespace allezon::load
