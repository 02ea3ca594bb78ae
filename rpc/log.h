// SPDX-License-Identifier: Apache-2.0
//
// Structured logs: one JSON object a line on stderr. {"time": …, "level": …, "process": …,
// "message": …, fields…}
#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace allezon::rpc {

enum class LogLevel { kDebug, kInfo, kWarn, kError };

// A name and a value; borrows, so build it in the call.
class LogField {
 public:
  LogField(std::string_view name, std::string_view value)
      : name_(name), text_(value), quoted_(true) {}
  LogField(std::string_view name, const char* value) : LogField(name, std::string_view(value)) {}
  LogField(std::string_view name, const std::string& value)
      : LogField(name, std::string_view(value)) {}
  LogField(std::string_view name, bool value) : name_(name), text_(value ? "true" : "false") {}
  template <typename T>
  requires std::integral<T> || std::floating_point<T> LogField(std::string_view name, T value)
      : name_(name), owned_(std::to_string(value)) {}

  std::string_view name() const { return name_; }
  std::string_view text() const { return owned_.empty() ? text_ : std::string_view(owned_); }
  bool quoted() const { return quoted_; }

 private:
  std::string_view name_;
  std::string_view text_;
  std::string owned_;
  bool quoted_ = false;
};

// `level` is debug, info, warn or error (else false). `process` names the process in every line.
// Until it is called, lines of info and above are written. Not thread-safe; call at start-up.
bool InitLog(std::string_view level, std::string_view process);

// Thread-safe. Strings are escaped; bytes that are not UTF-8 become U+FFFD.
void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields = {});

inline void LogDebug(std::string_view m, std::initializer_list<LogField> f = {}) {
  Log(LogLevel::kDebug, m, f);
}
inline void LogInfo(std::string_view m, std::initializer_list<LogField> f = {}) {
  Log(LogLevel::kInfo, m, f);
}
inline void LogWarn(std::string_view m, std::initializer_list<LogField> f = {}) {
  Log(LogLevel::kWarn, m, f);
}
inline void LogError(std::string_view m, std::initializer_list<LogField> f = {}) {
  Log(LogLevel::kError, m, f);
}

}  // namespace allezon::rpc
