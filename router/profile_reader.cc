// SPDX-License-Identifier: Apache-2.0
#include <grpcpp/grpcpp.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "allezon/v1/profile_replica.grpc.pb.h"
#include "router/channels.h"
#include "router/readers.h"
#include "rpc/status.h"

namespace allezon::router {
namespace {

// A replica that does not answer leaves time for another one.
constexpr absl::Duration kAttemptMax = absl::Seconds(1);
constexpr absl::Duration kPause = absl::Milliseconds(20);
constexpr absl::Duration kRetryDelay = absl::Seconds(1);

std::vector<std::string> TagsOf(google::protobuf::RepeatedPtrField<v1::StoredTag>& stored) {
  std::vector<std::string> tags;
  tags.reserve(stored.size());
  for (v1::StoredTag& tag : stored) tags.push_back(std::move(*tag.mutable_tag()));
  return tags;
}

class GrpcProfileReader final : public ProfileReader {
 public:
  explicit GrpcProfileReader(Channels& channels) : placement_(channels.placement()) {
    for (uint32_t i = 0; i < placement_.instances.size(); ++i) {
      stubs_.push_back(v1::ProfileReplicaService::NewStub(channels.To(i)));
    }
  }

  absl::StatusOr<Profile> Read(const ProfileQuery& query, absl::Time deadline) override {
    v1::ReadProfileRequest request;
    request.set_placement_version(placement_.version);
    request.set_shard(ShardOf(query.cookie, placement_.shards()));
    request.set_cookie(query.cookie);
    request.set_from_ms(query.from_ms);
    request.set_to_ms(query.to_ms);
    request.set_limit(query.limit);
    std::vector<uint32_t> readable;
    for (const Replica& replica : placement_.replicas[request.shard()]) {
      if (replica.state != ReplicaState::kInitializing) readable.push_back(replica.instance);
    }
    for (size_t attempt = 0;; ++attempt) {
      v1::ReadProfileResponse response;
      const absl::Status status =
          Ask(*stubs_[readable[attempt % readable.size()]], request, deadline, response);
      if (status.ok()) {
        return Profile{TagsOf(*response.mutable_views()), TagsOf(*response.mutable_buys())};
      }
      const bool retryable = absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
                             absl::IsResourceExhausted(status) || absl::IsAborted(status);
      if (!retryable) return status;
      const bool round_over = (attempt + 1) % readable.size() == 0;
      if (absl::Now() + kPause >= deadline) return rpc::WithRetryDelay(status, kRetryDelay);
      if (round_over) absl::SleepFor(kPause);
    }
  }

 private:
  static absl::Status Ask(v1::ProfileReplicaService::Stub& stub,
                          const v1::ReadProfileRequest& request, absl::Time deadline,
                          v1::ReadProfileResponse& response) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(std::min(deadline, absl::Now() + kAttemptMax)));
    return rpc::FromGrpc(stub.ReadProfile(&context, request, &response));
  }

  const Placement& placement_;
  std::vector<std::unique_ptr<v1::ProfileReplicaService::Stub>> stubs_;
};

}  // namespace

std::unique_ptr<ProfileReader> MakeProfileReader(Channels& channels) {
  return std::make_unique<GrpcProfileReader>(channels);
}

}  // namespace allezon::router
