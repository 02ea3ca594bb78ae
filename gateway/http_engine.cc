// SPDX-License-Identifier: Apache-2.0
#include "gateway/http_engine.h"

#include <httplib.h>
#include <time.h>

#include <algorithm>
#include <cstring>
#include <string_view>

namespace allezon::gateway {
namespace {

// The exchange that this thread is at; the library's handlers are given no context of ours.
struct Exchange {
  const Head& head;
  Answer& answer;
};
thread_local Exchange* current = nullptr;

// Gives the library a head, and takes the response.
class MemoryStream final : public httplib::Stream {
 public:
  explicit MemoryStream(std::string in) : in_(std::move(in)) {}

  bool is_readable() const override { return true; }
  bool is_writable() const override { return true; }
  ssize_t read(char* to, size_t size) override {
    const size_t bytes = std::min(size, in_.size() - read_);
    std::memcpy(to, in_.data() + read_, bytes);
    read_ += bytes;
    return static_cast<ssize_t>(bytes);
  }
  ssize_t write(const char* from, size_t size) override {
    out_.append(from, size);
    return static_cast<ssize_t>(size);
  }
  void get_remote_ip_and_port(std::string&, int& port) const override { port = 0; }
  void get_local_ip_and_port(std::string&, int& port) const override { port = 0; }
  // The library refuses descriptors from FD_SETSIZE on; there is none behind this stream.
  socket_t socket() const override { return 0; }

  std::string TakeOutput() { return std::move(out_); }

 private:
  const std::string in_;
  size_t read_ = 0;
  std::string out_;
};

// The head as the library needs it: routes, lengths and all other headers are ours to read. A
// method that it does not know it would answer with 400.
std::string LibraryHead(const Head& head) {
  static constexpr std::string_view kKnown[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"};
  const bool known =
      std::find(std::begin(kKnown), std::end(kKnown), head.method) != std::end(kKnown);
  std::string text = known ? head.method : "OPTIONS";
  text.append(" / HTTP/1.1\r\n");
  if (!head.keep_alive) text.append("Connection: close\r\n");
  text.append("\r\n");
  return text;
}

}  // namespace

class HttpEngine::Library final : public httplib::Server {
 public:
  Library() {
    set_pre_routing_handler([](const httplib::Request&, httplib::Response& out) {
      Response& response = current->answer.response;
      out.status = response.status;
      for (const auto& [name, value] : response.headers) out.set_header(name, value);
      if (!response.content_type.empty()) out.set_header("Content-Type", response.content_type);
      out.body = std::move(response.body);
      return HandlerResponse::Handled;
    });
    set_post_routing_handler([](const httplib::Request&, httplib::Response& out) {
      // What the library says of its own keep-alive and ranges is not true of ours.
      out.headers.erase("Keep-Alive");
      out.headers.erase("Connection");
      out.headers.erase("Accept-Ranges");
      if (current->answer.close) {
        out.set_header("Connection", "close");
      } else if (current->head.http_1_0) {
        out.set_header("Connection", "keep-alive");
      }
      if (out.status == 204) out.headers.erase("Content-Length");
      // Its length is known, and nobody has to copy it.
      current->answer.response.body = std::move(out.body);
      out.body.clear();
    });
  }

  std::string FormHead(const Head& head, Answer& answer) {
    Exchange exchange{head, answer};
    current = &exchange;
    MemoryStream stream(LibraryHead(head));
    bool closed = false;
    const bool close = !head.keep_alive;
    process_request(stream, close, closed, nullptr);
    current = nullptr;
    if (head.method == "HEAD") answer.response.body.clear();
    return stream.TakeOutput();
  }
};

namespace {

// The header that tells the time, made once a second by each thread that answers.
std::string_view DateLine() {
  thread_local time_t made_at = -1;
  thread_local char line[64];
  thread_local size_t size = 0;
  timespec now{};
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  if (now.tv_sec != made_at) {
    tm parts{};
    gmtime_r(&now.tv_sec, &parts);
    size = strftime(line, sizeof line, "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &parts);
    made_at = now.tv_sec;
  }
  return {line, size};
}

// Behind the first line.
std::string WithDate(std::string_view head) {
  const size_t end = head.find("\r\n") + 2;
  const std::string_view date = DateLine();
  std::string dated;
  dated.reserve(head.size() + date.size());
  return dated.append(head.substr(0, end)).append(date).append(head.substr(end));
}

// Whether nothing of the request shows in the answer: what is said to nearly every tag.
bool IsPlainNoContent(const Head& head, const Answer& answer) {
  return answer.response.status == 204 && answer.response.headers.empty() && !answer.close &&
         head.keep_alive && !head.http_1_0 && head.method != "HEAD";
}

}  // namespace

HttpEngine::HttpEngine() : library_(std::make_unique<Library>()) {
  Head head;
  head.method = "POST";
  head.keep_alive = true;
  Answer answer;
  answer.response.status = 204;
  no_content_ = library_->FormHead(head, answer);
}
HttpEngine::~HttpEngine() = default;

std::string HttpEngine::FormHead(const Head& head, Answer& answer) const {
  if (IsPlainNoContent(head, answer)) return WithDate(no_content_);
  return WithDate(library_->FormHead(head, answer));
}

}  // namespace allezon::gateway
