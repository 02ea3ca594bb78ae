// SPDX-License-Identifier: Apache-2.0
//
// What a run found, for people and for machines.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bench/load/histogram.h"

namespace allezon::load {

enum class Kind { kTags, kProfile, kAggregate };
inline constexpr int kKinds = 3;
std::string_view KindName(Kind kind);

struct KindStats {
  uint64_t answered = 0;  // requests that got the status they should get
  uint64_t failed = 0;    // requests that did not, their retries included
  uint64_t late = 0;      // of those answered, after the time-out, counted from the schedule
  uint64_t retries = 0;
  uint64_t abandoned = 0;                       // in flight when the run was ended early
  std::map<std::string, uint64_t> failures;     // failed, by reason
  std::map<std::string, uint64_t> retried_for;  // retries, by reason
  // Queries that were answered.
  uint64_t right = 0;
  uint64_t within_bounds = 0;  // uncertain writes are in it, and it agrees with all that is certain
  uint64_t wrong = 0;
  uint64_t expired = 0;      // refused, since retention may have expired what was asked for
  uint64_t not_asked = 0;    // nothing was old enough to be asked for
  LatencyHistogram latency;  // of all that ended, from the time it was scheduled
};

struct Report {
  static constexpr size_t kSamplesMax = 10;

  std::vector<std::pair<std::string, std::string>> settings;  // name, value
  std::array<KindStats, kKinds> kinds;
  uint64_t tags_sent = 0;
  uint64_t tags_acknowledged = 0;
  uint64_t tags_uncertain = 0;
  uint64_t tags_not_sent = 0;  // the schedule had them, the run ended before
  bool interrupted = false;
  double stream_s = 0;  // wall time of the stream, without the checks after it
  double wall_s = 0;
  double cpu_s = 0;  // of this process
  uint64_t connections_opened = 0;
  uint64_t connections_refused = 0;
  uint64_t connections_closed_idle = 0;
  std::vector<std::string> failure_samples;
  std::vector<std::string> wrong_samples;

  KindStats& of(Kind kind) { return kinds[static_cast<size_t>(kind)]; }
  const KindStats& of(Kind kind) const { return kinds[static_cast<size_t>(kind)]; }
  uint64_t failed() const;
  uint64_t wrong() const;
};

std::string ReportText(const Report& report);
std::string ReportJson(const Report& report);

}  // namespace allezon::load
