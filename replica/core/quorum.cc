// SPDX-License-Identifier: Apache-2.0
#include "replica/core/quorum.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace allezon::replica {

absl::Status Quorum::Begin(WriteId id, absl::Span<const uint8_t> peers, Instant deadline) {
  if (events_pending_ > 0 && events_pending_ + peers.size() > events_pending_max_) {
    return absl::ResourceExhaustedError(
        absl::StrCat(events_pending_, " events wait for their replicas already"));
  }
  Pending& write = writes_[id];
  write.events.resize(peers.size());
  for (size_t i = 0; i < peers.size(); ++i) write.events[i].open = peers[i];
  write.undecided = peers.size();
  write.deadline = deadline;
  events_pending_ += peers.size();
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
    if (!status.ok()) {
      Fail(write, i, status);
    } else if (Enough(write.events[i])) {
      write.events[i].decided = true;
      --write.undecided;
    }
  }
  EndIfDecided(found, outcomes);
}

void Quorum::Yes(WriteId id, uint32_t index, bool was_counted_out,
                 std::vector<WriteOutcome>& outcomes) {
  const auto write = writes_.find(id);
  if (write == writes_.end()) return;
  Event& event = write->second.events[index];
  if (!was_counted_out) --event.open;
  ++event.yes;
  if (event.decided || !write->second.stored || !Enough(event)) return;
  event.decided = true;
  --write->second.undecided;
  EndIfDecided(write, outcomes);
}

void Quorum::CountOut(WriteId id, uint32_t index, const absl::Status& why,
                      std::vector<WriteOutcome>& outcomes) {
  const auto write = writes_.find(id);
  if (write == writes_.end()) return;
  Event& event = write->second.events[index];
  --event.open;
  if (event.decided || event.yes + event.open + 1u >= write_quorum_) return;
  Fail(write->second, index,
       absl::UnavailableError(
           absl::StrCat("fewer than ", write_quorum_, " replicas can have it: ", why.message())));
  EndIfDecided(write, outcomes);
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
