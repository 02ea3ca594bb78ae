// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace allezon::rpc {

// gRPC makes threads by the number of processors that the machine has, be they this process's or
// not, and has no setting for it (1.51). A program that calls this one puts UsableCpus() in the
// place of that number, from its start on; the answer is what gRPC sees.
int GrpcCpus();

}  // namespace allezon::rpc
