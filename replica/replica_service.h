// SPDX-License-Identifier: Apache-2.0
//
// The gRPC face of the replicated set: checks events, hands them to the committer, answers when
// they are durable. Thread-safe.
#pragma once

#include "allezon/v1/replica.grpc.pb.h"
#include "replica/committer.h"
#include "replica/node.h"

namespace allezon::replica {

class ReplicaServiceImpl final : public v1::ReplicaService::CallbackService {
 public:
  // Both must outlive it and every call to it.
  ReplicaServiceImpl(const NodeContext& context, Committer& committer)
      : context_(context), committer_(committer) {}

  grpc::ServerUnaryReactor* Write(grpc::CallbackServerContext* call,
                                  const v1::WriteRequest* request,
                                  v1::WriteResponse* response) override;
  grpc::ServerUnaryReactor* Replicate(grpc::CallbackServerContext* call,
                                      const v1::ReplicateRequest* request,
                                      v1::ReplicateResponse* response) override;

 private:
  template <typename Request, typename Response>
  grpc::ServerUnaryReactor* Store(grpc::CallbackServerContext* call, const Request* request,
                                  Response* response);

  const NodeContext& context_;
  Committer& committer_;
};

}  // namespace allezon::replica
