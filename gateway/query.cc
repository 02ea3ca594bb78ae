// SPDX-License-Identifier: Apache-2.0
#include "gateway/query.h"

#include <simdjson.h>

#include <algorithm>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "allezon/v1/tag.pb.h"
#include "gateway/time_text.h"
#include "router/shard.h"
#include "router/tag_rules.h"
#include "rpc/status.h"

namespace allezon::gateway {
namespace {

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// The value of a parameter that may be given once at most.
absl::StatusOr<const std::string*> Single(const Parameters& parameters, std::string_view name) {
  const std::string* found = nullptr;
  for (const auto& [key, value] : parameters) {
    if (key != name) continue;
    if (found != nullptr) return rpc::InvalidField(name, "is given twice");
    found = &value;
  }
  return found;
}

absl::StatusOr<const std::string*> Required(const Parameters& parameters, std::string_view name) {
  absl::StatusOr<const std::string*> value = Single(parameters, name);
  if (value.ok() && *value == nullptr) return rpc::InvalidField(name, "is missing");
  return value;
}

struct TimeRange {
  int64_t from_ms = 0;
  int64_t to_ms = 0;
};

absl::StatusOr<TimeRange> ParseTimeRange(const Parameters& parameters) {
  constexpr std::string_view kField = "time_range";
  absl::StatusOr<const std::string*> value = Required(parameters, kField);
  if (!value.ok()) return value.status();
  const std::string_view text = **value;
  const size_t middle = text.find('_');
  std::optional<int64_t> from, to;
  if (middle != std::string_view::npos) {
    from = ParseQueryTime(text.substr(0, middle));
    to = ParseQueryTime(text.substr(middle + 1));
  }
  if (!from || !to) {
    return rpc::InvalidField(
        kField, "must be <from>_<to>, dates that exist, each as 2022-03-22T12:15:00.000");
  }
  if (*from > *to) return rpc::InvalidField(kField, "ends before it begins");
  return TimeRange{*from, *to};
}

absl::StatusOr<uint32_t> ParseLimit(const Parameters& parameters) {
  constexpr std::string_view kField = "limit";
  absl::StatusOr<const std::string*> value = Single(parameters, kField);
  if (!value.ok()) return value.status();
  if (*value == nullptr) return kLimitMax;
  const std::string& text = **value;
  if (text.empty() || !std::all_of(text.begin(), text.end(), absl::ascii_isdigit)) {
    return rpc::InvalidField(kField, "must be a number, 0 or more");
  }
  uint32_t limit = 0;  // however many digits there are, it does not go beyond the top
  for (const char digit : text) {
    limit = std::min(kLimitMax, limit * 10 + static_cast<uint32_t>(digit - '0'));
  }
  return limit;
}

// Whether a quorum of the replicas is to answer instead of one.
absl::StatusOr<bool> ParseQuorum(const Parameters& parameters) {
  constexpr std::string_view kField = "consistency";
  absl::StatusOr<const std::string*> value = Single(parameters, kField);
  if (!value.ok()) return value.status();
  if (*value == nullptr) return false;
  const std::string name = absl::AsciiStrToLower(**value);
  if (name != "one" && name != "quorum") {
    return rpc::InvalidField(kField, "must be one or quorum");
  }
  return name == "quorum";
}

absl::StatusOr<std::optional<std::string>> ParseFilter(const Parameters& parameters,
                                                       std::string_view name) {
  absl::StatusOr<const std::string*> value = Single(parameters, name);
  if (!value.ok()) return value.status();
  if (*value == nullptr) return std::optional<std::string>();
  if ((*value)->size() > router::kTextBytesMax) {
    return rpc::InvalidField(name, absl::StrCat("has ", (*value)->size(), " bytes of UTF-8; ",
                                                router::kTextBytesMax, " are allowed"));
  }
  return std::optional<std::string>(**value);
}

absl::StatusOr<std::vector<Aggregate>> ParseAggregates(const Parameters& parameters) {
  constexpr std::string_view kField = "aggregates";
  std::vector<Aggregate> aggregates;
  for (const auto& [key, value] : parameters) {
    if (key != kField && key != "aggregates[]") continue;
    for (size_t begin = 0; begin <= value.size();) {
      const size_t end = std::min(value.find(',', begin), value.size());
      const std::string name = absl::AsciiStrToUpper(value.substr(begin, end - begin));
      begin = end + 1;
      if (name != "COUNT" && name != "SUM_PRICE") {
        return rpc::InvalidField(kField, "must be COUNT or SUM_PRICE");
      }
      const Aggregate aggregate = name == "COUNT" ? Aggregate::kCount : Aggregate::kSumPrice;
      if (std::find(aggregates.begin(), aggregates.end(), aggregate) != aggregates.end()) {
        return rpc::InvalidField(kField, name + " is given twice");
      }
      aggregates.push_back(aggregate);
    }
  }
  if (aggregates.empty()) return rpc::InvalidField(kField, "is missing");
  return aggregates;
}

absl::Status ParseMinutes(const Parameters& parameters, router::AggregateQuery& query) {
  absl::StatusOr<TimeRange> range = ParseTimeRange(parameters);
  if (!range.ok()) return range.status();
  if (range->from_ms % router::kMinuteMs != 0 || range->to_ms % router::kMinuteMs != 0) {
    return rpc::InvalidField("time_range", "must begin and end on full minutes");
  }
  query.from_minute = router::MinuteOf(range->from_ms);
  query.to_minute = router::MinuteOf(range->to_ms);
  if (query.to_minute - query.from_minute > kRangeMinutesMax) {
    return rpc::InvalidField("time_range",
                             absl::StrCat("has more than ", kRangeMinutesMax, " minutes"));
  }
  return absl::OkStatus();
}

absl::Status ParseAction(const Parameters& parameters, router::AggregateQuery& query) {
  absl::StatusOr<const std::string*> action = Required(parameters, "action");
  if (!action.ok()) return action.status();
  if (**action != "VIEW" && **action != "BUY") {
    return rpc::InvalidField("action", "must be VIEW or BUY");
  }
  query.action = **action == "VIEW" ? v1::ACTION_VIEW : v1::ACTION_BUY;
  return absl::OkStatus();
}

}  // namespace

Target SplitTarget(std::string_view target) {
  if (const size_t scheme = target.find("://");
      scheme != std::string_view::npos && scheme < target.find_first_of("/?")) {
    const size_t path = target.find_first_of("/?", scheme + 3);
    target = path == std::string_view::npos ? std::string_view("/") : target.substr(path);
  }
  const size_t mark = target.find('?');
  if (mark == std::string_view::npos) return {target, {}};
  return {target.substr(0, mark), target.substr(mark + 1)};
}

absl::StatusOr<std::string> PercentDecode(std::string_view text, bool plus_is_space) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '+' && plus_is_space) {
      out.push_back(' ');
    } else if (text[i] != '%') {
      out.push_back(text[i]);
    } else {
      const int high = i + 1 < text.size() ? HexValue(text[i + 1]) : -1;
      const int low = i + 2 < text.size() ? HexValue(text[i + 2]) : -1;
      if (high < 0 || low < 0) return absl::InvalidArgumentError("has a broken percent escape");
      out.push_back(static_cast<char>(high * 16 + low));
      i += 2;
    }
  }
  if (!simdjson::validate_utf8(out)) return absl::InvalidArgumentError("is not UTF-8");
  return out;
}

absl::StatusOr<Parameters> ParseParameters(std::string_view query) {
  Parameters parameters;
  while (!query.empty()) {
    const size_t end = std::min(query.find('&'), query.size());
    const std::string_view part = query.substr(0, end);
    query.remove_prefix(std::min(end + 1, query.size()));
    if (part.empty()) continue;
    const size_t equals = std::min(part.find('='), part.size());
    absl::StatusOr<std::string> name = PercentDecode(part.substr(0, equals), true);
    if (!name.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the name of a parameter ", name.status().message()));
    }
    absl::StatusOr<std::string> value =
        PercentDecode(part.substr(std::min(equals + 1, part.size())), true);
    if (!value.ok()) {
      const absl::string_view why = value.status().message();
      return rpc::InvalidField(*name, std::string_view(why.data(), why.size()));
    }
    parameters.emplace_back(*std::move(name), *std::move(value));
  }
  return parameters;
}

namespace {

// The assignment writes ?time_range=...?limit=...: no time has a '?' in it.
std::string WithLimitApart(std::string_view query) {
  std::string apart(query);
  if (const size_t mark = apart.find("?limit="); mark != std::string::npos) apart[mark] = '&';
  return apart;
}

}  // namespace

absl::StatusOr<router::ProfileQuery> ParseProfileQuery(std::string_view cookie,
                                                       std::string_view query) {
  router::ProfileQuery result;
  absl::StatusOr<std::string> decoded = PercentDecode(cookie, false);
  if (!decoded.ok()) {
    const absl::string_view why = decoded.status().message();
    return rpc::InvalidField("cookie", std::string_view(why.data(), why.size()));
  }
  if (decoded->empty()) return rpc::InvalidField("cookie", "must not be empty");
  if (decoded->size() > router::kTextBytesMax) {
    return rpc::InvalidField("cookie", absl::StrCat("has ", decoded->size(), " bytes of UTF-8; ",
                                                    router::kTextBytesMax, " are allowed"));
  }
  result.cookie = *std::move(decoded);
  absl::StatusOr<Parameters> parameters = ParseParameters(WithLimitApart(query));
  if (!parameters.ok()) return parameters.status();
  absl::StatusOr<TimeRange> range = ParseTimeRange(*parameters);
  if (!range.ok()) return range.status();
  absl::StatusOr<uint32_t> limit = ParseLimit(*parameters);
  if (!limit.ok()) return limit.status();
  absl::StatusOr<bool> quorum = ParseQuorum(*parameters);
  if (!quorum.ok()) return quorum.status();
  result.from_ms = range->from_ms;
  result.to_ms = range->to_ms;
  result.limit = *limit;
  result.quorum = *quorum;
  return result;
}

absl::StatusOr<AggregateRequest> ParseAggregateRequest(std::string_view query) {
  absl::StatusOr<Parameters> parameters = ParseParameters(query);
  if (!parameters.ok()) return parameters.status();
  AggregateRequest result;
  if (absl::Status s = ParseMinutes(*parameters, result.query); !s.ok()) return s;
  if (absl::Status s = ParseAction(*parameters, result.query); !s.ok()) return s;
  absl::StatusOr<std::vector<Aggregate>> aggregates = ParseAggregates(*parameters);
  if (!aggregates.ok()) return aggregates.status();
  result.aggregates = *std::move(aggregates);
  const std::pair<std::string_view, std::optional<std::string>*> filters[] = {
      {"origin", &result.query.origin},
      {"brand_id", &result.query.brand_id},
      {"category_id", &result.query.category_id}};
  for (const auto& [name, out] : filters) {
    absl::StatusOr<std::optional<std::string>> filter = ParseFilter(*parameters, name);
    if (!filter.ok()) return filter.status();
    *out = *std::move(filter);
  }
  absl::StatusOr<bool> quorum = ParseQuorum(*parameters);
  if (!quorum.ok()) return quorum.status();
  result.query.quorum = *quorum;
  return result;
}

absl::Status CheckKeyHeader(std::string_view key) {
  const absl::Status s = router::CheckIdempotencyKey(key);
  if (s.ok()) return s;
  return rpc::InvalidField("Idempotency-Key",
                           std::string_view(s.message().data(), s.message().size()));
}

}  // namespace allezon::gateway
