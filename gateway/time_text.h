// SPDX-License-Identifier: Apache-2.0
//
// The two forms of time in the API: a tag's (UTC, with Z) and a query's (without). Times are
// milliseconds since 1970-01-01T00:00:00Z. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace allezon::gateway {

// "2022-03-22T12:15:00.000Z", with a fraction of 0 to 3 digits. Years 0000 to 9999; nullopt where
// the text has another form or names a date that does not exist.
std::optional<int64_t> ParseTagTime(std::string_view text);

// The same without the Z.
std::optional<int64_t> ParseQueryTime(std::string_view text);

// Appends "2022-03-22T12:15:00.000Z". Exact for every value; a year beyond 0000 to 9999 has as many
// digits as it needs.
void AppendTagTime(int64_t time_ms, std::string& out);

// Appends the start of a minute since 1970: "2022-03-01T00:05:00".
void AppendMinute(int64_t minute, std::string& out);

}  // namespace allezon::gateway
