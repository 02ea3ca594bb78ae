// SPDX-License-Identifier: Apache-2.0
//
// The head of an HTTP/1.1 request, read strictly and as it came over the wire. The HTTP library's
// own reading will not do: it decodes percent escapes in header values, drops empty headers and
// lines that are no header, refuses a target with two '?', and takes any text for a length. Pure
// functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/problem.h"

namespace allezon::gateway {

inline constexpr size_t kTargetBytesMax = 8 << 10;
inline constexpr size_t kHeadBytesMax = 32 << 10;
inline constexpr size_t kHeadersMax = 100;

struct Head {
  std::string method;
  std::string target;
  bool keep_alive = true;
  bool http_1_0 = false;
  bool expects_continue = false;
  bool expects_other = false;              // something that nobody here knows
  std::optional<uint64_t> content_length;  // at most one of these two
  bool chunked = false;
  std::string content_type;
  std::string content_encoding;  // lower case; empty: none
  std::vector<std::string> idempotency_keys;

  bool has_body() const { return chunked || content_length.value_or(0) > 0; }
};

// A name, a colon, and a value without control characters that end lines.
bool IsHeaderLine(std::string_view line);

// Reads a head up to and with its blank line. On a problem (400, 414, 431, 505) the connection is
// of no further use, as it is not known where the next request begins.
std::optional<Problem> ParseHead(std::string_view text, Head& head);

}  // namespace allezon::gateway
