// SPDX-License-Identifier: Apache-2.0
#include "gateway/time_text.h"

#include <chrono>

namespace allezon::gateway {
namespace {

constexpr int64_t kDayMs = 86'400'000;
constexpr int64_t kEraDays = 146'097;  // days of 400 years; the calendar repeats after them
constexpr size_t kSecondsLength = 19;  // of "2022-03-22T12:15:00"

// The decimal number that is text[begin, begin + digits), or -1 where one of them is no digit.
int Digits(std::string_view text, size_t begin, size_t digits) {
  int value = 0;
  for (size_t i = begin; i < begin + digits; ++i) {
    if (text[i] < '0' || text[i] > '9') return -1;
    value = value * 10 + (text[i] - '0');
  }
  return value;
}

// Parses the first kSecondsLength characters.
std::optional<int64_t> ParseSeconds(std::string_view text) {
  if (text.size() < kSecondsLength || text[4] != '-' || text[7] != '-' || text[10] != 'T' ||
      text[13] != ':' || text[16] != ':') {
    return std::nullopt;
  }
  const int year = Digits(text, 0, 4), month = Digits(text, 5, 2), day = Digits(text, 8, 2);
  const int hour = Digits(text, 11, 2), minute = Digits(text, 14, 2), second = Digits(text, 17, 2);
  if (year < 0 || month < 0 || day < 0) return std::nullopt;
  if (hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59) {
    return std::nullopt;
  }
  const std::chrono::year_month_day date{std::chrono::year(year),
                                         std::chrono::month(static_cast<unsigned>(month)),
                                         std::chrono::day(static_cast<unsigned>(day))};
  if (!date.ok()) return std::nullopt;
  const int64_t days = std::chrono::sys_days(date).time_since_epoch().count();
  return days * kDayMs + ((hour * 60 + minute) * 60 + second) * int64_t{1000};
}

// Milliseconds of a fraction of 1 to 3 digits.
std::optional<int64_t> ParseFraction(std::string_view digits) {
  if (digits.empty() || digits.size() > 3) return std::nullopt;
  int value = Digits(digits, 0, digits.size());
  if (value < 0) return std::nullopt;
  for (size_t i = digits.size(); i < 3; ++i) value *= 10;
  return value;
}

void AppendDigits(int64_t value, int digits, std::string& out) {
  char buffer[20];
  int length = 0;
  do {
    buffer[length++] = static_cast<char>('0' + value % 10);
    value /= 10;
  } while (value > 0 || length < digits);
  while (length > 0) out.push_back(buffer[--length]);
}

// Floor division, whose remainder is never negative.
int64_t FloorDiv(int64_t value, int64_t divisor, int64_t& remainder) {
  int64_t quotient = value / divisor;
  remainder = value % divisor;
  if (remainder < 0) {
    remainder += divisor;
    --quotient;
  }
  return quotient;
}

// Appends "2022-03-22T12:15:00" and returns the milliseconds that are left.
int64_t AppendSeconds(int64_t days, int64_t ms_of_day, std::string& out) {
  int64_t day_of_era = 0;
  const int64_t era = FloorDiv(days, kEraDays, day_of_era);
  const std::chrono::year_month_day date{
      std::chrono::sys_days(std::chrono::days(static_cast<int>(day_of_era)))};
  const int64_t year = static_cast<int>(date.year()) + era * 400;
  if (year < 0) out.push_back('-');
  AppendDigits(year < 0 ? -year : year, 4, out);
  out.push_back('-');
  AppendDigits(static_cast<unsigned>(date.month()), 2, out);
  out.push_back('-');
  AppendDigits(static_cast<unsigned>(date.day()), 2, out);
  out.push_back('T');
  AppendDigits(ms_of_day / 3'600'000, 2, out);
  out.push_back(':');
  AppendDigits(ms_of_day / 60'000 % 60, 2, out);
  out.push_back(':');
  AppendDigits(ms_of_day / 1000 % 60, 2, out);
  return ms_of_day % 1000;
}

}  // namespace

std::optional<int64_t> ParseTagTime(std::string_view text) {
  if (text.empty() || text.back() != 'Z') return std::nullopt;
  return ParseQueryTime(text.substr(0, text.size() - 1));
}

std::optional<int64_t> ParseQueryTime(std::string_view text) {
  const std::optional<int64_t> seconds = ParseSeconds(text);
  if (!seconds || text.size() == kSecondsLength) return seconds;
  if (text[kSecondsLength] != '.') return std::nullopt;
  const std::optional<int64_t> fraction = ParseFraction(text.substr(kSecondsLength + 1));
  if (!fraction) return std::nullopt;
  return *seconds + *fraction;
}

void AppendTagTime(int64_t time_ms, std::string& out) {
  int64_t ms_of_day = 0;
  const int64_t days = FloorDiv(time_ms, kDayMs, ms_of_day);
  const int64_t ms = AppendSeconds(days, ms_of_day, out);
  out.push_back('.');
  AppendDigits(ms, 3, out);
  out.push_back('Z');
}

void AppendMinute(int64_t minute, std::string& out) {
  int64_t minute_of_day = 0;
  const int64_t days = FloorDiv(minute, 24 * 60, minute_of_day);
  AppendSeconds(days, minute_of_day * 60'000, out);
}

}  // namespace allezon::gateway
