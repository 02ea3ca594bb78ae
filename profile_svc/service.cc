// SPDX-License-Identifier: Apache-2.0
#include "profile_svc/service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "replica/calls.h"
#include "router/tag_rules.h"
#include "rpc/status.h"

namespace allezon::profile_svc {
namespace {

// Reads that the block cache cannot answer; a disk serves a few at a time well.
constexpr int kDiskReadThreads = 8;
// Reads that wait for other nodes, of which one may hang until the router gives it up.
constexpr int kForwardedReadThreads = 32;
constexpr size_t kReadsQueuedMax = 1'000;
// A call without a deadline, or with one beyond, gets this one.
constexpr absl::Duration kGetProfileTimeoutMax = absl::Seconds(10);

absl::Status CheckCookie(std::string_view cookie) {
  if (cookie.empty()) return rpc::InvalidField("cookie", "is empty");
  if (cookie.size() > router::kTextBytesMax) {
    return rpc::InvalidField("cookie",
                             absl::StrCat("is longer than ", router::kTextBytesMax, " bytes"));
  }
  return absl::OkStatus();
}

absl::Status CheckGet(const v1::GetProfileRequest& request) {
  if (absl::Status status = CheckCookie(request.cookie()); !status.ok()) return status;
  if (request.from_ms() > request.to_ms()) {
    return rpc::InvalidField("to_ms", "is before from_ms");
  }
  return replica::CheckConsistency(request.consistency());
}

absl::Status ParseTags(const std::vector<std::string_view>& serialised,
                       google::protobuf::RepeatedPtrField<v1::Tag>& tags) {
  tags.Reserve(static_cast<int>(serialised.size()));
  for (const std::string_view bytes : serialised) {
    if (!tags.Add()->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
      return absl::DataLossError("a stored tag cannot be parsed");
    }
  }
  return absl::OkStatus();
}

struct Meters {
  rpc::CallMetrics read_profile{"ReadProfile"};
  rpc::CallMetrics add_tags{"AddTags"};
  rpc::CallMetrics get_profile{"GetProfile"};
};

Meters& TheMeters() {
  static Meters meters;
  return meters;
}

}  // namespace

ProfileReplicaServiceImpl::ProfileReplicaServiceImpl(const replica::NodeContext& context,
                                                     const ProfileView& view)
    : context_(context), view_(view), disk_reads_(kDiskReadThreads, kReadsQueuedMax) {
  TheMeters();
}

absl::Status ProfileReplicaServiceImpl::Check(const v1::ReadProfileRequest& request) const {
  if (absl::Status s = replica::CheckCall(context_, request); !s.ok()) return s;
  if (request.shard() >= context_.holds.size() || !context_.holds[request.shard()]) {
    return rpc::InvalidField(
        "shard", absl::StrCat("shard ", request.shard(), " is not held by ", context_.id));
  }
  const auto shards = static_cast<uint32_t>(context_.holds.size());
  if (router::ShardOf(request.cookie(), shards) != request.shard()) {
    return rpc::InvalidField("cookie", absl::StrCat("is not of shard ", request.shard()));
  }
  if (absl::Status status = CheckCookie(request.cookie()); !status.ok()) return status;
  if (request.limit() > kProfileTagsKept) {
    return rpc::InvalidField("limit", absl::StrCat("is above ", kProfileTagsKept));
  }
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* ProfileReplicaServiceImpl::ReadProfile(
    grpc::CallbackServerContext* call, const v1::ReadProfileRequest* request,
    v1::ReadProfileResponse* response) {
  const replica::ReadCall waits{call, replica::ReadReactor::Make(*context_.reads), request,
                                response, &TheMeters().read_profile};
  if (absl::Status status = Check(*request); !status.ok()) {
    replica::FinishRead(waits, status);
    return waits.reactor;
  }
  const auto read = [this, request, response](ProfileView::Tier tier) {
    const auto readable = [&] {
      return replica::CheckReadable(context_, {request->shard()}, request->for_quorum());
    };
    if (absl::Status s = readable(); !s.ok()) return s;
    absl::Status s = view_.Read(request->shard(), request->cookie(), request->from_ms(),
                                request->to_ms(), request->limit(), *response, tier);
    context_.identities->SetBy(*response->mutable_by());
    return s.ok() ? readable() : s;
  };
  // What is in memory is answered here: a hand-over to another thread costs as much as the read.
  absl::Status status = read(ProfileView::Tier::kMemoryOnly);
  if (!absl::IsAborted(status)) {
    replica::FinishRead(waits, status);
    return waits.reactor;
  }
  replica::FinishReadLater(disk_reads_, waits, [read] { return read(ProfileView::Tier::kAll); });
  return waits.reactor;
}

ProfileServiceImpl::ProfileServiceImpl(const replica::NodeContext& context,
                                       std::unique_ptr<router::ProfileReader> reader)
    : context_(context),
      reader_(std::move(reader)),
      forwarded_reads_(kForwardedReadThreads, kReadsQueuedMax) {
  TheMeters();
}

grpc::ServerUnaryReactor* ProfileServiceImpl::AddTags(
    grpc::CallbackServerContext* call, const v1::ProfileServiceAddTagsRequest* request,
    v1::ProfileServiceAddTagsResponse* response) {
  return replica::ServeAddTags(context_, call, request, response, TheMeters().add_tags);
}

grpc::ServerUnaryReactor* ProfileServiceImpl::GetProfile(grpc::CallbackServerContext* call,
                                                         const v1::GetProfileRequest* request,
                                                         v1::GetProfileResponse* response) {
  const replica::ReadCall read{call, replica::ReadReactor::Make(*context_.reads), request, response,
                               &TheMeters().get_profile};
  if (absl::Status status = CheckGet(*request); !status.ok()) {
    replica::FinishRead(read, status);
    return read.reactor;
  }
  const absl::Time deadline =
      std::min(absl::FromChrono(call->deadline()), read.start + kGetProfileTimeoutMax);
  replica::FinishReadLater(forwarded_reads_, read,
                           [=, this] { return Get(*request, deadline, *response); });
  return read.reactor;
}

absl::Status ProfileServiceImpl::Get(const v1::GetProfileRequest& request, absl::Time deadline,
                                     v1::GetProfileResponse& response) {
  if (absl::Now() >= deadline) return absl::DeadlineExceededError("waited too long for a thread");
  router::ProfileQuery query;
  query.cookie = request.cookie();
  query.from_ms = request.from_ms();
  query.to_ms = request.to_ms();
  query.limit =
      request.has_limit() ? std::min(request.limit(), kProfileTagsKept) : kProfileTagsKept;
  query.quorum = request.consistency() == v1::CONSISTENCY_QUORUM;
  const absl::StatusOr<router::Profile> profile = reader_->Read(query, deadline);
  if (!profile.ok()) return profile.status();
  response.set_cookie(request.cookie());
  if (absl::Status s = ParseTags(profile->views, *response.mutable_views()); !s.ok()) return s;
  return ParseTags(profile->buys, *response.mutable_buys());
}

}  // namespace allezon::profile_svc
