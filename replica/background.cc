// SPDX-License-Identifier: Apache-2.0
#include "replica/background.h"

#include <sys/resource.h>

#include <cerrno>

#include "rpc/log.h"

namespace allezon::replica {
namespace {

// A step is a quarter more or less.
int NiceOf(Share share) { return share == Share::kTenth ? 10 : 5; }

}  // namespace

void GiveWay(Share share) {
  thread_local int given = 0;
  const int nice = NiceOf(share);
  if (given == nice) return;
  given = nice;
  // On Linux, 0 is the calling thread.
  if (setpriority(PRIO_PROCESS, 0, nice) != 0) {
    rpc::LogWarn("a background thread keeps its priority", {{"errno", errno}});
  }
}

}  // namespace allezon::replica
