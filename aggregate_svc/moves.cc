// SPDX-License-Identifier: Apache-2.0
#include "aggregate_svc/moves.h"

#include <algorithm>

namespace allezon::aggregate_svc {

void Moves::Begin(absl::Span<const Move> moves) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(this, &Moves::IsFree), kWaitMax);
  recent_.insert(recent_.end(), moves.begin(), moves.end());
  begun_ += moves.size();
  if (recent_.size() <= kRecentMax) return;
  recent_.erase(recent_.begin(),
                recent_.end() - static_cast<std::deque<Move>::difference_type>(kRecentMax));
}

void Moves::End() {
  absl::MutexLock lock(&mutex_);
  done_ = begun_;
}

uint64_t Moves::Mark() const {
  absl::ReaderMutexLock lock(&mutex_);
  return done_;
}

bool Moves::WereIn(int64_t from, int64_t to, uint64_t mark) const {
  // A minute by itself changes at once.
  if (to - from < 2) return false;
  const auto in_range = [&](int64_t minute) { return from <= minute && minute < to; };
  absl::ReaderMutexLock lock(&mutex_);
  const uint64_t since = begun_ - mark;
  const bool were =
      since > recent_.size() ||
      std::any_of(
          recent_.end() - static_cast<std::deque<Move>::difference_type>(since), recent_.end(),
          [&](const Move& move) { return in_range(move.from_minute) && in_range(move.to_minute); });
  if (were) mutex_.AwaitWithTimeout(absl::Condition(this, &Moves::IsQuiet), kWaitMax);
  return were;
}

Moves::Hold::Hold(Moves& moves) : moves_(moves) {
  absl::MutexLock lock(&moves_.mutex_);
  ++moves_.holds_;
}

Moves::Hold::~Hold() {
  absl::MutexLock lock(&moves_.mutex_);
  --moves_.holds_;
}

}  // namespace allezon::aggregate_svc
