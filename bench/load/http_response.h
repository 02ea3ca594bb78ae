// SPDX-License-Identifier: Apache-2.0
//
// An incremental reader of HTTP/1.1 responses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace allezon::load {

struct Response {
  int status = 0;
  bool close = false;         // the server will close the connection
  int64_t keep_alive_s = -1;  // Keep-Alive: timeout=…; -1: not given
  std::string body;
};

// Reads one response after the other, however the bytes are cut. Not thread-safe.
class ResponseReader {
 public:
  enum class Progress { kMore, kDone, kBroken };
  static constexpr size_t kHeadBytesMax = 64 << 10;
  static constexpr size_t kBodyBytesMax = 64 << 20;

  // After kDone, response() is whole, and what follows in the same bytes counts in extra_bytes().
  // After kBroken, error() says why. Call Reset before the next response.
  Progress Feed(std::string_view bytes);
  // The server has closed the connection.
  Progress FeedEnd();
  void Reset();

  const Response& response() const { return response_; }
  const std::string& error() const { return error_; }
  bool started() const { return started_; }  // has any byte come
  size_t extra_bytes() const { return extra_bytes_; }

 private:
  enum class State {
    kHead,
    kLength,
    kUntilEnd,
    kChunkSize,
    kChunkData,
    kChunkEnd,
    kTrailer,
    kDone
  };

  Progress Broken(std::string_view why);
  Progress ParseHead(std::string_view head);
  Progress ParseHeader(std::string_view line);
  Progress BeginBody();
  Progress TakeLine(std::string_view* bytes, bool* whole);
  Progress FeedChunked(std::string_view bytes);

  State state_ = State::kHead;
  bool started_ = false;
  bool chunked_ = false;
  bool has_length_ = false;
  uint64_t left_ = 0;  // bytes of the body, or of the chunk, still to come
  size_t extra_bytes_ = 0;
  std::string head_;  // of the response, or the line of a chunk's size
  std::string error_;
  Response response_;
};

}  // namespace allezon::load
