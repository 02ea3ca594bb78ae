// SPDX-License-Identifier: Apache-2.0
#include "rpc/signals.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>
#include <vector>

namespace allezon::rpc {
namespace {

constexpr char kStartedAnew[] = "ALLEZON_STARTED_ANEW";

// Who was started by nohup is not to be ended by SIGHUP, which sigwait would take all the same.
bool IsHangupIgnored() {
  struct sigaction action {};
  return sigaction(SIGHUP, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

sigset_t TerminationSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  if (!IsHangupIgnored()) sigaddset(&set, SIGHUP);
  return set;
}

}  // namespace

void BlockTerminationSignals() {
  const sigset_t set = TerminationSignals();
  // Fails only for arguments that are wrong, and a process that cannot be ended well must not run.
  if (pthread_sigmask(SIG_BLOCK, &set, nullptr) != 0) abort();
  if (signal(SIGPIPE, SIG_IGN) == SIG_ERR) abort();
}

int WaitForTermination() {
  const sigset_t set = TerminationSignals();
  int number = 0;
  while (sigwait(&set, &number) != 0) {
  }
  return number;
}

std::optional<int> WaitForTermination(absl::Duration timeout) {
  const sigset_t set = TerminationSignals();
  const timespec wait = absl::ToTimespec(timeout);
  const int number = sigtimedwait(&set, nullptr, &wait);
  return number > 0 ? std::optional<int>(number) : std::nullopt;
}

absl::Status StartAnew(char** argv) {
  // Not by setenv: other threads may be reading the environment.
  std::string mark = std::string(kStartedAnew) + "=1";
  std::vector<char*> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) variables.push_back(*variable);
  if (!WasStartedAnew()) variables.push_back(mark.data());
  variables.push_back(nullptr);
  execve("/proc/self/exe", argv, variables.data());
  return absl::ErrnoToStatus(errno, "starting this program anew");
}

bool WasStartedAnew() { return getenv(kStartedAnew) != nullptr; }

}  // namespace allezon::rpc
