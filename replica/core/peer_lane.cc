// SPDX-License-Identifier: Apache-2.0
#include "replica/core/peer_lane.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace allezon::replica {
namespace {

// What an event takes in memory besides its tag.
constexpr uint64_t kEventOverheadBytes = 160;

// Of the mean, per batch: it rises fast and falls slowly.
constexpr Instant kPaceRiseWeight = 4;
constexpr Instant kPaceFallWeight = 32;

uint64_t BytesOf(const Owed& owed) { return owed.event->tag.size() + kEventOverheadBytes; }

}  // namespace

void PeerLane::Push(Owed owed) {
  ++owed_events_;
  owed_bytes_ += BytesOf(owed);
  queue_.push_back(std::move(owed));
}

void PeerLane::Uncount(const Owed& owed) {
  --owed_events_;
  owed_bytes_ -= BytesOf(owed);
}

void PeerLane::Pump(Instant now, Actions& actions) {
  while (!queue_.empty() && in_flight_.size() < options_.lane_batches_in_flight_max &&
         (in_flight_.empty() || queue_.size() >= options_.lane_large_batch_events) &&
         now >= retry_at_) {
    Actions::Replicate& call = actions.replicate.emplace_back();
    call.peer = peer_;
    call.batch = next_batch_++;
    call.timeout_us = options_.lane_timeout_us;
    Batch& in_flight = in_flight_[call.batch];
    in_flight.sent = now;
    call.oldest_age_us = std::max<Instant>(now - queue_.front().queued, 0);
    std::vector<Owed>& batch = in_flight.events;
    uint64_t bytes = 0;
    while (!queue_.empty() && batch.size() < options_.lane_batch_events_max &&
           bytes < options_.lane_batch_bytes_max) {
      bytes += BytesOf(queue_.front());
      call.events.push_back(queue_.front().event);
      batch.push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
    // After a failure one batch at a time tells whether the peer is back.
    if (pause_us_ > 0) break;
  }
}

std::vector<Owed> PeerLane::Ended(BatchId id, const absl::Status& status, Instant now,
                                  const std::function<void(Owed&)>& failed) {
  const auto found = in_flight_.find(id);
  if (found == in_flight_.end()) return {};
  std::vector<Owed> batch = std::move(found->second.events);
  const Instant took = now - found->second.sent;
  in_flight_.erase(found);
  if (status.ok()) {
    retry_at_ = kNever;
    pause_us_ = 0;
    for (const Owed& owed : batch) Uncount(owed);
    pace_us_ += (took - pace_us_) / (took > pace_us_ ? kPaceRiseWeight : kPaceFallWeight);
    return batch;
  }
  for (Owed& owed : batch) {
    if (!owed.counted_out) failed(owed);
  }
  Pause(now);
  Requeue(std::move(batch));
  return {};
}

void PeerLane::PutBack(std::vector<Owed> refused, Instant now) {
  if (refused.empty()) return;
  for (const Owed& owed : refused) {
    ++owed_events_;
    owed_bytes_ += BytesOf(owed);
  }
  Pause(now);
  Requeue(std::move(refused));
}

void PeerLane::Pause(Instant now) {
  pause_us_ = pause_us_ == 0 ? options_.lane_retry_min_us
                             : std::min(2 * pause_us_, options_.lane_retry_max_us);
  retry_at_ = now + pause_us_;
}

void PeerLane::Requeue(std::vector<Owed> batch) {
  const auto middle = static_cast<std::ptrdiff_t>(batch.size());
  queue_.insert(queue_.begin(), std::make_move_iterator(batch.begin()),
                std::make_move_iterator(batch.end()));
  std::inplace_merge(queue_.begin(), queue_.begin() + middle, queue_.end(),
                     [](const Owed& a, const Owed& b) { return a.queued < b.queued; });
}

void PeerLane::EnforceBounds(const std::function<bool(WriteId)>& is_pending) {
  if (owed_events_ <= options_.lane_owed_events_max &&
      owed_bytes_ <= options_.lane_owed_bytes_max) {
    return;
  }
  const size_t before = queue_.size();
  std::erase_if(queue_, [&](const Owed& owed) {
    if (is_pending(owed.write)) return false;
    Uncount(owed);
    return true;
  });
  if (queue_.size() == before) return;
  ++session_;
  ++drops_;
}

Instant PeerLane::OldestQueued(Instant now) const {
  Instant oldest = now;
  for (const auto& [id, batch] : in_flight_) oldest = std::min(oldest, batch.events.front().queued);
  if (!queue_.empty()) oldest = std::min(oldest, queue_.front().queued);
  return oldest;
}

}  // namespace allezon::replica
