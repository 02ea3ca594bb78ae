// SPDX-License-Identifier: Apache-2.0
#include "router/ballot.h"

#include <algorithm>
#include <cassert>

namespace allezon::router {
namespace {

// Between rounds over the replicas.
constexpr absl::Duration kPause = absl::Milliseconds(20);

}  // namespace

Ballot::Ballot(const Channels& channels, Paces& paces, std::vector<uint32_t> replicas,
               size_t needed, bool opens_circuits)
    : channels_(channels), paces_(paces), needed_(needed), opens_circuits_(opens_circuits) {
  assert(replicas.size() >= needed);
  for (const uint32_t instance : replicas) members_.push_back({instance, State::kUntried, {}});
}

Ballot::Member* Ballot::Pick(absl::Time now) {
  Member* slow = nullptr;
  Member* open = nullptr;
  for (Member& member : members_) {
    if (member.state != State::kUntried) continue;
    if (channels_.CircuitOf(member.instance)->is_open()) {
      if (open == nullptr) open = &member;
    } else if (!paces_.IsSlow(member.instance) || paces_.TakesTrial(member.instance, now)) {
      return &member;
    } else if (slow == nullptr) {
      slow = &member;
    }
  }
  return slow != nullptr ? slow : open;
}

Ballot::Member& Ballot::Find(uint32_t instance) {
  const auto found = std::find_if(members_.begin(), members_.end(),
                                  [&](const Member& m) { return m.instance == instance; });
  assert(found != members_.end() && found->state == State::kAsked);
  return *found;
}

std::vector<uint32_t> Ballot::Due(absl::Time now) {
  std::vector<uint32_t> ask;
  if (now < due_ || is_enough()) return ask;
  for (const Member& member : members_) {
    if (member.state != State::kAsked || now < member.asked + paces_.overdue(member.instance)) {
      continue;
    }
    // Its answer may never be waited for, so this is what there is to learn from.
    paces_.Observe(member.instance, now - member.asked, now);
    if (opens_circuits_) channels_.CircuitOf(member.instance)->Failed();
  }
  due_ = now;
  do {
    Member* member = Pick(now);
    if (member == nullptr) break;
    due_ = std::max(due_, now + paces_.overdue(member->instance));
    member->state = State::kAsked;
    member->asked = now;
    ++asked_;
    ask.push_back(member->instance);
  } while (asked_ + answered_ < needed_);
  if (ask.empty()) due_ = absl::InfiniteFuture();  // until one of those under way fails
  return ask;
}

void Ballot::Answered(uint32_t instance) {
  Find(instance).state = State::kAnswered;
  --asked_;
  ++answered_;
}

void Ballot::Failed(uint32_t instance, absl::Time now) {
  Ended(Find(instance), State::kFailed, now);
}

bool Ballot::GaveUp(uint32_t instance, absl::Time now) {
  Ended(Find(instance), State::kGivenUp, now);
  ++given_up_;
  return members_.size() - given_up_ >= needed_;
}

void Ballot::Ended(Member& member, State state, absl::Time now) {
  member.state = state;
  --asked_;
  due_ = now;
  if (std::any_of(members_.begin(), members_.end(),
                  [](const Member& m) { return m.state == State::kUntried; })) {
    return;
  }
  for (Member& member : members_) {
    if (member.state == State::kFailed) member.state = State::kUntried;
  }
  due_ = now + kPause;
}

}  // namespace allezon::router
