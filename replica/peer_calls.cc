// SPDX-License-Identifier: Apache-2.0
#include "replica/peer_calls.h"

#include <google/protobuf/arena.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <chrono>
#include <type_traits>
#include <utility>

#include "rpc/log.h"
#include "rpc/status.h"

namespace allezon::replica {
namespace {

using Async = v1::ReplicaService::StubInterface::async_interface;

// A method as a call starts it.
template <typename Request, typename Response>
using Method = void (Async::*)(grpc::ClientContext*, const Request*, Response*,
                               std::function<void(grpc::Status)>);

// Which method a request is for.
Method<v1::PollRequest, v1::PollResponse> MethodOf(const v1::PollRequest&) { return &Async::Poll; }
Method<v1::ReadDigestsRequest, v1::ReadDigestsResponse> MethodOf(const v1::ReadDigestsRequest&) {
  return &Async::ReadDigests;
}
Method<v1::ReadIdsRequest, v1::ReadIdsResponse> MethodOf(const v1::ReadIdsRequest&) {
  return &Async::ReadIds;
}
Method<v1::ReadEventsRequest, v1::ReadEventsResponse> MethodOf(const v1::ReadEventsRequest&) {
  return &Async::ReadEvents;
}
Method<v1::ReadExpiredRequest, v1::ReadExpiredResponse> MethodOf(const v1::ReadExpiredRequest&) {
  return &Async::ReadExpired;
}
Method<v1::ReadRowsRequest, v1::ReadRowsResponse> MethodOf(const v1::ReadRowsRequest&) {
  return &Async::ReadRows;
}
Method<v1::ReadNewestRequest, v1::ReadNewestResponse> MethodOf(const v1::ReadNewestRequest&) {
  return &Async::ReadNewest;
}
Method<v1::ReplicateRequest, v1::ReplicateResponse> MethodOf(const v1::ReplicateRequest&) {
  return &Async::Replicate;
}

// Only declared: its type is what answers the method's request.
template <typename Request, typename Response>
Response ResponseOf(Method<Request, Response>);

std::chrono::system_clock::time_point DeadlineIn(Instant timeout_us) {
  return std::chrono::system_clock::now() + std::chrono::microseconds(timeout_us);
}

// Fills in whom a request is for.
template <typename Request>
void Address(const Identities& identities, uint32_t peer, Request& request) {
  identities.SetTo(peer, *request.mutable_to());
}
void Address(const Identities& identities, uint32_t peer, v1::PollRequest& request) {
  identities.SetPoll(peer, request);
}

// Whether an answer counts.
template <typename Response>
absl::Status Check(Identities& identities, uint32_t peer, const Response& response) {
  return identities.CheckBy(peer, response.by());
}
absl::Status Check(Identities& identities, uint32_t peer, const v1::PollResponse& response) {
  return identities.PollAnswered(peer, response);
}

absl::Status Stopping() { return absl::CancelledError("the node is shutting down"); }

}  // namespace

struct PeerCalls::Flight {
  virtual ~Flight() = default;
  grpc::ClientContext context;
};

template <typename Request>
struct PeerCalls::Unary final : Flight {
  using Response = decltype(ResponseOf(MethodOf(std::declval<Request>())));
  google::protobuf::Arena arena;
  Request* request = google::protobuf::Arena::CreateMessage<Request>(&arena);
  Response* response = google::protobuf::Arena::CreateMessage<Response>(&arena);
};

PeerCalls::PeerCalls(router::Channels& channels, Identities& identities, Replicated replicated,
                     Ended ended)
    : placement_(channels.placement()),
      identities_(identities),
      replicated_(std::move(replicated)),
      ended_(std::move(ended)),
      stubs_(router::MakeStubs<v1::ReplicaService>(channels)),
      refusals_(placement_.instances.size()) {}

PeerCalls::~PeerCalls() { Stop(); }

bool PeerCalls::Depart(Flight* flight) {
  absl::MutexLock lock(&mutex_);
  if (!stopping_) flights_.insert(flight);
  return !stopping_;
}

void PeerCalls::Land(Flight* flight) {
  absl::MutexLock lock(&mutex_);
  flights_.erase(flight);
}

void PeerCalls::Note(uint32_t peer, const absl::Status& answer) {
  const std::string refusal(answer.message());
  {
    absl::MutexLock lock(&mutex_);
    if (std::exchange(refusals_[peer], refusal) == refusal) return;
  }
  const std::string& id = placement_.instances[peer].id;
  if (answer.ok()) {
    rpc::LogInfo("a peer counts again", {{"peer", id}});
  } else {
    rpc::LogWarn("a peer does not count", {{"peer", id}, {"detail", refusal}});
  }
}

template <typename Request, typename Done>
void PeerCalls::Start(uint32_t peer, Instant timeout_us, std::unique_ptr<Unary<Request>> call,
                      Done done) {
  if (!Depart(call.get())) return done(Stopping(), *call->response);
  call->context.set_deadline(DeadlineIn(timeout_us));
  Address(identities_, peer, *call->request);
  Unary<Request>* sent = call.release();  // the callback owns it again
  (stubs_[peer].Get()->async()->*MethodOf(*sent->request))(
      &sent->context, sent->request, sent->response,
      [this, sent, peer, done = std::move(done)](const grpc::Status& status) {
        const std::unique_ptr<Unary<Request>> call(sent);
        const absl::Status checked =
            status.ok() ? Check(identities_, peer, *call->response) : rpc::FromGrpc(status);
        if constexpr (std::is_same_v<Request, v1::PollRequest>) {
          if (status.ok() || absl::IsFailedPrecondition(checked)) Note(peer, checked);
        }
        done(checked, *call->response);
        Land(sent);
      });
}

void PeerCalls::Send(const Actions::Replicate& batch) {
  auto call = std::make_unique<Unary<v1::ReplicateRequest>>();
  call->request->set_placement_version(placement_.version);
  identities_.SetFrom(*call->request->mutable_from());
  call->request->set_oldest_age_us(static_cast<uint64_t>(batch.oldest_age_us));
  call->request->set_sent_wall_us(absl::ToUnixMicros(absl::Now()));
  call->request->mutable_events()->Reserve(static_cast<int>(batch.events.size()));
  for (const EventRef& from : batch.events) {
    v1::Event& event = *call->request->add_events();
    event.set_shard(from->shard);
    event.set_id(from->id.data(), from->id.size());
    event.set_accepted_s(from->accepted_s);
    event.set_time_ms(from->time_ms);
    event.set_tag(from->tag);
  }
  Start(batch.peer, batch.timeout_us, std::move(call),
        [this, peer = batch.peer, id = batch.batch](const absl::Status& status,
                                                    const v1::ReplicateResponse& response) {
          replicated_(peer, id, status, response);
        });
}

void PeerCalls::Send(Actions::Call call) {
  std::visit(
      [&]<typename Request>(Request& request) {
        auto unary = std::make_unique<Unary<Request>>();
        *unary->request = std::move(request);
        Start(call.peer, call.timeout_us, std::move(unary),
              [this, id = call.id](const absl::Status& status, auto& response) {
                ended_(id, status, std::move(response));
              });
      },
      call.request);
}

void PeerCalls::Stop() {
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
  for (Flight* flight : flights_) flight->context.TryCancel();
  mutex_.Await(absl::Condition(
      +[](std::unordered_set<Flight*>* flights) { return flights->empty(); }, &flights_));
}

}  // namespace allezon::replica
