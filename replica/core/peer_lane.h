// SPDX-License-Identifier: Apache-2.0
//
// What this node, as a coordinator, owes one peer.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "replica/core/types.h"

namespace allezon::replica {

// An event that the peer has not yet taken.
struct Owed {
  EventRef event;
  WriteId write = 0;
  uint32_t index = 0;  // of the event in its write
  Instant queued = 0;
  bool counted_out = false;  // its write does not count on this peer any more
};

// A queue with few batches in flight: idle, it sends at once; busy, it gathers. What fails goes
// back to the front and is sent again after a pause.
//
// A lane session is a stretch in which nothing was dropped: all that this node acknowledged since
// the session began has reached the peer, or is still here. Past the bounds, all is dropped whose
// write was answered (what is still to be answered must stay: it may be acknowledged within the
// next session), and a new session begins, by which the peer knows that it has missed something.
// Not thread-safe.
class PeerLane {
 public:
  PeerLane(const CoreOptions& options, uint32_t peer) : options_(options), peer_(peer) {}

  void Push(Owed owed);
  // Sends what may be sent now.
  void Pump(Instant now, Actions& actions);
  // A batch ended. On OK, what it carried; else nothing, and it is queued again: `failed` is called
  // for each event that has not been counted out yet.
  std::vector<Owed> Ended(BatchId batch, const absl::Status& status, Instant now,
                          const std::function<void(Owed&)>& failed);
  // Queues what the peer refused of a batch again, to be sent after a pause.
  void PutBack(std::vector<Owed> refused, Instant now);
  // Drops what may be dropped where the bounds are exceeded.
  void EnforceBounds(const std::function<bool(WriteId)>& is_pending);
  // Begins a new session for another reason: the peer refused an event for good.
  void NewSession() { ++session_; }

  // The peer answers otherwise: what is owed is sent at once.
  void Reached() {
    pause_us_ = 0;
    retry_at_ = kNever;
  }
  // Whether the last batch failed, and the peer has not answered since.
  bool IsFailing() const { return pause_us_ > 0; }
  // What a batch takes lately; 0 where none was taken yet.
  Instant pace_us() const { return pace_us_; }
  uint64_t session() const { return session_; }
  uint64_t drops() const { return drops_; }
  uint64_t owed_events() const { return owed_events_; }
  uint64_t owed_bytes() const { return owed_bytes_; }
  // When the oldest event was queued; `now` where nothing is owed.
  Instant OldestQueued(Instant now) const;

 private:
  struct Batch {
    std::vector<Owed> events;
    Instant sent = 0;
  };

  void Uncount(const Owed& owed);
  void Pause(Instant now);
  // Keeps the queue in the order in which events were queued first.
  void Requeue(std::vector<Owed> batch);

  const CoreOptions& options_;
  const uint32_t peer_;
  uint64_t session_ = 1;
  uint64_t drops_ = 0;
  BatchId next_batch_ = 1;
  std::deque<Owed> queue_;
  std::map<BatchId, Batch> in_flight_;
  uint64_t owed_events_ = 0;
  uint64_t owed_bytes_ = 0;
  Instant retry_at_ = kNever;
  Instant pause_us_ = 0;
  Instant pace_us_ = 0;  // a mean of late
};

}  // namespace allezon::replica
