// SPDX-License-Identifier: Apache-2.0
//
// One decision about which buckets retention expires.
//
// A bucket may be expired once everything in it was accepted longer ago than the retention. Two
// things could make that wrong: this replica may lack an event, or know of an earlier acceptance
// only. So (1) only a replica that may serve reads of the shard decides, which surely has all that
// was acknowledged; and (2) it asks RF - W others what they accepted last in the bucket: together
// with this one they are a read quorum, and whatever was acknowledged or acknowledged again before
// the round is on one of them. What is accepted during the round has a stamp of now, and is not
// covered by `through_s`. And (3) neither stamps nor the decision go by the clock of one node
// (AgreedClock). A round that takes long decides nothing: queries take what was accepted after
// its begin for what came after the expiry.
//
// A plain object of the core, not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "replica/core/agreed_clock.h"
#include "replica/core/types.h"

namespace allezon::replica {

// Of one round, and so of one ReadNewest; replica.proto promises it.
inline constexpr size_t kExpiryBucketsMax = 10'000;
// Not above what the cut of a decision's time to seconds covers.
inline constexpr Instant kExpiryRoundMaxUs = 1'000'000;

class ExpiryRound {
 public:
  // Buckets are expired whose newest acceptance is not after `horizon_s`. `decided_at_s` is not
  // before the stamp of anything that was accepted by `now`.
  ExpiryRound(WallS retention_s, WallS horizon_s, WallS decided_at_s, Instant now)
      : retention_s_(retention_s),
        horizon_s_(horizon_s),
        decided_at_s_(decided_at_s),
        begun_(now) {}

  // A bucket, and the others that are to be asked about it.
  void Add(const ExpiryCandidate& candidate, const std::vector<uint32_t>& peers);
  // What to ask, by peer.
  std::map<uint32_t, v1::ReadNewestRequest> Requests(uint64_t placement_version) const;
  // A peer answered; where it did not, or not for all buckets, those that it was asked about stay.
  void Answered(uint32_t peer, const absl::Status& status, const v1::ReadNewestResponse& response);
  bool is_decided() const { return open_ == 0; }
  Instant begun() const { return begun_; }
  bool is_too_late(Instant now) const { return now > begun_ + kExpiryRoundMaxUs; }
  // Whether some buckets stay because nobody could be asked about them.
  bool has_failed() const { return has_failed_; }
  void NoteFailure() { has_failed_ = true; }

  // What is to be expired. REQUIRES: is_decided.
  std::vector<v1::ExpiredRange> Decide() const;

 private:
  struct Bucket {
    ExpiryCandidate candidate;
    bool stays = false;
  };

  const WallS retention_s_;
  const WallS horizon_s_;
  const WallS decided_at_s_;
  const Instant begun_;
  std::vector<Bucket> buckets_;
  std::map<uint32_t, std::vector<size_t>> asked_;  // by peer, indexes into buckets_
  size_t open_ = 0;                                // peers that have not answered
  bool has_failed_ = false;
};

}  // namespace allezon::replica
