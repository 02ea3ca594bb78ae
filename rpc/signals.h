// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace allezon::rpc {

// Blocks SIGTERM and SIGINT for this thread and all that it starts, and ignores SIGPIPE. Call
// before any thread is made.
void BlockTerminationSignals();
// Waits for SIGTERM or SIGINT; returns its number.
int WaitForTermination();

}  // namespace allezon::rpc
