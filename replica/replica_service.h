// SPDX-License-Identifier: Apache-2.0
//
// The gRPC face of the replicated set: what routers and peers ask. Thread-safe.
#pragma once

#include "allezon/v1/replica.grpc.pb.h"
#include "replica/node.h"
#include "replica/replicator.h"
#include "replica/store.h"
#include "rpc/blocking_calls.h"

namespace allezon::replica {

// Promises and errors are those of the proto.
class ReplicaServiceImpl final : public v1::ReplicaService::CallbackService {
 public:
  // All must outlive it and every call to it.
  ReplicaServiceImpl(const NodeContext& context, Identities& identities, Replicator& replicator,
                     const Store& store);

  grpc::ServerUnaryReactor* Write(grpc::CallbackServerContext* call,
                                  const v1::WriteRequest* request,
                                  v1::WriteResponse* response) override;
  grpc::ServerUnaryReactor* Replicate(grpc::CallbackServerContext* call,
                                      const v1::ReplicateRequest* request,
                                      v1::ReplicateResponse* response) override;
  grpc::ServerUnaryReactor* Poll(grpc::CallbackServerContext* call, const v1::PollRequest* request,
                                 v1::PollResponse* response) override;
  grpc::ServerUnaryReactor* ReadDigests(grpc::CallbackServerContext* call,
                                        const v1::ReadDigestsRequest* request,
                                        v1::ReadDigestsResponse* response) override;
  grpc::ServerUnaryReactor* ReadIds(grpc::CallbackServerContext* call,
                                    const v1::ReadIdsRequest* request,
                                    v1::ReadIdsResponse* response) override;
  grpc::ServerUnaryReactor* ReadEvents(grpc::CallbackServerContext* call,
                                       const v1::ReadEventsRequest* request,
                                       v1::ReadEventsResponse* response) override;
  grpc::ServerUnaryReactor* ReadExpired(grpc::CallbackServerContext* call,
                                        const v1::ReadExpiredRequest* request,
                                        v1::ReadExpiredResponse* response) override;
  grpc::ServerUnaryReactor* ReadNewest(grpc::CallbackServerContext* call,
                                       const v1::ReadNewestRequest* request,
                                       v1::ReadNewestResponse* response) override;
  grpc::ServerUnaryReactor* ReadRows(grpc::CallbackServerContext* call,
                                     const v1::ReadRowsRequest* request,
                                     v1::ReadRowsResponse* response) override;
  grpc::ServerUnaryReactor* SyncNow(grpc::CallbackServerContext* call,
                                    const v1::SyncNowRequest* request,
                                    v1::SyncNowResponse* response) override;

 private:
  // Checks the call, then answers with what `read` returns, from a thread that may wait.
  template <typename Request, typename Response>
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* call, const Request* request,
                                   Response* response, std::function<absl::Status()> read);

  const NodeContext& context_;
  Identities& identities_;
  Replicator& replicator_;
  const Store& store_;
  rpc::BlockingCalls reads_;
};

}  // namespace allezon::replica
