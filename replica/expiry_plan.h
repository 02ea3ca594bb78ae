// SPDX-License-Identifier: Apache-2.0
//
// What is to be done to expire some ranges of buckets, in steps that hold the store's writer up for
// a moment each.
#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "allezon/v1/replica.pb.h"
#include "replica/core/types.h"
#include "replica/digest.h"
#include "replica/expired_ranges.h"
#include "replica/log_format.h"

namespace allezon::replica {

class Store;

// A bucket that a range of an expiry covers.
struct PlannedBucket {
  BucketRef bucket;
  ExpiredMark mark;
  Digest digest;                  // when it was looked at
  std::vector<std::string> keys;  // of the index of idempotency keys, of its events
};

// Buckets that are expired with one write, each recorded by itself; or whole ranges to record.
struct ExpiryStep {
  std::vector<PlannedBucket> buckets;
  std::vector<v1::ExpiredRange> ranges;
  bool only_whole = false;
};

inline ExpiredMark MarkOf(const v1::ExpiredRange& range) {
  return {range.through_s(), std::max(range.through_s(), range.removed_through_s()),
          range.expired_at_s()};
}

// Reads ahead what a step must know, so that the writer is not held up by that. First come the
// buckets, minute by minute, then the ranges: one that breaks off may be begun anew. For one thread
// at a time.
class ExpiryPlan {
 public:
  // `store` must outlive it.
  ExpiryPlan(const Store& store, ExpireRanges expire);

  // The next step, for Store::Expire; none after the last. kDataLoss, kUnavailable: a bucket cannot
  // be read.
  absl::StatusOr<std::optional<ExpiryStep>> Next();

 private:
  // Fills buckets_, where they are done with and there are more.
  absl::Status LookAhead();
  void PlanBucket(const ParsedBucketKey& id, const Bucket& bucket);

  const Store& store_;
  const ExpireRanges expire_;
  absl::flat_hash_map<router::ShardId, ExpiredRanges> ranges_;  // what is to be expired
  // Minutes [from, to) that any of them covers, in order and apart; those still to be looked at.
  std::deque<std::pair<ParsedBucketKey, int64_t>> ahead_;
  std::deque<PlannedBucket> buckets_;  // in the order of the log
  size_t next_range_ = 0;
};

}  // namespace allezon::replica
