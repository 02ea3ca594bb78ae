// SPDX-License-Identifier: Apache-2.0
#include "rpc/log.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <array>
#include <memory>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "rpc/utf8.h"

namespace allezon::rpc {
namespace {

struct Level {
  std::string_view name;
  spdlog::level::level_enum spdlog_level;
};

// By LogLevel.
constexpr std::array<Level, 4> kLevels = {{{"debug", spdlog::level::debug},
                                           {"info", spdlog::level::info},
                                           {"warn", spdlog::level::warn},
                                           {"error", spdlog::level::err}}};

struct Output {
  spdlog::logger logger{"allezon", std::make_shared<spdlog::sinks::stderr_sink_mt>()};
  std::string process;

  Output() {
    // The line is complete when it gets here; spdlog only adds the line's end and the lock.
    logger.set_pattern("%v");
    logger.set_level(spdlog::level::info);
  }
};

// Never destroyed: destructors of other statics may log.
Output& GetOutput() {
  static Output& output = *std::make_unique<Output>().release();
  return output;
}

void AppendString(std::string& out, std::string_view raw) {
  out += '"';
  for (const char c : ReplaceInvalidUtf8(raw)) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          absl::StrAppendFormat(&out, "\\u%04x", static_cast<unsigned>(c));
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

void AppendField(std::string& out, std::string_view name, std::string_view text, bool quoted) {
  out += out.empty() ? '{' : ',';
  AppendString(out, name);
  out += ':';
  if (quoted) {
    AppendString(out, text);
  } else {
    out += text;
  }
}

// JSON has no number for nan and inf, so these go out as strings.
bool NeedsQuotes(const LogField& field) {
  return field.quoted() || field.text().ends_with("nan") || field.text().ends_with("inf");
}

}  // namespace

bool InitLog(std::string_view level, std::string_view process) {
  for (const Level& candidate : kLevels) {
    if (candidate.name != level) continue;
    GetOutput().logger.set_level(candidate.spdlog_level);
    GetOutput().process = process;
    return true;
  }
  return false;
}

void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) {
  Output& output = GetOutput();
  const Level& entry = kLevels[static_cast<size_t>(level)];
  if (!output.logger.should_log(entry.spdlog_level)) return;
  const std::string time =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  std::string line;
  AppendField(line, "time", time, true);
  AppendField(line, "level", entry.name, true);
  AppendField(line, "process", output.process, true);
  AppendField(line, "message", message, true);
  for (const LogField& field : fields) {
    AppendField(line, field.name(), field.text(), NeedsQuotes(field));
  }
  line += '}';
  output.logger.log(entry.spdlog_level, spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace allezon::rpc
