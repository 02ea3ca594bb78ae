// SPDX-License-Identifier: Apache-2.0
#include "router/aggregate_scan.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace allezon::router {
namespace {

// No attempt waits longer for an answer.
constexpr absl::Duration kAttemptMax = absl::Seconds(5);
constexpr absl::Duration kSyncTimeoutMax = absl::Seconds(1);
// A scan is overdue after a multiple of what scans take lately, within these bounds.
constexpr absl::Duration kOverdueMin = absl::Milliseconds(40);
constexpr absl::Duration kOverdueMax = absl::Seconds(2);

v1::ScanMinutesRequest RequestOf(const Channels& channels, uint32_t instance,
                                 const std::vector<ShardId>& shards, const AggregateQuery& query) {
  v1::ScanMinutesRequest request;
  *request.mutable_to() = channels.IdentityOf(instance);
  request.set_placement_version(channels.placement().version);
  request.mutable_shards()->Add(shards.begin(), shards.end());
  request.set_from_minute(query.from_minute);
  request.set_to_minute(query.to_minute);
  request.set_action(static_cast<v1::Action>(query.action));
  if (query.origin) request.set_origin(*query.origin);
  if (query.brand_id) request.set_brand_id(*query.brand_id);
  if (query.category_id) request.set_category_id(*query.category_id);
  request.set_for_quorum(query.quorum);
  return request;
}

}  // namespace

AggregateNodes::AggregateNodes(Channels& channels)
    : channels_(channels),
      paces_("aggregate", "reads", channels.placement(), kOverdueMin, kOverdueMax),
      stubs_(MakeStubs<v1::AggregateReplicaService>(channels)),
      replica_stubs_(MakeStubs<v1::ReplicaService>(channels)) {}

ScanCalls::Call* AggregateNodes::Ask(ScanCalls& calls, uint32_t instance,
                                     const std::vector<ShardId>& shards,
                                     const AggregateQuery& query, absl::Time deadline) const {
  return calls.Start(
      instance, channels_.CircuitOf(instance), std::min(deadline, absl::Now() + kAttemptMax),
      RequestOf(channels_, instance, shards, query),
      [&](grpc::ClientContext* context, const v1::ScanMinutesRequest* request,
          v1::ScanMinutesResponse* response, std::function<void(grpc::Status)> done) {
        stubs_[instance].Get()->async()->ScanMinutes(context, request, response, std::move(done));
      });
}

void AggregateNodes::SyncNow(uint32_t instance, const std::vector<ShardId>& shards,
                             absl::Time deadline) const {
  struct Call {
    grpc::ClientContext context;
    v1::SyncNowRequest request;
    v1::SyncNowResponse response;
  };
  const auto call = std::make_shared<Call>();
  call->context.set_deadline(absl::ToChronoTime(std::min(deadline, absl::Now() + kSyncTimeoutMax)));
  *call->request.mutable_to() = channels_.IdentityOf(instance);
  call->request.set_placement_version(placement().version);
  call->request.mutable_shards()->Add(shards.begin(), shards.end());
  // Where it fails, the next answers differ again, and it is asked again.
  replica_stubs_[instance].Get()->async()->SyncNow(&call->context, &call->request, &call->response,
                                                   [call](const grpc::Status&) {});
}

absl::Status AggregateTotals::Check(const v1::ScanMinutesResponse& answer) const {
  if (static_cast<size_t>(answer.minutes_size()) == minutes_.size()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("a node answered ", answer.minutes_size(),
                                          " minutes instead of ", minutes_.size()));
}

void AggregateTotals::Add(const v1::ScanMinutesResponse& answer) {
  for (size_t i = 0; i < minutes_.size(); ++i) {
    const v1::MinuteTotal& total = answer.minutes(static_cast<int>(i));
    Minute& minute = minutes_[i];
    // Unsigned, since a sum that does not fit wraps instead of being undefined.
    minute.count += static_cast<uint64_t>(total.count());
    minute.sum_price += static_cast<uint64_t>(total.sum_price());
    if (total.oldest_accepted_s() != 0) {
      minute.oldest_accepted_s =
          minute.oldest_accepted_s == 0
              ? total.oldest_accepted_s()
              : std::min(minute.oldest_accepted_s, total.oldest_accepted_s());
    }
  }
  AddExpired(answer);
}

void AggregateTotals::AddExpired(const v1::ScanMinutesResponse& answer) {
  for (size_t i = 0; i < minutes_.size(); ++i) {
    minutes_[i].expired_at_s =
        std::max(minutes_[i].expired_at_s, answer.minutes(static_cast<int>(i)).expired_at_s());
  }
}

absl::StatusOr<std::vector<AggregateBucket>> AggregateTotals::Buckets() const {
  std::vector<AggregateBucket> buckets;
  for (size_t i = 0; i < minutes_.size(); ++i) {
    const Minute& minute = minutes_[i];
    const int64_t number = from_minute_ + static_cast<int64_t>(i);
    // A minute is answered in full, or not at all. Where a shard of it expired, what other shards
    // had before is no answer, and neither is nothing: only what came later, to begin it anew.
    if (minute.expired_at_s != 0 && minute.oldest_accepted_s <= minute.expired_at_s) {
      return absl::FailedPreconditionError(absl::StrCat(
          "minute ", number, " of the range is older than what is kept; it was taken away"));
    }
    buckets.push_back(
        {number, static_cast<int64_t>(minute.count), static_cast<int64_t>(minute.sum_price)});
  }
  return buckets;
}

}  // namespace allezon::router
