// SPDX-License-Identifier: Apache-2.0
//
// allezon-sim: runs seeds of the simulation; exit status 1 at the first violation.
#include <cinttypes>
#include <cstdint>
#include <cstdio>

#include "absl/flags/flag.h"
#include "rpc/flags.h"
#include "tests/sim/simulation.h"

ABSL_FLAG(uint64_t, seeds, 1000, "how many seeds to run");
ABSL_FLAG(uint64_t, from, 1, "the first of them");
ABSL_FLAG(bool, trace, false, "print everything that happens");
ABSL_FLAG(bool, twice, false, "run each seed twice, and compare");
ABSL_FLAG(bool, keep_going, false, "go on after a violation");

namespace allezon::sim {
namespace {

void PrintTotals(const Totals& totals) {
  const double runs = totals.runs == 0 ? 1 : static_cast<double>(totals.runs);
  std::printf("%" PRIu64 " seeds: %" PRIu64 " tags asked for, %" PRIu64 " acknowledged; %" PRIu64
              " crashes, %" PRIu64 " of them with the disk, %" PRIu64
              " with a damaged one; %" PRIu64 " lanes dropped; %" PRIu64 " syncs of %" PRIu64
              " events, %" PRIu64 " shards of them looked at; %" PRIu64 " other bodies; %" PRIu64
              " buckets decided to expire, %" PRIu64 " events expired; %" PRIu64
              " minutes read, %" PRIu64
              " gone; served at %.0f%% of the checks; at rest %.1f s after "
              "healing, at most %.1f s\n",
              totals.runs, totals.asked, totals.acknowledged, totals.crashes, totals.wipes,
              totals.damages, totals.lanes_dropped, totals.sessions, totals.synced_events,
              totals.syncs_checked, totals.other_bodies, totals.decisions, totals.expired_events,
              totals.queries_full, totals.queries_gone,
              100.0 * static_cast<double>(totals.checks_served) /
                  static_cast<double>(totals.checks_served + totals.checks_refused + 1),
              static_cast<double>(totals.healed_us) / 1e6 / runs,
              static_cast<double>(totals.healed_most_us) / 1e6);
}

int Run() {
  const uint64_t from = absl::GetFlag(FLAGS_from);
  const uint64_t seeds = absl::GetFlag(FLAGS_seeds);
  const bool trace = absl::GetFlag(FLAGS_trace);
  std::printf("seeds %" PRIu64 " to %" PRIu64 "\n", from, from + seeds - 1);
  Totals totals;
  uint64_t violations = 0;
  for (uint64_t seed = from; seed < from + seeds; ++seed) {
    const Outcome outcome = RunSeed(seed, trace);
    totals.Add(outcome.totals);
    bool failed = !outcome.violation.empty();
    if (absl::GetFlag(FLAGS_twice) && RunSeed(seed, false).trace_hash != outcome.trace_hash) {
      std::printf("seed %" PRIu64 ": VIOLATION: two runs differ\n", seed);
      failed = true;
    }
    if (trace) std::printf("seed %" PRIu64 ": trace %016" PRIx64 "\n", seed, outcome.trace_hash);
    if (!failed) continue;
    ++violations;
    if (!absl::GetFlag(FLAGS_keep_going)) break;
  }
  PrintTotals(totals);
  return violations == 0 ? 0 : 1;
}

}  // namespace
}  // namespace allezon::sim

int main(int argc, char** argv) {
  allezon::rpc::ParseFlags(argc, argv,
                           "allezon-sim: runs seeds of the simulation; exit status 1 at the first "
                           "violation.");
  return allezon::sim::Run();
}
