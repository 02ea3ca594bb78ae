// SPDX-License-Identifier: Apache-2.0
#include "bench/load/text.h"

#include <charconv>
#include <chrono>

#include "absl/time/time.h"

namespace allezon::load {
namespace {

constexpr char kHexUpper[] = "0123456789ABCDEF";
constexpr char kHexLower[] = "0123456789abcdef";

void AppendDigits(int64_t value, int digits, std::string* out) {
  const size_t begin = out->size();
  out->resize(begin + digits);
  for (int i = digits - 1; i >= 0; --i) {
    (*out)[begin + i] = static_cast<char>('0' + value % 10);
    value /= 10;
  }
}

}  // namespace

void AppendJsonString(std::string_view text, std::string* out) {
  out->push_back('"');
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out->push_back('\\');
      out->push_back(c);
    } else if (byte >= 0x20) {
      out->push_back(c);
    } else if (c == '\n') {
      out->append("\\n");
    } else if (c == '\t') {
      out->append("\\t");
    } else {
      out->append("\\u00");
      out->push_back(kHexLower[byte >> 4]);
      out->push_back(kHexLower[byte & 15]);
    }
  }
  out->push_back('"');
}

void AppendPercentEncoded(std::string_view text, std::string* out) {
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '_' || c == '.' || c == '~';
    if (plain) {
      out->push_back(c);
    } else {
      out->push_back('%');
      out->push_back(kHexUpper[byte >> 4]);
      out->push_back(kHexUpper[byte & 15]);
    }
  }
}

void AppendInt(int64_t value, std::string* out) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof(digits), value).ptr;
  out->append(digits, end - digits);
}

void AppendSeconds(int64_t time_ms, std::string* out) {
  using std::chrono::days;
  using std::chrono::milliseconds;
  using std::chrono::seconds;
  const std::chrono::sys_time<milliseconds> time{milliseconds(time_ms)};
  const auto day = std::chrono::floor<days>(time);
  const std::chrono::year_month_day date(day);
  const int64_t second = std::chrono::floor<seconds>(time - day).count();
  AppendDigits(static_cast<int>(date.year()), 4, out);
  out->push_back('-');
  AppendDigits(static_cast<unsigned>(date.month()), 2, out);
  out->push_back('-');
  AppendDigits(static_cast<unsigned>(date.day()), 2, out);
  out->push_back('T');
  AppendDigits(second / 3600, 2, out);
  out->push_back(':');
  AppendDigits(second / 60 % 60, 2, out);
  out->push_back(':');
  AppendDigits(second % 60, 2, out);
}

void AppendMillis(int64_t time_ms, std::string* out) {
  AppendSeconds(time_ms, out);
  out->push_back('.');
  AppendDigits((time_ms % kMsPerSecond + kMsPerSecond) % kMsPerSecond, 3, out);
}

std::optional<int64_t> ParseTime(std::string_view text) {
  if (text.ends_with('Z')) text.remove_suffix(1);
  absl::Time time;
  std::string error;
  if (!absl::ParseTime("%E4Y-%m-%dT%H:%M:%E*S", std::string(text), &time, &error)) {
    return std::nullopt;
  }
  // What comes back must be what was given: no inf, no blanks, no finer fraction.
  const int64_t time_ms = absl::ToUnixMillis(time);
  std::string seconds, millis;
  AppendSeconds(time_ms, &seconds);
  AppendMillis(time_ms, &millis);
  if (text != millis && !(text == seconds && time_ms % kMsPerSecond == 0)) return std::nullopt;
  return time_ms;
}

}  // namespace allezon::load
