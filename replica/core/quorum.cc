// SPDX-License-Identifier: Apache-2.0
#include "replica/core/quorum.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace allezon::replica {

absl::Status Quorum::Begin(WriteId id, absl::Span<const Voters> voters, Instant deadline) {
  if (events_pending_ > 0 && events_pending_ + voters.size() > events_pending_max_) {
    return absl::ResourceExhaustedError(
        absl::StrCat(events_pending_, " events wait for their replicas already"));
  }
  Pending& write = writes_[id];
  write.events.reserve(voters.size());
  for (const Voters& voter : voters) {
    write.events.push_back({.open = voter.peers, .reader = voter.reader});
  }
  write.undecided = voters.size();
  write.deadline = deadline;
  events_pending_ += voters.size();
  deadlines_.emplace(deadline, id);
  return absl::OkStatus();
}

void Quorum::Stored(WriteId id, const absl::Status& status, std::vector<WriteOutcome>& outcomes) {
  const auto found = writes_.find(id);
  if (found == writes_.end()) return;
  Pending& write = found->second;
  write.stored = status.ok();
  for (uint32_t i = 0; i < write.events.size(); ++i) {
    if (write.events[i].decided) continue;
    if (status.ok()) {
      Decide(write, write.events[i]);
    } else {
      Fail(write, i, status);
    }
  }
  EndIfDecided(found, outcomes);
}

void Quorum::Yes(WriteId id, uint32_t index, uint32_t peer, bool was_counted_out,
                 std::vector<WriteOutcome>& outcomes) {
  const auto write = writes_.find(id);
  if (write == writes_.end()) return;
  Event& event = write->second.events[index];
  if (!was_counted_out) --event.open;
  ++event.yes;
  if (event.reader == peer) event.reader = kNobody;
  Decide(write->second, event);
  EndIfDecided(write, outcomes);
}

void Quorum::CountOut(WriteId id, uint32_t index, uint32_t peer, const absl::Status& why,
                      std::vector<WriteOutcome>& outcomes) {
  const auto write = writes_.find(id);
  if (write == writes_.end()) return;
  Event& event = write->second.events[index];
  --event.open;
  if (event.reader == peer) event.reader = kNobody;
  if (event.decided) return;
  if (event.yes + event.open + 1u < write_quorum_) {
    Fail(write->second, index,
         absl::UnavailableError(
             absl::StrCat("fewer than ", write_quorum_, " replicas can have it: ", why.message())));
  } else {
    Decide(write->second, event);
  }
  EndIfDecided(write, outcomes);
}

// In the order of the deadlines, so that the same inputs give the same outputs.
void Quorum::StopWaitingFor(uint32_t peer, std::vector<WriteOutcome>& outcomes) {
  std::vector<WriteId> ids;
  ids.reserve(deadlines_.size());
  for (const auto& [deadline, id] : deadlines_) ids.push_back(id);
  StopWaiting(ids, peer, outcomes);
}

void Quorum::StopWaitingUntil(Instant last, std::vector<WriteOutcome>& outcomes) {
  std::vector<WriteId> ids;
  for (const auto& [deadline, id] : deadlines_) {
    if (deadline > last) break;
    ids.push_back(id);
  }
  StopWaiting(ids, kNobody, outcomes);
}

void Quorum::StopWaiting(absl::Span<const WriteId> ids, uint32_t peer,
                         std::vector<WriteOutcome>& outcomes) {
  for (const WriteId id : ids) {
    const auto write = writes_.find(id);
    if (write == writes_.end()) continue;
    for (Event& event : write->second.events) {
      if (event.reader == kNobody || (peer != kNobody && event.reader != peer)) continue;
      event.reader = kNobody;
      Decide(write->second, event);
    }
    EndIfDecided(write, outcomes);
  }
}

void Quorum::Decide(Pending& write, Event& event) const {
  if (event.decided || !write.stored || event.yes + 1u < write_quorum_ || event.reader != kNobody) {
    return;
  }
  event.decided = true;
  --write.undecided;
}

void Quorum::Expire(Instant now, std::vector<WriteOutcome>& outcomes) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const auto write = writes_.find(deadlines_.begin()->second);
    if (write == writes_.end()) {  // it was answered long ago
      deadlines_.erase(deadlines_.begin());
      continue;
    }
    for (uint32_t i = 0; i < write->second.events.size(); ++i) {
      if (write->second.events[i].decided) continue;
      Fail(write->second, i,
           absl::DeadlineExceededError(
               absl::StrCat("fewer than ", write_quorum_, " replicas had it in time")));
    }
    End(write, outcomes);
  }
}

void Quorum::Fail(Pending& write, uint32_t event, const absl::Status& why) {
  if (write.failures.empty()) write.failures.resize(write.events.size());
  write.failures[event] = why;
  write.events[event].decided = true;
  --write.undecided;
}

void Quorum::EndIfDecided(Writes::iterator write, std::vector<WriteOutcome>& outcomes) {
  if (write->second.undecided == 0) End(write, outcomes);
}

void Quorum::End(Writes::iterator write, std::vector<WriteOutcome>& outcomes) {
  outcomes.push_back({write->first, std::move(write->second.failures)});
  events_pending_ -= write->second.events.size();
  auto [it, end] = deadlines_.equal_range(write->second.deadline);
  for (; it != end; ++it) {
    if (it->second != write->first) continue;
    deadlines_.erase(it);
    break;
  }
  writes_.erase(write);
}

}  // namespace allezon::replica
