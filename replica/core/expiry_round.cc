// SPDX-License-Identifier: Apache-2.0
#include "replica/core/expiry_round.h"

#include <algorithm>

namespace allezon::replica {

void ExpiryRound::Add(const ExpiryCandidate& candidate, const std::vector<uint32_t>& peers) {
  for (const uint32_t peer : peers) {
    std::vector<size_t>& of = asked_[peer];
    if (of.empty()) ++open_;
    of.push_back(buckets_.size());
  }
  buckets_.push_back({candidate});
}

std::map<uint32_t, v1::ReadNewestRequest> ExpiryRound::Requests(uint64_t placement_version) const {
  std::map<uint32_t, v1::ReadNewestRequest> requests;
  for (const auto& [peer, of] : asked_) {
    v1::ReadNewestRequest& request = requests[peer];
    request.set_placement_version(placement_version);
    for (const size_t i : of) {
      request.add_shards(buckets_[i].candidate.bucket.shard);
      request.add_minutes(buckets_[i].candidate.bucket.minute);
    }
  }
  return requests;
}

void ExpiryRound::Answered(uint32_t peer, const absl::Status& status,
                           const v1::ReadNewestResponse& response) {
  const std::vector<size_t>& of = asked_[peer];
  --open_;
  const bool whole =
      status.ok() && static_cast<size_t>(response.newest_accepted_s_size()) == of.size();
  for (size_t i = 0; i < of.size(); ++i) {
    Bucket& bucket = buckets_[of[i]];
    if (!whole) {
      bucket.stays = true;
      has_failed_ = true;
      continue;
    }
    uint32_t& newest_s = bucket.candidate.newest_accepted_s;
    newest_s = std::max(newest_s, response.newest_accepted_s(static_cast<int>(i)));
  }
}

std::vector<v1::ExpiredRange> ExpiryRound::Decide() const {
  std::vector<ExpiryCandidate> expired;
  for (const Bucket& bucket : buckets_) {
    if (bucket.stays || WallS{bucket.candidate.newest_accepted_s} > horizon_s_) continue;
    expired.push_back(bucket.candidate);
  }
  std::sort(expired.begin(), expired.end(),
            [](const auto& a, const auto& b) { return a.bucket < b.bucket; });
  std::vector<v1::ExpiredRange> ranges;
  for (const ExpiryCandidate& candidate : expired) {
    const auto [shard, minute] = candidate.bucket;
    // Copies of one event may have stamps that differ by what a client's tries lie apart.
    const auto through_s = static_cast<uint32_t>(WallS{candidate.newest_accepted_s} +
                                                 RetentionMarginS(retention_s_) / 2);
    if (!ranges.empty() && ranges.back().shard() == shard && ranges.back().to_minute() == minute) {
      ranges.back().set_to_minute(minute + 1);
      ranges.back().set_through_s(std::max(ranges.back().through_s(), through_s));
      ranges.back().set_removed_through_s(ranges.back().through_s());
      continue;
    }
    v1::ExpiredRange& range = ranges.emplace_back();
    range.set_shard(shard);
    range.set_from_minute(minute);
    range.set_to_minute(minute + 1);
    range.set_through_s(through_s);
    range.set_removed_through_s(through_s);
    range.set_expired_at_s(static_cast<uint32_t>(decided_at_s_));
  }
  return ranges;
}

}  // namespace allezon::replica
