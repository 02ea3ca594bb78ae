// SPDX-License-Identifier: Apache-2.0
#include "rpc/grpc_cpus.h"

#include <grpc/support/cpu.h>

#include "rpc/limits.h"

// Symbols of the program go before those of the libraries that it loads, so gRPC calls this one.
unsigned gpr_cpu_num_cores() {
  static const int cpus = allezon::rpc::UsableCpus();
  return static_cast<unsigned>(cpus);
}

namespace allezon::rpc {

int GrpcCpus() { return static_cast<int>(gpr_cpu_num_cores()); }

}  // namespace allezon::rpc
