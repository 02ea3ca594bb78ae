// SPDX-License-Identifier: Apache-2.0
//
// The gRPC face of profiles: reads of this node's own store for its peers, and the calls of other
// teams, which any node takes and forwards to the owners of the shard. Thread-safe.
#pragma once

#include <memory>

#include "allezon/v1/profile.grpc.pb.h"
#include "allezon/v1/profile_replica.grpc.pb.h"
#include "profile_svc/profile_view.h"
#include "replica/node.h"
#include "router/readers.h"
#include "rpc/blocking_calls.h"

namespace allezon::profile_svc {

class ProfileReplicaServiceImpl final : public v1::ProfileReplicaService::CallbackService {
 public:
  // Both must outlive it and every call to it.
  ProfileReplicaServiceImpl(const replica::NodeContext& context, const ProfileView& view);

  // FAILED_PRECONDITION: the call is for somebody else, or the caller's placement is another one.
  // INVALID_ARGUMENT: this node does not hold the shard, or the cookie is not of it. UNAVAILABLE:
  // it may lack tags. RESOURCE_EXHAUSTED: too many reads wait for the disk.
  grpc::ServerUnaryReactor* ReadProfile(grpc::CallbackServerContext* call,
                                        const v1::ReadProfileRequest* request,
                                        v1::ReadProfileResponse* response) override;

 private:
  absl::Status Check(const v1::ReadProfileRequest& request) const;

  const replica::NodeContext& context_;
  const ProfileView& view_;
  rpc::BlockingCalls disk_reads_;
};

// Promises and errors are those of the proto.
class ProfileServiceImpl final : public v1::ProfileService::CallbackService {
 public:
  // `context` must outlive it and every call to it.
  ProfileServiceImpl(const replica::NodeContext& context,
                     std::unique_ptr<router::ProfileReader> reader);

  grpc::ServerUnaryReactor* AddTags(grpc::CallbackServerContext* call,
                                    const v1::ProfileServiceAddTagsRequest* request,
                                    v1::ProfileServiceAddTagsResponse* response) override;
  grpc::ServerUnaryReactor* GetProfile(grpc::CallbackServerContext* call,
                                       const v1::GetProfileRequest* request,
                                       v1::GetProfileResponse* response) override;

 private:
  absl::Status Get(const v1::GetProfileRequest& request, absl::Time deadline,
                   v1::GetProfileResponse& response);

  const replica::NodeContext& context_;
  const std::unique_ptr<router::ProfileReader> reader_;
  rpc::BlockingCalls forwarded_reads_;
};

}  // namespace allezon::profile_svc
