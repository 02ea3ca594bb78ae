// SPDX-License-Identifier: Apache-2.0
//
// Flags of a process: absl flags, each of which may also come from the environment.
#pragma once

#include <string_view>

namespace allezon::rpc {

// Parses the command line into the process's absl flags, after the environment: the flag `listen`
// may be set by ALLEZON_LISTEN; the command line wins. --help prints every flag of allezon's own
// with its default and ends with 0; --version prints the program's name and version and ends with
// 0. An unknown flag, a value that does not parse (also from the environment), or a positional
// argument: prints what is wrong to stderr and ends with 2. `summary` is the first line of --help.
// Call once, first thing in main.
void ParseFlags(int argc, char** argv, std::string_view summary);

}  // namespace allezon::rpc
