// SPDX-License-Identifier: Apache-2.0
//
// Counts the votes of the writes that this node coordinates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "replica/core/types.h"

namespace allezon::replica {

// An event is acknowledged once this node has it durably, and as many peers as make a write quorum
// with it: so a coordinator never lacks what it acknowledged. It also waits for the peer that is
// asked first by those who read, while that one is not late, so that they find what they wrote. It
// fails as soon as too few votes are left, or at the deadline. A write is answered when all of its
// events are decided. Not thread-safe.
class Quorum {
 public:
  static constexpr uint32_t kNobody = UINT32_MAX;

  // Who else may have an event.
  struct Voters {
    uint8_t peers = 0;
    uint32_t reader = kNobody;  // the one of them that it waits for, as an instance
  };

  Quorum(uint32_t write_quorum, size_t events_pending_max)
      : write_quorum_(write_quorum), events_pending_max_(events_pending_max) {}

  // `voters`, by event. kResourceExhausted where too much is pending.
  absl::Status Begin(WriteId id, absl::Span<const Voters> voters, Instant deadline);

  // The local commit of a write ended.
  void Stored(WriteId id, const absl::Status& status, std::vector<WriteOutcome>& outcomes);
  // A peer has the event durably, and its word counts. Also after it was counted out.
  void Yes(WriteId id, uint32_t event, uint32_t peer, bool was_counted_out,
           std::vector<WriteOutcome>& outcomes);
  // A peer will not have it soon, or its word does not count.
  void CountOut(WriteId id, uint32_t event, uint32_t peer, const absl::Status& why,
                std::vector<WriteOutcome>& outcomes);
  // A peer is late: what has its quorum waits for it no longer.
  void StopWaitingFor(uint32_t peer, std::vector<WriteOutcome>& outcomes);
  // Writes whose deadline is not after that wait for no such peer any longer.
  void StopWaitingUntil(Instant deadline, std::vector<WriteOutcome>& outcomes);
  // Ends what has waited too long.
  void Expire(Instant now, std::vector<WriteOutcome>& outcomes);

  bool IsPending(WriteId id) const { return writes_.contains(id); }
  size_t events_pending() const { return events_pending_; }

 private:
  struct Event {
    uint8_t yes = 0;   // of peers
    uint8_t open = 0;  // peers that may still say yes
    bool decided = false;
    uint32_t reader = kNobody;  // that it waits for still
  };
  struct Pending {
    std::vector<Event> events;
    size_t undecided = 0;
    bool stored = false;
    std::vector<absl::Status> failures;  // empty while there is none
    Instant deadline = 0;
  };
  using Writes = absl::flat_hash_map<WriteId, Pending>;

  // `peer`: none other than that, or kNobody for any.
  void StopWaiting(absl::Span<const WriteId> ids, uint32_t peer,
                   std::vector<WriteOutcome>& outcomes);
  // Acknowledges the event if that may be by now.
  void Decide(Pending& write, Event& event) const;
  void Fail(Pending& write, uint32_t event, const absl::Status& why);
  void EndIfDecided(Writes::iterator write, std::vector<WriteOutcome>& outcomes);
  void End(Writes::iterator write, std::vector<WriteOutcome>& outcomes);

  const uint32_t write_quorum_;
  const size_t events_pending_max_;
  size_t events_pending_ = 0;
  Writes writes_;
  std::multimap<Instant, WriteId> deadlines_;
};

}  // namespace allezon::replica
