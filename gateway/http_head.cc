// SPDX-License-Identifier: Apache-2.0
#include "gateway/http_head.h"

#include <algorithm>
#include <charconv>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace allezon::gateway {
namespace {

Problem Bad(std::string detail) { return {.status = 400, .detail = std::move(detail)}; }

bool EqualsIgnoreCase(std::string_view a, std::string_view b) {
  return absl::EqualsIgnoreCase(absl::string_view(a.data(), a.size()),
                                absl::string_view(b.data(), b.size()));
}

bool IsTokenChar(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
         (c != '\0' && std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos);
}

bool IsToken(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), IsTokenChar);
}

std::string_view Trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// Calls `visit` with each member of a comma-separated list.
template <typename Visit>
void ForEachMember(std::string_view list, const Visit& visit) {
  while (!list.empty()) {
    const size_t end = std::min(list.find(','), list.size());
    if (const std::string_view member = Trimmed(list.substr(0, end)); !member.empty()) {
      visit(member);
    }
    list.remove_prefix(std::min(end + 1, list.size()));
  }
}

// A minor version is understood as the highest one that is known (RFC 9110, 2.5).
std::optional<Problem> ReadVersion(std::string_view version, Head& head) {
  const auto is_digit = [](char c) { return absl::ascii_isdigit(static_cast<unsigned char>(c)); };
  if (!version.starts_with("HTTP/") || version.size() != 8 || !is_digit(version[5]) ||
      version[6] != '.' || !is_digit(version[7])) {
    return Bad("the request line is malformed");
  }
  if (version[5] != '1') {
    return Problem{.status = 505, .detail = "only HTTP/1.1 and HTTP/1.0 are spoken here"};
  }
  head.http_1_0 = version[7] == '0';
  head.keep_alive = !head.http_1_0;
  return std::nullopt;
}

// RFC 3986's host and port, as far as anybody could mean one.
bool IsHost(std::string_view value) {
  return std::all_of(value.begin(), value.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
           (c != '\0' && std::string_view("-._~!$&'()*+;=:[]%").find(c) != std::string_view::npos);
  });
}

std::optional<Problem> ParseRequestLine(std::string_view line, Head& head) {
  const size_t first = line.find(' '), last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) return Bad("the request line is malformed");
  const std::string_view method = line.substr(0, first);
  const std::string_view target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (!IsToken(method) || target.empty() || target.find(' ') != std::string_view::npos) {
    return Bad("the request line is malformed");
  }
  if (target.size() > kTargetBytesMax) {
    return Problem{.status = 414, .detail = "the target is too long"};
  }
  // Bytes beyond ASCII should have been escaped, but what they mean is clear.
  for (const char c : target) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte <= ' ' || byte == 0x7f) return Bad("the target has a control character");
  }
  if (auto problem = ReadVersion(version, head)) return problem;
  head.method = method;
  head.target = target;
  return std::nullopt;
}

std::optional<Problem> ReadContentLength(std::string_view value, Head& head) {
  uint64_t length = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), length);
  const bool digits = !value.empty() && absl::ascii_isdigit(static_cast<unsigned char>(value[0])) &&
                      end == value.data() + value.size();
  if (!digits || error == std::errc::invalid_argument) return Bad("Content-Length is no number");
  if (error != std::errc()) length = UINT64_MAX;  // too large for any limit
  if (head.content_length && *head.content_length != length) {
    return Bad("Content-Length is given twice");
  }
  head.content_length = length;
  return std::nullopt;
}

std::optional<Problem> ReadHeader(std::string_view name, std::string_view value, Head& head,
                                  size_t& hosts) {
  if (EqualsIgnoreCase(name, "Host")) {
    ++hosts;
    if (!IsHost(value)) return Bad("Host is no host");
  } else if (EqualsIgnoreCase(name, "Content-Length")) {
    return ReadContentLength(value, head);
  } else if (EqualsIgnoreCase(name, "Transfer-Encoding")) {
    if (!EqualsIgnoreCase(value, "chunked") || head.chunked) {
      return Bad("the only Transfer-Encoding that is understood is chunked");
    }
    head.chunked = true;
  } else if (EqualsIgnoreCase(name, "Connection")) {
    ForEachMember(value, [&](std::string_view member) {
      if (EqualsIgnoreCase(member, "close")) head.keep_alive = false;
      if (EqualsIgnoreCase(member, "keep-alive") && head.http_1_0) head.keep_alive = true;
    });
  } else if (EqualsIgnoreCase(name, "Expect")) {
    ForEachMember(value, [&](std::string_view member) {
      const bool is_known = EqualsIgnoreCase(member, "100-continue");
      (is_known ? head.expects_continue : head.expects_other) = true;
    });
  } else if (EqualsIgnoreCase(name, "Content-Type")) {
    head.content_type = value;
  } else if (EqualsIgnoreCase(name, "Content-Encoding")) {
    head.content_encoding = absl::AsciiStrToLower(absl::string_view(value.data(), value.size()));
    if (head.content_encoding == "identity") head.content_encoding.clear();
  } else if (EqualsIgnoreCase(name, "Idempotency-Key")) {
    head.idempotency_keys.emplace_back(value);
  }
  return std::nullopt;
}

}  // namespace

bool IsHeaderLine(std::string_view line) {
  const size_t colon = line.find(':');
  // A name with white space, or a line that begins with it, is how requests are smuggled.
  return colon != std::string_view::npos && IsToken(line.substr(0, colon)) &&
         line.find_first_of(std::string_view("\0\r\n", 3)) == std::string_view::npos;
}

std::optional<Problem> ParseHead(std::string_view text, Head& head) {
  bool first = true;
  size_t hosts = 0;
  for (size_t headers = 0;; ++headers) {
    const size_t end = text.find("\r\n");
    if (end == std::string_view::npos) return Bad("a line of the head does not end in CR LF");
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end + 2);
    if (first) {
      if (auto problem = ParseRequestLine(line, head)) return problem;
      first = false;
      continue;
    }
    if (line.empty()) break;
    if (headers > kHeadersMax) return Problem{.status = 431, .detail = "too many headers"};
    if (!IsHeaderLine(line)) return Bad("a line of the head is no header");
    const size_t colon = line.find(':');
    const std::string_view value = Trimmed(line.substr(colon + 1));
    if (auto problem = ReadHeader(line.substr(0, colon), value, head, hosts)) return problem;
  }
  if (!text.empty()) return Bad("a line of the head is no header");
  if (head.chunked && head.content_length) {
    return Bad("Content-Length and Transfer-Encoding are both given");
  }
  if (head.chunked && head.http_1_0) return Bad("HTTP/1.0 has no Transfer-Encoding");
  if (hosts > 1) return Bad("Host is given twice");
  if (hosts == 0 && !head.http_1_0) return Bad("Host is missing");
  return std::nullopt;
}

}  // namespace allezon::gateway
