// SPDX-License-Identifier: Apache-2.0
#include "aggregate_svc/service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "replica/calls.h"
#include "router/tag_rules.h"
#include "rpc/status.h"

namespace allezon::aggregate_svc {
namespace {

// Scans use the processor, and a sealed minute the disk; more threads than cores would only take
// turns.
constexpr int kScanThreads = 4;
// Queries that wait for other nodes, of which one may hang until the router gives it up.
constexpr int kForwardedQueryThreads = 16;
constexpr size_t kQueriesQueuedMax = 500;
// A call without a deadline, or with one beyond, gets this one.
constexpr absl::Duration kQueryTimeoutMax = absl::Seconds(60);
// Minutes beyond these are no time that text can say; sums of them would overflow.
constexpr int64_t kMinuteMin = router::kTimeMsMin / router::kMinuteMs - 1;
constexpr int64_t kMinuteMax = router::kTimeMsMax / router::kMinuteMs + 1;

absl::Status CheckAction(v1::Action action) {
  if (action == v1::ACTION_VIEW || action == v1::ACTION_BUY) return absl::OkStatus();
  return rpc::InvalidField("action", "is neither ACTION_VIEW nor ACTION_BUY");
}

absl::Status CheckMinuteMs(std::string_view field, int64_t time_ms) {
  if (time_ms % router::kMinuteMs != 0) return rpc::InvalidField(field, "is not a full minute");
  if (time_ms < router::kTimeMsMin || time_ms > router::kTimeMsMax + 1) {
    return rpc::InvalidField(field, "is outside the years 0000 to 9999");
  }
  return absl::OkStatus();
}

absl::Status CheckText(std::string_view field, const std::string& text) {
  if (text.size() <= router::kTextBytesMax) return absl::OkStatus();
  return rpc::InvalidField(field, absl::StrCat("is longer than ", router::kTextBytesMax, " bytes"));
}

absl::Status CheckQuery(const v1::QueryAggregatesRequest& request) {
  if (absl::Status s = CheckMinuteMs("from_ms", request.from_ms()); !s.ok()) return s;
  if (absl::Status s = CheckMinuteMs("to_ms", request.to_ms()); !s.ok()) return s;
  if (request.from_ms() > request.to_ms()) {
    return rpc::InvalidField("to_ms", "the range ends before it starts");
  }
  if (request.to_ms() - request.from_ms() > kQueryMinutesMax * router::kMinuteMs) {
    return rpc::InvalidField("to_ms",
                             absl::StrCat("the range is over ", kQueryMinutesMax, " minutes"));
  }
  if (absl::Status s = CheckAction(request.action()); !s.ok()) return s;
  if (absl::Status s = CheckText("origin", request.origin()); !s.ok()) return s;
  if (absl::Status s = CheckText("brand_id", request.brand_id()); !s.ok()) return s;
  if (absl::Status s = CheckText("category_id", request.category_id()); !s.ok()) return s;
  return replica::CheckConsistency(request.consistency());
}

struct Meters {
  rpc::CallMetrics scan_minutes{"ScanMinutes"};
  rpc::CallMetrics add_tags{"AddTags"};
  rpc::CallMetrics query_aggregates{"QueryAggregates"};
};

Meters& TheMeters() {
  static Meters meters;
  return meters;
}

}  // namespace

AggregateReplicaServiceImpl::AggregateReplicaServiceImpl(const replica::NodeContext& context,
                                                         AggregateView& view)
    : context_(context), view_(view), scans_(kScanThreads, kQueriesQueuedMax) {
  TheMeters();
}

absl::Status AggregateReplicaServiceImpl::Check(const v1::ScanMinutesRequest& request) const {
  if (absl::Status s = replica::CheckCall(context_, request); !s.ok()) return s;
  if (request.from_minute() < kMinuteMin || request.to_minute() > kMinuteMax ||
      request.from_minute() > request.to_minute() ||
      request.to_minute() - request.from_minute() > kQueryMinutesMax) {
    return rpc::InvalidField(
        "to_minute", absl::StrCat("the range is not one of 0 to ", kQueryMinutesMax, " minutes"));
  }
  std::vector<bool> asked(context_.holds.size());
  for (const uint32_t shard : request.shards()) {
    if (shard >= context_.holds.size() || !context_.holds[shard]) {
      return rpc::InvalidField("shards",
                               absl::StrCat("shard ", shard, " is not held by ", context_.id));
    }
    if (asked[shard]) {
      return rpc::InvalidField("shards", absl::StrCat("shard ", shard, " is asked for twice"));
    }
    asked[shard] = true;
  }
  return CheckAction(request.action());
}

absl::Status AggregateReplicaServiceImpl::Scan(const v1::ScanMinutesRequest& request,
                                               v1::ScanMinutesResponse& response) {
  Filter filter;
  filter.action = request.action();
  if (request.has_origin()) filter.origin = request.origin();
  if (request.has_brand_id()) filter.brand_id = request.brand_id();
  if (request.has_category_id()) filter.category_id = request.category_id();
  const absl::Span<const uint32_t> shards(request.shards().data(), request.shards().size());
  const bool for_quorum = request.for_quorum();
  if (absl::Status s = replica::CheckReadable(context_, shards, for_quorum); !s.ok()) return s;
  absl::StatusOr<std::vector<MinuteAnswer>> answers =
      view_.Scan(shards, request.from_minute(), request.to_minute(), filter, for_quorum);
  if (!answers.ok()) return answers.status();
  if (absl::Status s = replica::CheckReadable(context_, shards, for_quorum); !s.ok()) return s;
  context_.identities->SetBy(*response.mutable_by());
  for (const MinuteAnswer& answer : *answers) {
    v1::MinuteTotal& minute = *response.add_minutes();
    minute.set_count(static_cast<int64_t>(answer.totals.count));
    minute.set_sum_price(static_cast<int64_t>(answer.totals.sum_price));
    minute.set_expired_at_s(answer.expired_at_s);
    minute.set_oldest_accepted_s(answer.oldest_accepted_s);
    if (!for_quorum) continue;
    minute.set_digest_count(answer.digest.count);
    minute.set_digest_low(absl::Uint128Low64(answer.digest.sum));
    minute.set_digest_high(absl::Uint128High64(answer.digest.sum));
  }
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* AggregateReplicaServiceImpl::ScanMinutes(
    grpc::CallbackServerContext* call, const v1::ScanMinutesRequest* request,
    v1::ScanMinutesResponse* response) {
  const replica::ReadCall read{call, replica::ReadReactor::Make(*context_.reads), request, response,
                               &TheMeters().scan_minutes};
  if (absl::Status status = Check(*request); !status.ok()) {
    replica::FinishRead(read, status);
    return read.reactor;
  }
  replica::FinishReadLater(scans_, read, [=, this] { return Scan(*request, *response); });
  return read.reactor;
}

AggregateServiceImpl::AggregateServiceImpl(const replica::NodeContext& context,
                                           std::unique_ptr<router::AggregateReader> reader)
    : context_(context),
      reader_(std::move(reader)),
      forwarded_queries_(kForwardedQueryThreads, kQueriesQueuedMax) {
  TheMeters();
}

grpc::ServerUnaryReactor* AggregateServiceImpl::AddTags(
    grpc::CallbackServerContext* call, const v1::AggregateServiceAddTagsRequest* request,
    v1::AggregateServiceAddTagsResponse* response) {
  return replica::ServeAddTags(context_, call, request, response, TheMeters().add_tags);
}

grpc::ServerUnaryReactor* AggregateServiceImpl::QueryAggregates(
    grpc::CallbackServerContext* call, const v1::QueryAggregatesRequest* request,
    v1::QueryAggregatesResponse* response) {
  const replica::ReadCall read{call, replica::ReadReactor::Make(*context_.reads), request, response,
                               &TheMeters().query_aggregates};
  if (absl::Status status = CheckQuery(*request); !status.ok()) {
    replica::FinishRead(read, status);
    return read.reactor;
  }
  const absl::Time deadline =
      std::min(absl::FromChrono(call->deadline()), read.start + kQueryTimeoutMax);
  replica::FinishReadLater(forwarded_queries_, read,
                           [=, this] { return Query(*request, deadline, *response); });
  return read.reactor;
}

absl::Status AggregateServiceImpl::Query(const v1::QueryAggregatesRequest& request,
                                         absl::Time deadline,
                                         v1::QueryAggregatesResponse& response) {
  if (absl::Now() >= deadline) return absl::DeadlineExceededError("waited too long for a thread");
  router::AggregateQuery query;
  query.from_minute = router::MinuteOf(request.from_ms());
  query.to_minute = router::MinuteOf(request.to_ms());
  query.action = request.action();
  if (request.has_origin()) query.origin = request.origin();
  if (request.has_brand_id()) query.brand_id = request.brand_id();
  if (request.has_category_id()) query.category_id = request.category_id();
  query.quorum = request.consistency() == v1::CONSISTENCY_QUORUM;
  const absl::StatusOr<std::vector<router::AggregateBucket>> buckets =
      reader_->Query(query, deadline);
  if (!buckets.ok()) return buckets.status();
  for (const router::AggregateBucket& bucket : *buckets) {
    v1::AggregateRow& row = *response.add_rows();
    row.set_minute_ms(bucket.minute * router::kMinuteMs);
    row.set_count(bucket.count);
    row.set_sum_price(bucket.sum_price);
  }
  return absl::OkStatus();
}

}  // namespace allezon::aggregate_svc
