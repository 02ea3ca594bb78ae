// SPDX-License-Identifier: Apache-2.0
#include "gateway/time_text.h"

#include <algorithm>
#include <chrono>

namespace allezon::gateway {
namespace {

constexpr int64_t kDayMs = 86'400'000;
constexpr int64_t kEraDays = 146'097;  // days of 400 years; the calendar repeats after them
constexpr size_t kSecondsLength = 19;  // of "2022-03-22T12:15:00"
// Of the largest minute there is: a sign, 14 digits of a year, and what follows them.
constexpr size_t kTimeTextBytesMax = 48;

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

// Writes `value`, which is not negative, with at least `digits` digits; returns the end of them.
char* PutDigits(int64_t value, int digits, char* to) {
  int length = 1;
  for (int64_t rest = value / 10; rest > 0; rest /= 10) ++length;
  length = std::max(length, digits);
  for (int i = length; i-- > 0; value /= 10) to[i] = static_cast<char>('0' + value % 10);
  return to + length;
}

char* PutTwoDigits(unsigned value, char* to) {
  to[0] = static_cast<char>('0' + value / 10);
  to[1] = static_cast<char>('0' + value % 10);
  return to + 2;
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

// Writes "2022-03-22T12:15:00"; returns its end.
char* PutSeconds(int64_t days, int64_t second_of_day, char* to) {
  int64_t day_of_era = 0;
  const int64_t era = FloorDiv(days, kEraDays, day_of_era);
  const std::chrono::year_month_day date{
      std::chrono::sys_days(std::chrono::days(static_cast<int>(day_of_era)))};
  const int64_t year = static_cast<int>(date.year()) + era * 400;
  if (year < 0) *to++ = '-';
  to = PutDigits(year < 0 ? -year : year, 4, to);
  *to++ = '-';
  to = PutTwoDigits(static_cast<unsigned>(date.month()), to);
  *to++ = '-';
  to = PutTwoDigits(static_cast<unsigned>(date.day()), to);
  *to++ = 'T';
  const auto second = static_cast<unsigned>(second_of_day);
  to = PutTwoDigits(second / 3600, to);
  *to++ = ':';
  to = PutTwoDigits(second / 60 % 60, to);
  *to++ = ':';
  return PutTwoDigits(second % 60, to);
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
  char text[kTimeTextBytesMax];
  char* end = PutSeconds(days, ms_of_day / 1000, text);
  *end++ = '.';
  end = PutDigits(ms_of_day % 1000, 3, end);
  *end++ = 'Z';
  out.append(text, end);
}

void AppendMinute(int64_t minute, std::string& out) {
  int64_t minute_of_day = 0;
  const int64_t days = FloorDiv(minute, 24 * 60, minute_of_day);
  char text[kTimeTextBytesMax];
  out.append(text, PutSeconds(days, minute_of_day * 60, text));
}

}  // namespace allezon::gateway
