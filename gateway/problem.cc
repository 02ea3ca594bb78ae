// SPDX-License-Identifier: Apache-2.0
#include "gateway/problem.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gateway/json_text.h"
#include "rpc/status.h"

namespace allezon::gateway {
namespace {

constexpr int kRetryAfterDefaultSeconds = 1;

// The kinds of problems; an address that names, and leads nowhere.
std::string_view SlugOf(int status) {
  switch (status) {
    case 400:
      return "malformed";
    case 404:
      return "unknown-path";
    case 405:
      return "wrong-method";
    case 408:
      return "request-timeout";
    case 413:
      return "body-too-large";
    case 414:
      return "target-too-long";
    case 415:
      return "unsupported-encoding";
    case 417:
      return "unknown-expectation";
    case 429:
      return "overloaded";
    case 431:
      return "headers-too-large";
    case 503:
      return "unavailable";
    case 505:
      return "unknown-version";
    case 504:
      return "deadline-passed";
    default:
      return "internal";
  }
}

}  // namespace

std::string_view ReasonOf(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Payload Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Internal Server Error";
  }
}

Response ToResponse(const Problem& problem) {
  Response response;
  response.status = problem.status;
  response.content_type = "application/problem+json";
  std::string& body = response.body;
  const std::string_view slug = SlugOf(problem.status);
  body.append("{\"type\":\"urn:allezon:problem:").append(slug).append("\",\"title\":\"");
  body.append(ReasonOf(problem.status)).append("\",\"status\":");
  absl::StrAppend(&body, problem.status);
  body.append(",\"detail\":");
  AppendJsonText(problem.detail.empty() ? ReasonOf(problem.status) : problem.detail, body);
  if (!problem.field.empty()) {
    body.append(",\"field\":");
    AppendJsonText(problem.field, body);
  }
  for (const auto& [name, value] : problem.members) {
    body.append(",\"").append(name).append("\":").append(value);
  }
  body.push_back('}');
  if (problem.retry_after_s > 0) {
    response.headers.emplace_back("Retry-After", absl::StrCat(problem.retry_after_s));
  }
  return response;
}

Problem ProblemOf(const absl::Status& status) {
  Problem problem;
  problem.field = rpc::FieldOf(status);
  problem.detail = problem.field.empty() ? std::string(status.message())
                                         : absl::StrCat(problem.field, " ", status.message());
  const int64_t delay_s =
      absl::ToInt64Seconds(absl::Ceil(rpc::RetryDelayOf(status), absl::Seconds(1)));
  const int retry_after_s =
      delay_s > 0 ? static_cast<int>(std::min<int64_t>(delay_s, 3600)) : kRetryAfterDefaultSeconds;
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
      problem.status = 400;
      break;
    case absl::StatusCode::kResourceExhausted:
      problem.status = 429;
      problem.retry_after_s = retry_after_s;
      break;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
      problem.status = 503;
      problem.retry_after_s = retry_after_s;
      break;
    case absl::StatusCode::kDeadlineExceeded:
      problem.status = 504;
      break;
    default:
      problem.status = 500;
  }
  return problem;
}

}  // namespace allezon::gateway
