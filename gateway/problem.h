// SPDX-License-Identifier: Apache-2.0
//
// Answers of the API as values, and errors as RFC 9457 problems. Pure functions.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace allezon::gateway {

struct Response {
  int status = 200;
  std::string content_type = {};  // empty where there is no body
  std::string body = {};
  std::vector<std::pair<std::string, std::string>> headers = {};  // besides the body's
};

// "Bad Request" for 400, …
std::string_view ReasonOf(int status);

struct Problem {
  int status = 500;
  std::string detail = {};
  std::string field = {};  // the field or parameter at fault; empty: none
  int retry_after_s = 0;   // 0: no Retry-After
  // More members of the body: a name and its value as JSON.
  std::vector<std::pair<std::string_view, std::string>> members = {};
};

// application/problem+json with type, title, status, detail, and field where there is one.
Response ToResponse(const Problem& problem);

// What an error of the router means to a client: kInvalidArgument and kFailedPrecondition 400,
// kResourceExhausted 429, kUnavailable and kAborted 503 (both with Retry-After), kDeadlineExceeded
// 504, everything else 500.
Problem ProblemOf(const absl::Status& status);

}  // namespace allezon::gateway
