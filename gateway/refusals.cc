// SPDX-License-Identifier: Apache-2.0
#include "gateway/refusals.h"

#include <chrono>
#include <iterator>
#include <utility>

#include "absl/time/time.h"

namespace allezon::gateway {
namespace {

using std::chrono::steady_clock;

constexpr size_t kRefusedMax = 4096;
constexpr auto kLingerTime = std::chrono::milliseconds(500);
constexpr absl::Duration kLookPeriod = absl::Milliseconds(10);

}  // namespace

Refusals::Refusals() : thread_([this] { Run(); }) {}

Refusals::~Refusals() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void Refusals::Add(std::unique_ptr<Connection> connection) {
  connection->EndSending();
  Refused oldest;
  absl::MutexLock lock(&mutex_);
  refused_.push_back({std::move(connection), steady_clock::now() + kLingerTime});
  if (refused_.size() > kRefusedMax) {
    oldest = std::move(refused_.front());
    refused_.pop_front();
  }
}

void Refusals::Run() {
  const auto stopping_or_some = +[](Refusals* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
    return self->stopping_ || !self->refused_.empty();
  };
  while (true) {
    std::deque<Refused> looked_at;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(stopping_or_some, this));
      const bool stops = mutex_.AwaitWithTimeout(absl::Condition(&stopping_), kLookPeriod);
      looked_at.swap(refused_);
      if (stops) return;
    }
    const SteadyTime now = steady_clock::now();
    std::erase_if(looked_at, [&](const Refused& refused) {
      return refused.until <= now || !refused.connection->DropArrived();
    });
    absl::MutexLock lock(&mutex_);
    refused_.insert(refused_.begin(), std::make_move_iterator(looked_at.begin()),
                    std::make_move_iterator(looked_at.end()));
    // As many again may have come meanwhile.
    looked_at.clear();
    while (refused_.size() > kRefusedMax) {
      looked_at.push_back(std::move(refused_.front()));
      refused_.pop_front();
    }
  }
}

}  // namespace allezon::gateway
