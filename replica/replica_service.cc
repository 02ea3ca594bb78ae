// SPDX-License-Identifier: Apache-2.0
#include "replica/replica_service.h"

#include <utility>

#include "replica/background.h"
#include "replica/calls.h"
#include "rpc/status.h"

namespace allezon::replica {
namespace {

// After this the caller may try again when a queue is full or replicas are missing.
constexpr absl::Duration kRetryDelay = absl::Milliseconds(100);
// Reads for peers that sync: a few, so that they leave the disk to what comes in.
constexpr int kSyncReadThreads = 2;
constexpr size_t kSyncReadsQueuedMax = 200;

void AddFailure(uint32_t position, const absl::Status& why,
                google::protobuf::RepeatedPtrField<v1::WriteFailure>& failures) {
  v1::WriteFailure& failure = *failures.Add();
  failure.set_index(position);
  failure.set_code(static_cast<int>(why.code()));
  failure.set_message(std::string(why.message()));
}

void FinishWithDelay(grpc::ServerUnaryReactor* reactor, const absl::Status& status) {
  reactor->Finish(rpc::ToGrpc(status.ok() ? status : rpc::WithRetryDelay(status, kRetryDelay)));
}

// The valid events of a call, by TakeEvents or BorrowEvents; null, with the call ended, where there
// is nothing to be stored.
template <typename Request, typename Response>
std::shared_ptr<const Incoming> Take(decltype(TakeEvents)& take, const NodeContext& context,
                                     const Replicator& replicator, const Acceptance& acceptance,
                                     grpc::ServerUnaryReactor* reactor, const Request& request,
                                     Response& response) {
  const absl::Status status = CheckCall(context, request);
  if (!status.ok()) {
    reactor->Finish(rpc::ToGrpc(status));
    return nullptr;
  }
  const size_t bytes = BytesOf(request.events());
  auto taken = rpc::BytesTaken::From(*context.calls, bytes);
  if (!taken) {
    reactor->Finish(rpc::ToGrpc(TooMuchWaits(*context.calls, bytes)));
    return nullptr;
  }
  context.identities->SetBy(*response.mutable_by());
  auto incoming = take(request.events(), replicator.holds(), acceptance, *std::move(taken),
                       [&](uint32_t position, const absl::Status& why) {
                         AddFailure(position, why, *response.mutable_failures());
                       });
  if (!incoming->entries.empty()) return incoming;
  reactor->Finish(grpc::Status::OK);
  return nullptr;
}

}  // namespace

ReplicaServiceImpl::ReplicaServiceImpl(const NodeContext& context, Identities& identities,
                                       Replicator& replicator, const Store& store)
    : context_(context),
      identities_(identities),
      replicator_(replicator),
      store_(store),
      reads_(kSyncReadThreads, kSyncReadsQueuedMax) {}

grpc::ServerUnaryReactor* ReplicaServiceImpl::Write(grpc::CallbackServerContext* call,
                                                    const v1::WriteRequest* request,
                                                    v1::WriteResponse* response) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  auto incoming = Take(TakeEvents, context_, replicator_, replicator_.AcceptanceOfWrites(), reactor,
                       *request, *response);
  if (incoming == nullptr) return reactor;
  const absl::Status status = replicator_.Write(
      incoming, absl::FromChrono(call->deadline()),
      [reactor, response, incoming](const absl::Status& whole,
                                    const std::vector<absl::Status>& failures) {
        for (size_t i = 0; i < failures.size(); ++i) {
          if (failures[i].ok()) continue;
          AddFailure(incoming->position[i], failures[i], *response->mutable_failures());
        }
        FinishWithDelay(reactor, whole);
      });
  if (!status.ok()) FinishWithDelay(reactor, status);
  return reactor;
}

grpc::ServerUnaryReactor* ReplicaServiceImpl::Replicate(grpc::CallbackServerContext* call,
                                                        const v1::ReplicateRequest* request,
                                                        v1::ReplicateResponse* response) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  const absl::StatusOr<uint32_t> from = identities_.CheckFrom(request->from());
  if (!from.ok()) {
    reactor->Finish(rpc::ToGrpc(from.status()));
    return reactor;
  }
  // The request lives until the call is finished.
  auto incoming =
      Take(BorrowEvents, context_, replicator_, replicator_.AcceptanceOfReplicates(*from, *request),
           reactor, *request, *response);
  if (incoming == nullptr) return reactor;
  const absl::Status status = replicator_.Store(
      *from, std::move(incoming),
      [reactor, response](const absl::Status& stored, const v1::ReplicateResponse& answer) {
        *response->mutable_unjoined_shards() = answer.unjoined_shards();
        FinishWithDelay(reactor, stored);
      });
  if (!status.ok()) FinishWithDelay(reactor, status);
  return reactor;
}

grpc::ServerUnaryReactor* ReplicaServiceImpl::Poll(grpc::CallbackServerContext* call,
                                                   const v1::PollRequest* request,
                                                   v1::PollResponse* response) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  absl::Status status = CheckCall(context_, *request);
  if (status.ok()) {
    const absl::StatusOr<std::optional<uint32_t>> from = identities_.Polled(*request, *response);
    status = from.status();
    // One whose place is taken is told nothing else.
    if (from.ok() && *from) replicator_.Poll(**from, *response);
  }
  reactor->Finish(rpc::ToGrpc(status));
  return reactor;
}

grpc::ServerUnaryReactor* ReplicaServiceImpl::SyncNow(grpc::CallbackServerContext* call,
                                                      const v1::SyncNowRequest* request,
                                                      v1::SyncNowResponse* response) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  absl::Status status = CheckCall(context_, *request);
  if (status.ok()) {
    context_.identities->SetBy(*response->mutable_by());
    replicator_.SyncNow(absl::MakeConstSpan(request->shards().data(), request->shards().size()));
  }
  reactor->Finish(rpc::ToGrpc(status));
  return reactor;
}

// --- what a sync reads ---

template <typename Request, typename Response>
grpc::ServerUnaryReactor* ReplicaServiceImpl::Answer(grpc::CallbackServerContext* call,
                                                     const Request* request, Response* response,
                                                     std::function<absl::Status()> read) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  absl::Status status = CheckCall(context_, *request);
  if (!status.ok()) {
    reactor->Finish(rpc::ToGrpc(status));
    return reactor;
  }
  // Of the answer nothing is counted: each peer asks one question at a time, and answers are pages.
  const size_t bytes = request->ByteSizeLong();
  auto taken = rpc::BytesTaken::From(*context_.calls, bytes);
  if (!taken) {
    reactor->Finish(rpc::ToGrpc(TooMuchWaits(*context_.calls, bytes)));
    return reactor;
  }
  const auto held = std::make_shared<rpc::BytesTaken>(*std::move(taken));
  const bool queued = reads_.Run([this, call, reactor, response, held, read = std::move(read)] {
    GiveWay(Share::kThird);
    const absl::Status done =
        call->IsCancelled() ? absl::CancelledError("the caller has gone") : read();
    context_.identities->SetBy(*response->mutable_by());
    FinishWithDelay(reactor, done);
  });
  if (!queued) {
    FinishWithDelay(reactor, absl::ResourceExhaustedError("too many syncs read here already"));
  }
  return reactor;
}

grpc::ServerUnaryReactor* ReplicaServiceImpl::ReadDigests(grpc::CallbackServerContext* call,
                                                          const v1::ReadDigestsRequest* request,
                                                          v1::ReadDigestsResponse* response) {
  return Answer(call, request, response,
                [=, this] { return replicator_.ReadDigests(*request, *response); });
}

grpc::ServerUnaryReactor* ReplicaServiceImpl::ReadIds(grpc::CallbackServerContext* call,
                                                      const v1::ReadIdsRequest* request,
                                                      v1::ReadIdsResponse* response) {
  return Answer(call, request, response, [=, this] { return store_.ReadIds(*request, *response); });
}

grpc::ServerUnaryReactor* ReplicaServiceImpl::ReadEvents(grpc::CallbackServerContext* call,
                                                         const v1::ReadEventsRequest* request,
                                                         v1::ReadEventsResponse* response) {
  return Answer(call, request, response,
                [=, this] { return store_.ReadEvents(*request, *response); });
}

grpc::ServerUnaryReactor* ReplicaServiceImpl::ReadExpired(grpc::CallbackServerContext* call,
                                                          const v1::ReadExpiredRequest* request,
                                                          v1::ReadExpiredResponse* response) {
  return Answer(call, request, response,
                [=, this] { return store_.ReadExpired(*request, *response); });
}

grpc::ServerUnaryReactor* ReplicaServiceImpl::ReadNewest(grpc::CallbackServerContext* call,
                                                         const v1::ReadNewestRequest* request,
                                                         v1::ReadNewestResponse* response) {
  return Answer(call, request, response,
                [=, this] { return replicator_.ReadNewest(*request, *response); });
}

grpc::ServerUnaryReactor* ReplicaServiceImpl::ReadRows(grpc::CallbackServerContext* call,
                                                       const v1::ReadRowsRequest* request,
                                                       v1::ReadRowsResponse* response) {
  return Answer(call, request, response,
                [=, this] { return store_.ReadRows(*request, *response); });
}

}  // namespace allezon::replica
