// SPDX-License-Identifier: Apache-2.0
//
// One client's socket: bytes in and out, each step with a deadline, and nothing read without a
// bound. Used by one thread at a time, but for Write, which another one may call instead.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>

#include "gateway/http_head.h"
#include "rpc/memory.h"

namespace allezon::gateway {

using SteadyTime = std::chrono::steady_clock::time_point;

enum class Io {
  kOk,
  kClosed,     // the peer has closed, or the connection broke
  kTimeout,    // the deadline has passed
  kTooLarge,   // a bound was met
  kMalformed,  // the framing is broken
  kNoMemory,   // the budget of all bodies is spent
};

// A body, and its share of the budget of large ones, which it gives back.
class Body {
 public:
  explicit Body(rpc::ByteBudget& budget) : budget_(budget) {}
  ~Body() { GiveBack(); }
  Body(const Body&) = delete;
  Body& operator=(const Body&) = delete;

  // Empties it. Idempotent.
  void GiveBack();

  // Readable for kJsonPaddingBytes past its end.
  std::string_view text() const { return {bytes_.data(), size_}; }

 private:
  friend class Connection;
  // Makes room for `more` bytes behind text(); false where the budget does not allow it.
  bool Grow(size_t more);

  rpc::ByteBudget& budget_;
  std::string bytes_;
  size_t size_ = 0;
  size_t taken_ = 0;
};

class Connection {
 public:
  // Takes the descriptor of a connected, non-blocking socket; closes it in the end.
  explicit Connection(int fd) : fd_(fd) {}
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Waits for the first byte of a request.
  Io WaitForRequest(SteadyTime deadline);
  // Reads the head of a request, its blank line included. Empty lines before it are skipped.
  Io ReadHead(SteadyTime deadline, std::string& head);
  // Reads the body that `head` announces, of at most `bytes_max`. Tells a client that waits for it
  // to go on. Whatever is returned but kOk, where the next request begins is not known.
  Io ReadBody(const Head& head, size_t bytes_max, SteadyTime deadline, Body& body);
  // Writes all of both, one after the other.
  Io Write(std::string_view head, std::string_view body, SteadyTime deadline);
  // Ends the connection so that an answer reaches a client that is still sending: reads and drops
  // for a moment, since closing with unread bytes would destroy the answer.
  void Linger();
  // The same in steps, for who has no time to wait.
  void EndSending();
  // Drops a part of what has arrived; false where the peer has ended the connection.
  bool DropArrived();

 private:
  // Reads what there is into the buffer, after waiting for it.
  Io Fill(SteadyTime deadline);
  // Reads into `to`, after waiting.
  Io Receive(char* to, size_t bytes_max, SteadyTime deadline, size_t& bytes);
  Io Await(short events, SteadyTime deadline);
  // Takes a line off the buffer, without its CR LF.
  Io ReadLine(size_t bytes_max, SteadyTime deadline, std::string& line);
  Io ReadBytes(size_t bytes, SteadyTime deadline, Body& body);
  Io ReadChunks(size_t bytes_max, SteadyTime deadline, Body& body);
  std::string_view Buffered() const { return std::string_view(buffer_).substr(used_); }
  void Use(size_t bytes);

  const int fd_;
  std::string buffer_;  // what was received; the first used_ bytes are done with
  size_t used_ = 0;
};

}  // namespace allezon::gateway
