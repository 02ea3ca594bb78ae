// SPDX-License-Identifier: Apache-2.0
//
// What the two ways of reading aggregates share: asking a node for some shards, and adding up what
// nodes say.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "allezon/v1/aggregate_replica.grpc.pb.h"
#include "allezon/v1/replica.grpc.pb.h"
#include "router/channels.h"
#include "router/pace.h"
#include "router/read_calls.h"
#include "router/readers.h"
#include "router/stubs.h"

namespace allezon::router {

using ScanCalls = ReadCalls<v1::ScanMinutesRequest, v1::ScanMinutesResponse>;

// What a caller is told to wait before a retry of its own.
inline constexpr absl::Duration kAggregateRetryDelay = absl::Seconds(1);

// The nodes of the aggregate service. Thread-safe; what is borrowed must outlive it.
class AggregateNodes {
 public:
  explicit AggregateNodes(Channels& channels);

  // Asks for some shards.
  ScanCalls::Call* Ask(ScanCalls& calls, uint32_t instance, const std::vector<ShardId>& shards,
                       const AggregateQuery& query, absl::Time deadline) const;
  // Has the node pull the shards from their other replicas; waits for nothing.
  void SyncNow(uint32_t instance, const std::vector<ShardId>& shards, absl::Time deadline) const;

  const Channels& channels() const { return channels_; }
  const Placement& placement() const { return channels_.placement(); }
  Paces& paces() { return paces_; }
  // Another number each time, so that equal choices share the work.
  size_t NextTurn() { return turn_.fetch_add(1, std::memory_order_relaxed); }

 private:
  Channels& channels_;
  Paces paces_;
  Stubs<v1::AggregateReplicaService> stubs_;
  Stubs<v1::ReplicaService> replica_stubs_;
  std::atomic<size_t> turn_{0};
};

// The sum of answers for disjoint sets of shards.
class AggregateTotals {
 public:
  explicit AggregateTotals(const AggregateQuery& query)
      : from_minute_(query.from_minute), minutes_(query.to_minute - query.from_minute) {}

  // kInternal where an answer does not have the minutes of the query.
  absl::Status Check(const v1::ScanMinutesResponse& answer) const;
  // Adds an answer that was checked.
  void Add(const v1::ScanMinutesResponse& answer);
  // Adds only what it says of retention: of another replica of shards that were added.
  void AddExpired(const v1::ScanMinutesResponse& answer);
  // kFailedPrecondition: retention expired a minute in some shard, and not all that any shard still
  // holds of it was accepted after the latest time that it did.
  absl::StatusOr<std::vector<AggregateBucket>> Buckets() const;

 private:
  struct Minute {
    uint64_t count = 0;
    uint64_t sum_price = 0;
    uint32_t expired_at_s = 0;       // the latest, 0 where it never was
    uint32_t oldest_accepted_s = 0;  // 0 where nothing is held
  };
  const int64_t from_minute_;
  std::vector<Minute> minutes_;
};

// AggregateReader::Query with `quorum`. Blocks.
absl::StatusOr<std::vector<AggregateBucket>> QueryQuorum(AggregateNodes& nodes,
                                                         const AggregateQuery& query,
                                                         absl::Time deadline);

}  // namespace allezon::router
