// SPDX-License-Identifier: Apache-2.0
#include "replica/background.h"

#include <sys/resource.h>

#include <cerrno>

#include "rpc/log.h"

namespace allezon::replica {
namespace {

constexpr int kNice = 10;

}  // namespace

void GiveWay() {
  thread_local bool done = false;
  if (done) return;
  done = true;
  // On Linux, 0 is the calling thread.
  if (setpriority(PRIO_PROCESS, 0, kNice) != 0) {
    rpc::LogWarn("a background thread keeps its priority", {{"errno", errno}});
  }
}

}  // namespace allezon::replica
