// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace allezon::rpc {

// gRPC's threads for callbacks of calls live from here to the end of the process, where they would
// end with the last channel. For who lets calls outlive their channels: the callback that drops the
// last one runs on one of these threads, which would join itself and go on with freed memory
// (gRPC 1.51). Idempotent, thread-safe.
void KeepCallbackThreads();

}  // namespace allezon::rpc
