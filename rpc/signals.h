// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace allezon::rpc {

// Blocks SIGTERM, SIGINT and, unless it is ignored, SIGHUP for this thread and all that it starts,
// and ignores SIGPIPE. Call before any thread is made.
void BlockTerminationSignals();
// Waits for one of them; returns its number.
int WaitForTermination();
// The same for so long at most; nullopt where none came.
std::optional<int> WaitForTermination(absl::Duration timeout);

// Starts this program anew in the same process, with the same arguments and environment, in which
// WasStartedAnew() is true; what it had open is closed. Returns only where that fails.
absl::Status StartAnew(char** argv);
bool WasStartedAnew();

}  // namespace allezon::rpc
