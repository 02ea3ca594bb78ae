// SPDX-License-Identifier: Apache-2.0
//
// Which replicas to ask, and when, until enough of them have answered. A plain object: it is told
// what happens and asked what to do; it makes no call and reads no clock. Not thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "router/channels.h"
#include "router/pace.h"

namespace allezon::router {

class Ballot {
 public:
  // `replicas` in order of preference, `needed` of which must answer. With `opens_circuits`, one
  // that is overdue has its circuit opened. What is borrowed must outlive it.
  Ballot(const Channels& channels, Paces& paces, std::vector<uint32_t> replicas, size_t needed,
         bool opens_circuits);

  // The instances to ask now, each of which is then under way until Answered or Failed. At first as
  // many as are needed, those with closed circuits first, and of those the slow ones last, but for
  // a trial now and then; another one when an answer is overdue; the next one at once where one
  // failed; after a round over all, those that failed, after a pause.
  std::vector<uint32_t> Due(absl::Time now);
  // When Due has something again if nothing happens before.
  absl::Time due() const { return due_; }

  // All three: an instance that was under way.
  void Answered(uint32_t instance);
  void Failed(uint32_t instance, absl::Time now);
  // It will not be asked again. False where too few are left.
  bool GaveUp(uint32_t instance, absl::Time now);
  bool is_enough() const { return answered_ >= needed_; }

 private:
  enum class State { kUntried, kAsked, kAnswered, kFailed, kGivenUp };
  struct Member {
    uint32_t instance = 0;
    State state = State::kUntried;
    absl::Time asked;
  };
  Member* Pick(absl::Time now);
  Member& Find(uint32_t instance);
  void Ended(Member& member, State state, absl::Time now);

  const Channels& channels_;
  Paces& paces_;
  std::vector<Member> members_;
  const size_t needed_;
  const bool opens_circuits_;
  size_t asked_ = 0;
  size_t answered_ = 0;
  size_t given_up_ = 0;
  absl::Time due_ = absl::InfinitePast();
};

}  // namespace allezon::router
