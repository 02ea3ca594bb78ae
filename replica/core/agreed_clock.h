// SPDX-License-Identifier: Apache-2.0
//
// What time it is, as far as several nodes agree: retention must not trust any one clock.
//
// Each node tells its wall clock in its answers to polls. As long as at most one clock of the
// service is wrong, by any amount and in either direction, the second largest of those that were
// heard is not ahead of all right ones, and the second smallest is not behind all of them. Between
// two answers a clock is taken to go on as this process's own does, which never jumps. A plain
// object, not thread-safe.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "replica/core/types.h"

namespace allezon::replica {

// What retention adds to its age before it expires a bucket. It covers how much the stamps of an
// event may be behind: that of a stamp that is left as it is (StampSlackS), that of one that was
// not raised (RaiseSlackS), and the cut of times to seconds.
constexpr WallS RetentionMarginS(WallS retention_s) {
  return retention_s / 24 > 2 ? retention_s / 24 : 2;
}
// Stamps off the agreed clock by no more are left as they are. Small, since what was accepted so
// shortly after its minute was expired cannot be told from what was accepted before.
constexpr WallUs StampSlackUs(WallS retention_s) {
  return std::min<WallUs>(RetentionMarginS(retention_s) * 1'000'000 / 4, 1'000'000);
}
// An event that is accepted again has its stamp raised where it is older by more.
constexpr WallS RaiseSlackS(WallS retention_s) { return RetentionMarginS(retention_s) / 4; }

// The stamps that an event may have when it is accepted, seconds since 1970.
struct StampRule {
  uint32_t low_s = 0;
  uint32_t high_s = UINT32_MAX;
  uint32_t now_s = 0;
  // Where two clocks are known and either may be wrong, the others are of the later one, and these
  // of the earlier: the stamp is a third one, which tells which of them to go by.
  bool has_earlier = false;
  uint32_t earlier_low_s = 0;
  uint32_t earlier_high_s = 0;
  uint32_t earlier_now_s = 0;

  // `stamp` where it is within; else what the agreed clock says.
  uint32_t Apply(uint32_t stamp_s) const {
    if (stamp_s >= low_s && stamp_s <= high_s) return stamp_s;
    if (!has_earlier) return now_s;
    if (stamp_s >= earlier_low_s && stamp_s <= earlier_high_s) return stamp_s;
    // A stamp is at most old: then the later clock is ahead.
    return stamp_s < earlier_low_s ? earlier_now_s : now_s;
  }
};

class AgreedClock {
 public:
  // A clock that was heard of longer ago counts no more.
  static constexpr Instant kHeardMaxUs = 60'000'000;

  // `instances` of the service, this node among them.
  AgreedClock(size_t instances, uint32_t self) : clocks_(instances), self_(self) {}

  // This node's own wall clock.
  void Own(WallUs wall_us, Instant now) { Heard(self_, wall_us, now, now); }
  // A peer's, at some moment from `sent` to `now`.
  void Heard(uint32_t instance, WallUs wall_us, Instant sent, Instant now);

  // Whether enough clocks were heard for one of them to be wrong: two, or the only one there is.
  bool IsKnown(Instant now) const {
    return LatestWalls(now).size() >= std::min<size_t>(clocks_.size(), 2);
  }
  // Not after the true time. None where too few clocks were heard: two, or the only one there is.
  std::optional<WallUs> NotAfterUs(Instant now) const;
  // Not before the true time, where two clocks were heard; else this node's own.
  WallUs NotBeforeUs(Instant now) const;

  // For what a node takes as a coordinator. Where too few clocks were heard, no stamp is too late.
  StampRule RuleOfWrites(WallS retention_s, Instant now) const;
  // For what a coordinator took at most `age_us` before it sent this, when its own wall clock said
  // `sent_wall_us`: only stamps that are too early are wrong. Where it is not known how long it was
  // on its way, none is.
  StampRule RuleOfReplicates(WallS retention_s, uint32_t coordinator, Instant age_us,
                             WallUs sent_wall_us, Instant now) const;

 private:
  struct Clock {
    bool heard = false;
    Instant at = 0;
    // Its wall time less this process's time: at least, and at most.
    WallUs offset_low_us = 0;
    WallUs offset_high_us = 0;
  };
  static bool WasHeard(const Clock& clock, Instant now) {
    return clock.heard && clock.at >= now - kHeardMaxUs;
  }
  // Of those that were heard lately, at most.
  std::vector<WallUs> LatestWalls(Instant now) const;

  std::vector<Clock> clocks_;
  const uint32_t self_;
};

}  // namespace allezon::replica
