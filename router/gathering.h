// SPDX-License-Identifier: Apache-2.0
//
// When what waits for a batch should leave. The end of a batch sets clients free, whose next
// requests come within a moment: a batch that leaves before them costs as much as a full one, and
// they wait for its end.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"

namespace allezon::router {

struct GatheringOptions {
  // No batch is held up for longer, whatever batches take.
  absl::Duration time_max = absl::Milliseconds(4);
  // Nor for longer than so many times as the last one took, so that where little is to be done a
  // request is not held up for much longer than it takes.
  double times_last = 3;
  // So many events are not held up at all.
  size_t large_events = 64;
};

// From how many events on a batch is large: each costs all replicas a call and a commit, so the
// more there are, the more it has to carry before it is worth another one.
inline size_t LargeEvents(uint32_t replication_factor) { return size_t{64} * replication_factor; }

// A batch waits until most of as many events came as batches carried lately and found waiting
// behind them; not all, since clients go to one lane and to another. Not thread-safe.
class Gathering {
 public:
  explicit Gathering(const GatheringOptions& options) : options_(options) {}

  // A batch of `events` ended, while `waiting` others wait. What is expected grows at once, and
  // shrinks by an eighth a batch: after a load that has gone, some small batches wait in vain.
  void Ended(size_t events, size_t waiting, absl::Duration took, absl::Time now) {
    expected_ = std::max(events + waiting, expected_ - (expected_ + 7) / 8);
    expected_ = std::min(expected_, options_.large_events);
    until_ = now + std::min(took * options_.times_last, options_.time_max);
  }
  // A batch came to nothing: its clients were not set free.
  void Failed() { expected_ = 0; }
  // How many events are expected to go together.
  size_t expected() const { return expected_; }
  bool IsLarge(size_t events) const { return events >= options_.large_events; }
  bool IsEnough(size_t events) const { return events >= expected_ - expected_ / 8; }
  // Until when to wait. Where the clock was set back meanwhile, no longer.
  absl::Time until(absl::Time now) const { return until_ - now > options_.time_max ? now : until_; }

 private:
  const GatheringOptions options_;
  size_t expected_ = 0;
  absl::Time until_ = absl::InfinitePast();
};

}  // namespace allezon::router
