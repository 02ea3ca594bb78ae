// SPDX-License-Identifier: Apache-2.0
#include "gateway/api.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gateway/debug_compare.h"
#include "gateway/json_text.h"
#include "gateway/stored_tag_json.h"
#include "gateway/tag_json.h"
#include "gateway/time_text.h"
#include "rpc/log.h"
#include "rpc/metrics.h"

namespace allezon::gateway {
namespace {

constexpr std::string_view kProfilePrefix = "/user_profiles/";
constexpr size_t kTagJsonBytes = 320;  // about what a tag takes; only to reserve
// What a JSON text takes beside itself while it is parsed: simdjson's tape, strings and indexes.
constexpr size_t kParsedCopies = 14;
constexpr int64_t kMismatchLogIntervalSeconds = 1;

// A path means the same whichever of its characters are escaped, but for an escaped '/', which is
// none. The cookie is decoded by who reads it.
std::string WithoutEscapes(std::string_view path) {
  const size_t end = path.starts_with('/') ? std::min(path.find('/', 1), path.size()) : 0;
  const absl::StatusOr<std::string> first = PercentDecode(path.substr(0, end), false);
  if (!first.ok() || first->find('/', 1) != std::string::npos) return std::string(path);
  return absl::StrCat(*first, absl::string_view(path.data() + end, path.size() - end));
}

// Of a path without escapes in its first part.
Route RouteOfDecoded(std::string_view path, std::string_view& cookie) {
  if (path == "/user_tags") return Route::kUserTags;
  if (path == "/aggregates") return Route::kAggregates;
  if (path == "/healthz") return Route::kHealthz;
  if (path == "/readyz") return Route::kReadyz;
  if (path == "/metrics") return Route::kMetrics;
  if (path.starts_with(kProfilePrefix)) {
    cookie = path.substr(kProfilePrefix.size());
    // The path is taken apart before it is decoded: %2F belongs to the cookie, / does not.
    if (!cookie.empty() && cookie.find('/') == std::string_view::npos) return Route::kUserProfiles;
  }
  return Route::kUnknown;
}

// `cookie` borrows from the path.
Route RouteOf(std::string_view path, std::string_view& cookie) {
  if (path.find('%') >= path.find('/', 1)) return RouteOfDecoded(path, cookie);
  const std::string decoded = WithoutEscapes(path);
  std::string_view of_decoded;
  const Route route = RouteOfDecoded(decoded, of_decoded);
  if (route == Route::kUserProfiles) cookie = path.substr(path.size() - of_decoded.size());
  return route;
}

std::string_view AllowOf(Route route) {
  switch (route) {
    case Route::kUserTags:
      return "POST, OPTIONS";
    case Route::kUserProfiles:
    case Route::kAggregates:
      return "GET, HEAD, POST, OPTIONS";
    default:
      return "GET, HEAD, OPTIONS";
  }
}

bool Allowed(Route route, std::string_view method) {
  const bool get = method == "GET" || method == "HEAD", post = method == "POST";
  switch (route) {
    case Route::kUserTags:
      return post;
    case Route::kUserProfiles:
    case Route::kAggregates:
      return get || post;
    default:
      return get;
  }
}

bool IsNdjson(std::string_view content_type) {
  const std::string_view media = content_type.substr(0, content_type.find(';'));
  const absl::string_view trimmed =
      absl::StripAsciiWhitespace(absl::string_view(media.data(), media.size()));
  return absl::EqualsIgnoreCase(trimmed, "application/x-ndjson");
}

bool IsBlank(std::string_view body) {
  return body.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

Response Json(std::string body) { return {200, "application/json", std::move(body), {}}; }

// Appends the tags as a JSON list; false where one of them cannot be read.
bool AppendTags(const std::vector<std::string_view>& tags, std::string& out) {
  out.push_back('[');
  for (size_t i = 0; i < tags.size(); ++i) {
    if (i > 0) out.push_back(',');
    if (!AppendTagJson(tags[i], out)) return false;
  }
  out.push_back(']');
  return true;
}

// Columns of an answer that hold the value of a filter.
using Filters = std::vector<std::pair<std::string_view, std::string>>;

Filters FiltersOf(const router::AggregateQuery& query) {
  Filters filters;
  if (query.origin) filters.emplace_back("origin", *query.origin);
  if (query.brand_id) filters.emplace_back("brand_id", *query.brand_id);
  if (query.category_id) filters.emplace_back("category_id", *query.category_id);
  return filters;
}

std::string AggregatesJson(const AggregateRequest& request,
                           const std::vector<router::AggregateBucket>& buckets) {
  const Filters filters = FiltersOf(request.query);
  std::string out = "{\"columns\":[\"1m_bucket\",\"action\"";
  for (const auto& [name, value] : filters) out.append(",\"").append(name).append("\"");
  for (const Aggregate a : request.aggregates) {
    out.append(a == Aggregate::kCount ? ",\"count\"" : ",\"sum_price\"");
  }
  out.append("],\"rows\":[");
  for (size_t i = 0; i < buckets.size(); ++i) {
    out.append(i > 0 ? ",[\"" : "[\"");
    AppendMinute(buckets[i].minute, out);
    out.append("\",\"").append(ActionText(request.query.action)).append("\"");
    for (const auto& [name, value] : filters) {
      out.push_back(',');
      AppendJsonString(value, out);
    }
    for (const Aggregate a : request.aggregates) {
      absl::StrAppend(&out, ",\"", a == Aggregate::kCount ? buckets[i].count : buckets[i].sum_price,
                      "\"");
    }
    out.push_back(']');
  }
  out.append("]}");
  return out;
}

}  // namespace

std::string_view NameOf(Route route) {
  switch (route) {
    case Route::kUserTags:
      return "user_tags";
    case Route::kUserProfiles:
      return "user_profiles";
    case Route::kAggregates:
      return "aggregates";
    case Route::kHealthz:
      return "healthz";
    case Route::kReadyz:
      return "readyz";
    case Route::kMetrics:
      return "metrics";
    case Route::kUnknown:
      break;
  }
  return "unknown";
}

Api::Api(const Backends& backends, ApiOptions options)
    : backends_(backends),
      options_(std::move(options)),
      intake_(backends.profile_writer, backends.aggregate_writer, options_.intake),
      debug_matches_(rpc::MakeCounter("allezon_debug_matches_total",
                                      "Query bodies that were equal to the answer.")),
      debug_mismatches_(rpc::MakeCounter("allezon_debug_mismatches_total",
                                         "Query bodies that were not equal to the answer.")),
      debug_skipped_(rpc::MakeCounter("allezon_debug_skipped_total",
                                      "Query bodies that were too large to be compared.")) {}

Plan Api::PlanOf(std::string_view method, std::string_view target, std::string_view content_type) {
  const Target parts = SplitTarget(target);
  Plan plan;
  plan.query = parts.query;
  plan.route = RouteOf(parts.path, plan.cookie);
  if (plan.route == Route::kUnknown) {
    plan.answer = ToResponse({.status = 404, .detail = "there is no such path"});
    return plan;
  }
  if (!Allowed(plan.route, method)) {
    const std::string_view allow = AllowOf(plan.route);
    if (method == "OPTIONS") {
      plan.answer = Response{.status = 204};
    } else {
      std::string detail("this path takes ");
      plan.answer = ToResponse({.status = 405, .detail = detail.append(allow)});
    }
    plan.answer->headers.emplace_back("Allow", allow);
    return plan;
  }
  plan.batch = plan.route == Route::kUserTags && IsNdjson(content_type);
  if (plan.batch || plan.route == Route::kUserProfiles || plan.route == Route::kAggregates) {
    plan.body_bytes_max = kBatchBytesMax;
  }
  return plan;
}

void Api::Handle(const Plan& plan, const std::vector<std::string>& keys, std::string_view body,
                 Told told) {
  if (plan.answer) return told(*plan.answer);
  switch (plan.route) {
    case Route::kUserTags:
      return UserTags(plan, keys, body, std::move(told));
    case Route::kUserProfiles:
    case Route::kAggregates:
      return told(Query(plan, body));
    case Route::kHealthz:
      return told(Json("{\"status\":\"ok\"}"));
    case Route::kReadyz:
      return told(Readyz());
    case Route::kMetrics:
      return told({200, "text/plain; version=0.0.4; charset=utf-8", rpc::MetricsText(), {}});
    case Route::kUnknown:
      break;
  }
  told(ToResponse({.status = 404, .detail = "there is no such path"}));
}

void Api::UserTags(const Plan& plan, const std::vector<std::string>& keys, std::string_view body,
                   Told told) {
  if (keys.size() > 1) {
    return told(ToResponse(
        {.status = 400, .detail = "Idempotency-Key is given twice", .field = "Idempotency-Key"}));
  }
  if (!keys.empty()) {
    if (absl::Status s = CheckKeyHeader(keys[0]); !s.ok()) return told(ToResponse(ProblemOf(s)));
  }
  const std::string_view key = keys.empty() ? std::string_view() : std::string_view(keys[0]);
  if (plan.batch) return told(intake_.AddBatch(body, key));
  intake_.AddTag(body, key, std::move(told));
}

Response Api::Query(const Plan& plan, std::string_view body) {
  const absl::Cleanup ended = [this] { queries_.fetch_sub(1); };
  if (queries_.fetch_add(1) >= options_.queries_max) {
    return ToResponse(
        {.status = 503,
         .detail = absl::StrCat(options_.queries_max, " queries wait for their answers already"),
         .retry_after_s = 1});
  }
  Response response = plan.route == Route::kUserProfiles ? UserProfiles(plan) : Aggregates(plan);
  if (response.status == 200 && !IsBlank(body)) CompareWithBody(plan, response, body);
  return response;
}

Response Api::UserProfiles(const Plan& plan) {
  absl::StatusOr<router::ProfileQuery> query = ParseProfileQuery(plan.cookie, plan.query);
  if (!query.ok()) return ToResponse(ProblemOf(query.status()));
  absl::StatusOr<router::Profile> profile =
      backends_.profile_reader.Read(*query, absl::Now() + options_.query_timeout);
  if (!profile.ok()) return ToResponse(ProblemOf(profile.status()));
  std::string body;
  body.reserve((profile->views.size() + profile->buys.size() + 1) * kTagJsonBytes);
  body.append("{\"cookie\":");
  AppendJsonString(query->cookie, body);
  body.append(",\"views\":");
  bool readable = AppendTags(profile->views, body);
  body.append(",\"buys\":");
  readable = AppendTags(profile->buys, body) && readable;
  if (!readable) return ToResponse({.status = 500, .detail = "a stored tag cannot be read"});
  body.push_back('}');
  return Json(std::move(body));
}

Response Api::Aggregates(const Plan& plan) {
  absl::StatusOr<AggregateRequest> request = ParseAggregateRequest(plan.query);
  if (!request.ok()) return ToResponse(ProblemOf(request.status()));
  const router::AggregateQuery& query = request->query;
  const auto minutes = static_cast<size_t>(query.to_minute - query.from_minute);
  if (minutes == 0) return Json(AggregatesJson(*request, {}));
  absl::StatusOr<std::vector<router::AggregateBucket>> buckets =
      backends_.aggregate_reader.Query(query, absl::Now() + options_.query_timeout);
  if (!buckets.ok()) return ToResponse(ProblemOf(buckets.status()));
  if (buckets->size() != minutes) {
    return ToResponse({.status = 500, .detail = "the services did not answer for every minute"});
  }
  return Json(AggregatesJson(*request, *buckets));
}

Response Api::Readyz() {
  if (draining_.load()) {
    return ToResponse({.status = 503, .detail = "shutting down", .retry_after_s = 1});
  }
  const absl::Status ready = backends_.check_ready(absl::Now() + options_.ready_timeout);
  if (ready.ok()) return Json("{\"status\":\"ready\"}");
  return ToResponse({.status = 503, .detail = std::string(ready.message()), .retry_after_s = 1});
}

void Api::CompareWithBody(const Plan& plan, const Response& response, std::string_view body) {
  const size_t bytes = kParsedCopies * (body.size() + response.body.size());
  if (bytes > options_.compared_bytes_max) {
    debug_skipped_.Increment();
    return;
  }
  {
    absl::MutexLock lock(&compare_mutex_);
    const auto has_room = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(compare_mutex_) {
      return compared_bytes_ + bytes <= options_.compared_bytes_max;
    };
    // Others do nothing but compare meanwhile.
    compare_mutex_.Await(absl::Condition(&has_room));
    compared_bytes_ += bytes;
  }
  const std::optional<std::string> difference = Difference(body, response.body);
  {
    absl::MutexLock lock(&compare_mutex_);
    compared_bytes_ -= bytes;
  }
  if (!difference) {
    debug_matches_.Increment();
    return;
  }
  debug_mismatches_.Increment();
  const int64_t now_s = absl::ToUnixSeconds(absl::Now());
  int64_t logged_s = mismatch_logged_s_.load(std::memory_order_relaxed);
  if (now_s - logged_s < kMismatchLogIntervalSeconds ||
      !mismatch_logged_s_.compare_exchange_strong(logged_s, now_s)) {
    return;
  }
  rpc::LogWarn("the answer is not the one that the body expects",
               {{"route", NameOf(plan.route)},
                {"cookie", plan.cookie.substr(0, 300)},
                {"query", plan.query.substr(0, 300)},
                {"difference", *difference}});
}

}  // namespace allezon::gateway
