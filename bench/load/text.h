// SPDX-License-Identifier: Apache-2.0
//
// How values are written in requests and in expected answers. All functions append to *out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace allezon::load {

inline constexpr int64_t kMsPerSecond = 1000;
inline constexpr int64_t kMsPerMinute = 60 * kMsPerSecond;

// A JSON string with its quotes: only what must be escaped is.
void AppendJsonString(std::string_view text, std::string* out);
// Everything but RFC 3986's unreserved characters as %XX.
void AppendPercentEncoded(std::string_view text, std::string* out);
void AppendInt(int64_t value, std::string* out);
// 2022-03-22T12:15:00 of milliseconds since 1970, rounded down; years 0 to 9999.
void AppendSeconds(int64_t time_ms, std::string* out);
// 2022-03-22T12:15:00.123
void AppendMillis(int64_t time_ms, std::string* out);

// Reads what the two above write, with or without a final Z; nullopt for anything else.
std::optional<int64_t> ParseTime(std::string_view text);

}  // namespace allezon::load
