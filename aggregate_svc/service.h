// SPDX-License-Identifier: Apache-2.0
//
// The gRPC face of aggregates: scans of this node's own store for its peers, and the calls of other
// teams, which any node takes and forwards to the owners of the shards. Thread-safe.
#pragma once

#include <memory>

#include "aggregate_svc/aggregate_view.h"
#include "allezon/v1/aggregate.grpc.pb.h"
#include "allezon/v1/aggregate_replica.grpc.pb.h"
#include "replica/node.h"
#include "router/readers.h"
#include "rpc/blocking_calls.h"

namespace allezon::aggregate_svc {

inline constexpr int64_t kQueryMinutesMax = 10;

class AggregateReplicaServiceImpl final : public v1::AggregateReplicaService::CallbackService {
 public:
  // Both must outlive it and every call to it.
  AggregateReplicaServiceImpl(const replica::NodeContext& context, AggregateView& view);

  // FAILED_PRECONDITION: the call is for somebody else, or the caller's placement is another one.
  // INVALID_ARGUMENT: this node does not hold one of the shards, or the range is none. UNAVAILABLE:
  // it may lack tags of the shards, or a minute of the range cannot be read just now.
  // RESOURCE_EXHAUSTED: too many scans wait already.
  grpc::ServerUnaryReactor* ScanMinutes(grpc::CallbackServerContext* call,
                                        const v1::ScanMinutesRequest* request,
                                        v1::ScanMinutesResponse* response) override;

 private:
  absl::Status Check(const v1::ScanMinutesRequest& request) const;
  absl::Status Scan(const v1::ScanMinutesRequest& request, v1::ScanMinutesResponse& response);

  const replica::NodeContext& context_;
  AggregateView& view_;
  rpc::BlockingCalls scans_;
};

// Promises and errors are those of the proto.
class AggregateServiceImpl final : public v1::AggregateService::CallbackService {
 public:
  // `context` must outlive it and every call to it.
  AggregateServiceImpl(const replica::NodeContext& context,
                       std::unique_ptr<router::AggregateReader> reader);

  grpc::ServerUnaryReactor* AddTags(grpc::CallbackServerContext* call,
                                    const v1::AggregateServiceAddTagsRequest* request,
                                    v1::AggregateServiceAddTagsResponse* response) override;
  grpc::ServerUnaryReactor* QueryAggregates(grpc::CallbackServerContext* call,
                                            const v1::QueryAggregatesRequest* request,
                                            v1::QueryAggregatesResponse* response) override;

 private:
  absl::Status Query(const v1::QueryAggregatesRequest& request, absl::Time deadline,
                     v1::QueryAggregatesResponse& response);

  const replica::NodeContext& context_;
  const std::unique_ptr<router::AggregateReader> reader_;
  rpc::BlockingCalls forwarded_queries_;
};

}  // namespace allezon::aggregate_svc
