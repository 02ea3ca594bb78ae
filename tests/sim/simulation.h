// SPDX-License-Identifier: Apache-2.0
//
// One seed: a cluster under load and faults, then healing, then the last checks.
#pragma once

#include <cstdint>
#include <string>

#include "tests/sim/oracle.h"

namespace allezon::sim {

struct Outcome {
  std::string violation;  // empty: every promise was kept
  uint64_t trace_hash = 0;
  Totals totals;
};

// The same seed does the same. On a violation, or with `print_trace`, tells about it on stdout.
Outcome RunSeed(uint64_t seed, bool print_trace);

}  // namespace allezon::sim
