// SPDX-License-Identifier: Apache-2.0
//
// The parser is our own, over absl's registry: absl's ends with 1 where a flag is unknown, takes
// positional arguments, and brings flags of its own (--flagfile, --fromenv, …).
#include "rpc/flags.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "absl/flags/commandlineflag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "rpc/version.h"

namespace allezon::rpc {
namespace {

constexpr int kExitUsage = 2;
constexpr std::string_view kEnvPrefix = "ALLEZON_";

using Flags = std::map<std::string, absl::CommandLineFlag*, std::less<>>;

// Flags of absl itself, where something links them, are defined in files of this folder.
bool IsOwn(const absl::CommandLineFlag& flag) {
  return !flag.IsRetired() && flag.Filename().find("absl/flags/") == std::string::npos;
}

Flags OwnFlags() {
  Flags flags;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (IsOwn(*flag)) flags.emplace(std::string(name), flag);
  }
  return flags;
}

std::string EnvName(const std::string& flag) {
  return absl::StrCat(std::string(kEnvPrefix), absl::AsciiStrToUpper(flag));
}

// Reads the environment and the command line into flags, and gathers what is wrong.
class Parser {
 public:
  explicit Parser(const Flags& flags) : flags_(flags) {}

  void ReadEnvironment() {
    for (const auto& [name, flag] : flags_) {
      const std::string env_name = EnvName(name);
      if (const char* value = std::getenv(env_name.c_str())) Set(*flag, value, env_name);
    }
  }

  void ReadArguments(const std::vector<std::string_view>& arguments) {
    for (size_t i = 0; i < arguments.size(); ++i) {
      const std::string_view argument = arguments[i];
      if (!argument.starts_with('-') || argument == "-" || argument == "--") {
        Complain("unexpected argument", argument);
        continue;
      }
      const bool has_next = i + 1 < arguments.size() && !arguments[i + 1].starts_with("--");
      if (ReadFlag(argument, has_next ? &arguments[i + 1] : nullptr)) ++i;
    }
  }

  const std::vector<std::string>& errors() const { return errors_; }

 private:
  // True where `next` was taken as the value.
  bool ReadFlag(std::string_view argument, const std::string_view* next) {
    std::string_view name = argument.substr(argument.starts_with("--") ? 2 : 1);
    const size_t equals = name.find('=');
    const bool has_value = equals != std::string_view::npos;
    const std::string_view value = has_value ? name.substr(equals + 1) : std::string_view();
    name = name.substr(0, equals);

    absl::CommandLineFlag* flag = Find(name);
    if (flag == nullptr && !has_value && name.starts_with("no")) {
      absl::CommandLineFlag* negated = Find(name.substr(2));
      if (negated != nullptr && negated->IsOfType<bool>()) {
        Set(*negated, "false", argument);
        return false;
      }
    }
    if (flag == nullptr) {
      Complain("unknown flag", argument.substr(0, argument.find('=')));
    } else if (has_value) {
      Set(*flag, value, argument.substr(0, argument.find('=')));
    } else if (flag->IsOfType<bool>()) {
      Set(*flag, "true", argument);
    } else if (next == nullptr) {
      Complain("flag without a value", argument);
    } else {
      Set(*flag, *next, argument);
      return true;
    }
    return false;
  }

  absl::CommandLineFlag* Find(std::string_view name) const {
    const auto it = flags_.find(name);
    return it == flags_.end() ? nullptr : it->second;
  }

  void Set(absl::CommandLineFlag& flag, std::string_view value, std::string_view source) {
    std::string error;
    if (flag.ParseFrom(absl::string_view(value.data(), value.size()), &error)) return;
    errors_.push_back(absl::StrCat(std::string(source), ": '", std::string(value),
                                   "' is not a value of this flag", error.empty() ? "" : ": ",
                                   error));
  }

  void Complain(const char* what, std::string_view argument) {
    errors_.push_back(absl::StrCat(what, ": ", std::string(argument)));
  }

  const Flags& flags_;
  std::vector<std::string> errors_;
};

bool AsksForHelp(std::string_view argument) {
  return argument == "--help" || argument == "-help" || argument == "-h";
}

bool AsksForVersion(std::string_view argument) {
  return argument == "--version" || argument == "-version";
}

std::string HelpText(const Flags& flags, std::string_view program, std::string_view summary) {
  std::string text = absl::StrCat(std::string(summary), "\n\nUsage: ", std::string(program),
                                  " [--flag=value ...]\n\n"
                                  "A flag may also be set in the environment, --log_level as "
                                  "ALLEZON_LOG_LEVEL; the command line wins.\n\nFlags:\n");
  for (const auto& [name, flag] : flags) {
    std::string value = flag->DefaultValue();
    if (flag->IsOfType<std::string>()) value = absl::StrCat("\"", value, "\"");
    absl::StrAppend(&text, "  --", name, "\n      ", flag->Help(), "\n      default: ", value,
                    "\n");
  }
  return text;
}

// Prints an answer to the one who asked for it, and ends the process.
[[noreturn]] void Answer(const std::string& text) {
  const bool written = std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
  std::exit(written ? 0 : 1);
}

}  // namespace

void ParseFlags(int argc, char** argv, std::string_view summary) {
  const std::string_view path = argc > 0 ? argv[0] : "";
  const std::string program(path.substr(path.rfind('/') + 1));
  const std::vector<std::string_view> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
  const Flags flags = OwnFlags();

  if (std::any_of(arguments.begin(), arguments.end(), AsksForHelp)) {
    Answer(HelpText(flags, program, summary));
  }
  if (std::any_of(arguments.begin(), arguments.end(), AsksForVersion)) {
    Answer(absl::StrCat(program, " ", absl::string_view(Version().data(), Version().size()), "\n"));
  }
  Parser parser(flags);
  parser.ReadEnvironment();
  parser.ReadArguments(arguments);
  if (parser.errors().empty()) return;
  for (const std::string& error : parser.errors()) {
    std::fprintf(stderr, "%s: %s\n", program.c_str(), error.c_str());
  }
  std::fprintf(stderr, "%s: --help lists the flags\n", program.c_str());
  std::exit(kExitUsage);
}

}  // namespace allezon::rpc
