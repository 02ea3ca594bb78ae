// SPDX-License-Identifier: Apache-2.0
//
// Retention on a node: it looks, aside, for what may be expired, and does what the core decides in
// steps.
#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "replica/replicator.h"

namespace allezon::replica {
namespace {

constexpr Instant kLookPeriodUs = 1'000'000;
// After a step it rests for so many times as long as the writer was held up, within the bound, so
// that commits get most of the writer's time.
constexpr double kExpiryRestTimes = 9;
constexpr absl::Duration kExpiryRestMax = absl::Milliseconds(200);

}  // namespace

void Replicator::LookForExpirable(Instant now) {
  if (now < next_look_ || is_looking_) return;
  next_look_ = now + kLookPeriodUs;
  std::optional<WallS> horizon_s;
  {
    absl::MutexLock lock(&mutex_);
    if (const auto agreed_us = core_.AgreedNowUs(now)) {
      store_.NoteAgreedNow(absl::FromUnixMicros(*agreed_us));
    }
    horizon_s = core_.ExpiryHorizonS(now);
  }
  if (!horizon_s) return;
  is_looking_ = true;
  const bool queued = expiries_.Run([this, horizon = *horizon_s] {
    std::vector<ExpiryCandidate> candidates = store_.FindExpirable(horizon);
    if (!candidates.empty()) {
      Feed([&](Core& core, Instant at, Actions& actions) {
        core.Expire(std::move(candidates), at, actions);
      });
    }
    is_looking_ = false;
  });
  if (!queued) is_looking_ = false;  // the next look tries again
}

void Replicator::ExpireNext(StorageId id, std::shared_ptr<ExpiryPlan> plan) {
  absl::StatusOr<std::optional<ExpiryStep>> step = plan->Next();
  if (!step.ok() || !*step) return Ended(id, step.status());
  const absl::Status queued = committer_.Run([this, id, plan, step = **std::move(step)] {
    const absl::Time began = absl::Now();
    const absl::Status status = store_.Expire(step);
    if (!status.ok()) return Ended(id, status);
    const absl::Duration rest = std::min(kExpiryRestTimes * (absl::Now() - began), kExpiryRestMax);
    const bool goes_on = expiries_.Run([this, id, plan, rest] {
      absl::SleepFor(rest);
      ExpireNext(id, plan);
    });
    if (!goes_on) Ended(id, absl::ResourceExhaustedError("too much waits to be expired already"));
  });
  if (!queued.ok()) Ended(id, queued);
}

}  // namespace allezon::replica
