// SPDX-License-Identifier: Apache-2.0
//
// What a router knows of an instance without asking it: whether to go elsewhere first. Cheap to ask
// and thread-safe.
#pragma once

#include <atomic>

#include "prometheus/gauge.h"

namespace allezon::router {

// Opens on evidence that the instance is away (no connection, a call overdue), closes on any sign
// of life: an answer, whatever it says, or one of the health probes that Channels sends while it is
// open. Open means: last choice, not never.
class Circuit {
 public:
  explicit Circuit(prometheus::Gauge& gauge) : gauge_(gauge) { gauge_.Set(0); }

  bool is_open() const { return is_open_.load(std::memory_order_relaxed); }
  // The instance gave an answer.
  void Answered() {
    if (is_open() && is_open_.exchange(false)) gauge_.Set(0);
  }
  // The instance could not be reached, or owes an answer for too long.
  void Failed() {
    if (!is_open_.exchange(true)) gauge_.Set(1);
  }

 private:
  prometheus::Gauge& gauge_;
  std::atomic<bool> is_open_{false};
};

}  // namespace allezon::router
