// SPDX-License-Identifier: Apache-2.0
//
// The form of a response: a checked head and an answer go in, the bytes before the body come out.
// Thread-safe.
//
// cpp-httplib does it (methods, HEAD, keep-alive, the form of a response), on
// streams of ours instead of its sockets: it ties a thread to a connection that it polls 100 times
// a second, listens with a backlog of 5, cannot bound the time of a request, and sends a response
// in two calls.
#pragma once

#include <memory>
#include <string>

#include "gateway/http_head.h"
#include "gateway/problem.h"

namespace allezon::gateway {

// What an exchange ends with.
struct Answer {
  Response response;
  bool close = false;  // whether the connection ends with it
};

class HttpEngine {
 public:
  HttpEngine();
  ~HttpEngine();

  // What goes before the body of the answer to the request that `head` begins; the body stays where
  // it is, and is taken away where none is to be sent.
  std::string FormHead(const Head& head, Answer& answer) const;

 private:
  class Library;
  const std::unique_ptr<Library> library_;
  std::string no_content_;  // what the library makes of a plain 204, which is always the same
};

}  // namespace allezon::gateway
