// SPDX-License-Identifier: Apache-2.0
//
// allezon-bench-http204: answers 204 and does nothing else. What it answers a second is H, the unit
// of the comparison.
#include <string>

#include "absl/flags/flag.h"
#include "bench/programs/minimal_http.h"
#include "rpc/flags.h"

ABSL_FLAG(int, port, 8080, "port of 127.0.0.1");
ABSL_FLAG(int, connections, 256, "connections at a time");

int main(int argc, char** argv) {
  allezon::rpc::ParseFlags(argc, argv, "allezon-bench-http204 answers 204 without work.");
  return allezon::bench::ServeMinimalHttp(absl::GetFlag(FLAGS_port),
                                          absl::GetFlag(FLAGS_connections),
                                          [](const std::string&) { return 204; });
}
