// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace allezon::rpc {

// What every process of the platform begins with, before any thread is made:
// - BlockTerminationSignals;
// - what gRPC has to say are lines of the log.
// In a program that has this, descriptors 0 to 2 are open before any code of it or of a library
// runs, on /dev/null where they were closed: no file or connection gets their numbers, and what is
// written to them.
void PrepareProcess();

}  // namespace allezon::rpc
