// SPDX-License-Identifier: Apache-2.0
//
// JSON as text: escaping what is written, and the grammar of what is skipped. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace allezon::gateway {

// How deep arrays and objects may nest in what a client sends. Deeper is refused.
inline constexpr int kJsonDepthMax = 256;

// Appends `utf8` as a JSON string with its quotes. What is no UTF-8 goes through as it is; see
// AppendJsonText.
void AppendJsonString(std::string_view utf8, std::string& out);

// The same for text of unknown origin: where it is no UTF-8, bytes that are not ASCII become '?'.
void AppendJsonText(std::string_view text, std::string& out);

// Whether `text` is exactly one JSON value (RFC 8259) and white space. Numbers may have any size.
// Does not check UTF-8.
bool IsJsonValue(std::string_view text);

// Whether it is none because it nests deeper than kJsonDepthMax.
bool IsTooDeepJson(std::string_view text);

// A JSON number that is an integer, however it is spelled ("-12", "12.0", "1.2e1"), and fits 64
// bits, else nullopt. No rounding.
std::optional<int64_t> ParseJsonInteger(std::string_view token);

}  // namespace allezon::gateway
