// SPDX-License-Identifier: Apache-2.0
//
// A process with flags, for flags_test: prints their values, one a line.
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "rpc/flags.h"

ABSL_FLAG(std::string, listen, "127.0.0.1:0", "host:port to listen on");
ABSL_FLAG(uint32_t, shards, 128, "number of shards");
ABSL_FLAG(int32_t, offset, 0, "a signed number");
ABSL_FLAG(bool, verbose, false, "say more");
ABSL_FLAG(bool, compress, true, "send less");
ABSL_FLAG(double, share, 0.5, "a real number");
// absl's own; naming one links all of them in, and they must stay hidden.
ABSL_DECLARE_FLAG(std::vector<std::string>, flagfile);

int main(int argc, char** argv) {
  allezon::rpc::ParseFlags(argc, argv, "A process with flags.");
  std::printf("listen=%s\nshards=%u\noffset=%d\nverbose=%d\ncompress=%d\nshare=%g\n",
              absl::GetFlag(FLAGS_listen).c_str(), absl::GetFlag(FLAGS_shards),
              absl::GetFlag(FLAGS_offset), absl::GetFlag(FLAGS_verbose),
              absl::GetFlag(FLAGS_compress), absl::GetFlag(FLAGS_share));
  return absl::GetFlag(FLAGS_flagfile).empty() ? 0 : 1;
}
