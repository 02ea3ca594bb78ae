// SPDX-License-Identifier: Apache-2.0
//
// One HTTP exchange: a checked head goes in, the bytes of a whole response come out. Thread-safe.
//
// cpp-httplib does the exchange (methods, HEAD, keep-alive, exceptions, the form of a response), on
// streams of ours instead of its sockets: it ties a thread to a connection that it polls 100 times
// a second, listens with a backlog of 5, cannot bound the time of a request, and sends a response
// in two pieces.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "gateway/http_head.h"
#include "gateway/problem.h"

namespace allezon::gateway {

// What an exchange ends with.
struct Answer {
  Response response;
  bool close = false;   // whether the connection ends with it
  bool unread = false;  // and whether the client may still be sending
};
using Respond = std::function<Answer()>;

class HttpEngine {
 public:
  HttpEngine();
  ~HttpEngine();

  // Asks `respond` for the answer to the request that `head` begins. Sets `answer` to it (with
  // close set where the connection cannot be used again) and returns the bytes to be sent.
  std::string Run(const Head& head, const Respond& respond, Answer& answer);

 private:
  class Library;
  const std::unique_ptr<Library> library_;
  std::string no_content_;  // what the library makes of a plain 204, which is always the same
};

}  // namespace allezon::gateway
