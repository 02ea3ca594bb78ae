// SPDX-License-Identifier: Apache-2.0
#include "rpc/process.h"

#include <fcntl.h>
#include <grpc/support/log.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string_view>

#include "rpc/log.h"
#include "rpc/signals.h"

namespace allezon::rpc {
namespace {

// Libraries open descriptors while they are loaded, so this comes before that: by system calls
// alone, as nothing else is ready, sanitizers included.
[[gnu::no_sanitize("address", "thread", "undefined")]] void OpenStandardDescriptors(int, char**,
                                                                                    char**) {
  for (int fd = 0; fd <= STDERR_FILENO; ++fd) {
    if (syscall(SYS_fcntl, fd, F_GETFD) != -1) continue;
    // It gets the lowest number that is free, which is this one.
    syscall(SYS_openat, AT_FDCWD, "/dev/null", fd == STDIN_FILENO ? O_RDONLY : O_WRONLY, 0);
  }
}
[[gnu::section(".preinit_array"),
  gnu::used]] void (*const kBeforeAll)(int, char**, char**) = OpenStandardDescriptors;

LogLevel LevelOf(gpr_log_severity severity) {
  switch (severity) {
    case GPR_LOG_SEVERITY_DEBUG:
      return LogLevel::kDebug;
    case GPR_LOG_SEVERITY_INFO:
      return LogLevel::kInfo;
    default:
      return LogLevel::kError;
  }
}

void LogOfGrpc(gpr_log_func_args* said) {
  std::string_view file = said->file;
  if (const size_t slash = file.rfind('/'); slash != std::string_view::npos) {
    file.remove_prefix(slash + 1);
  }
  Log(LevelOf(said->severity), "gRPC",
      {{"detail", said->message}, {"file", file}, {"line", said->line}});
}

}  // namespace

void PrepareProcess() {
  BlockTerminationSignals();
  gpr_set_log_function(LogOfGrpc);
}

}  // namespace allezon::rpc
