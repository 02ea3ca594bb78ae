// SPDX-License-Identifier: Apache-2.0
//
// Request targets: paths, percent encoding, and the parameters of the two queries. Everything is
// read from the target as it came over the wire. Pure functions.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "router/readers.h"

namespace allezon::gateway {

inline constexpr uint32_t kLimitMax = 200;
inline constexpr int64_t kRangeMinutesMax = 10;

struct Target {
  std::string_view path;   // still encoded
  std::string_view query;  // what follows the first '?', still encoded
};
// Borrows from `target`. The absolute form (http://host/path) is understood.
Target SplitTarget(std::string_view target);

// kInvalidArgument where an escape is broken or what comes out is no UTF-8.
absl::StatusOr<std::string> PercentDecode(std::string_view text, bool plus_is_space);

// Names and values of a query, decoded, in order. kInvalidArgument (with the parameter as field)
// for broken encoding.
using Parameters = std::vector<std::pair<std::string, std::string>>;
absl::StatusOr<Parameters> ParseParameters(std::string_view query);

// Both: kInvalidArgument with the parameter at fault as field. Unknown parameters are ignored.
// `cookie` is still percent-encoded. A profile's limit may also follow a '?', as the assignment
// writes it.
absl::StatusOr<router::ProfileQuery> ParseProfileQuery(std::string_view cookie,
                                                       std::string_view query);

enum class Aggregate { kCount, kSumPrice };

struct AggregateRequest {
  router::AggregateQuery query;
  std::vector<Aggregate> aggregates;  // in the order of their columns
};
absl::StatusOr<AggregateRequest> ParseAggregateRequest(std::string_view query);

// 1 to 128 visible ASCII characters? kInvalidArgument names the header.
absl::Status CheckKeyHeader(std::string_view key);

}  // namespace allezon::gateway
