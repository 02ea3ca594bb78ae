// SPDX-License-Identifier: Apache-2.0
#include "replica/core/agreed_clock.h"

#include <algorithm>
#include <functional>
#include <limits>

namespace allezon::replica {
namespace {

constexpr WallUs kSecondUs = 1'000'000;
constexpr size_t kClocksToJudge = 3;

uint32_t ToStamp(WallUs wall_us) {
  return static_cast<uint32_t>(
      std::clamp<WallUs>(wall_us / kSecondUs, 0, std::numeric_limits<uint32_t>::max()));
}

}  // namespace

void AgreedClock::Heard(uint32_t instance, WallUs wall_us, Instant sent, Instant now) {
  clocks_[instance] = {true, now, wall_us - now, wall_us - sent};
}

std::optional<WallUs> AgreedClock::NotAfterUs(Instant now) const {
  std::vector<WallUs> walls;
  for (const Clock& clock : clocks_) {
    if (WasHeard(clock, now)) walls.push_back(clock.offset_low_us + now);
  }
  if (walls.size() < std::min<size_t>(clocks_.size(), 2)) return std::nullopt;
  std::sort(walls.begin(), walls.end(), std::greater<>());
  return walls[walls.size() > 1 ? 1 : 0];
}

std::vector<WallUs> AgreedClock::LatestWalls(Instant now) const {
  std::vector<WallUs> walls;
  for (const Clock& clock : clocks_) {
    if (WasHeard(clock, now)) walls.push_back(clock.offset_high_us + now);
  }
  return walls;
}

WallUs AgreedClock::NotBeforeUs(Instant now) const {
  std::vector<WallUs> walls = LatestWalls(now);
  if (walls.empty()) return 0;
  std::sort(walls.begin(), walls.end());
  return walls[walls.size() > 1 ? 1 : 0];
}

StampRule AgreedClock::RuleOfWrites(WallS retention_s, Instant now) const {
  const WallUs agreed = NotBeforeUs(now);
  const WallUs slack = StampSlackUs(retention_s);
  // One clock alone may be behind, so by its word nothing is made older.
  StampRule rule{ToStamp(agreed - slack),
                 IsKnown(now) ? ToStamp(agreed + slack) : std::numeric_limits<uint32_t>::max(),
                 ToStamp(agreed)};
  const std::vector<WallUs> walls = LatestWalls(now);
  if (walls.size() == 2) {
    const WallUs earlier = std::min(walls[0], walls[1]);
    rule.has_earlier = true;
    rule.earlier_low_s = ToStamp(earlier - slack);
    rule.earlier_high_s = ToStamp(earlier + slack);
    rule.earlier_now_s = ToStamp(earlier);
  }
  return rule;
}

StampRule AgreedClock::RuleOfReplicates(WallS retention_s, uint32_t coordinator, Instant age_us,
                                        WallUs sent_wall_us, Instant now) const {
  StampRule rule = RuleOfWrites(retention_s, now);
  rule.has_earlier = false;
  rule.high_s = std::numeric_limits<uint32_t>::max();
  // Of two clocks it is not known which one is wrong. To be made newer by one that is ahead would
  // have the event outlive its copies elsewhere; the coordinator has seen to it already.
  const Clock& sender = clocks_[coordinator];
  if (LatestWalls(now).size() < kClocksToJudge || !WasHeard(sender, now)) {
    rule.low_s = 0;
    return rule;
  }
  // A connection may stand still, and a batch come long after it was sent.
  const WallUs on_its_way = std::max<WallUs>(sender.offset_high_us + now - sent_wall_us, 0);
  const WallUs agreed = NotBeforeUs(now) - age_us - on_its_way;
  rule.low_s = ToStamp(agreed - StampSlackUs(retention_s) - kSecondUs);
  rule.now_s = ToStamp(agreed);
  return rule;
}

}  // namespace allezon::replica
