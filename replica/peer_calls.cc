// SPDX-License-Identifier: Apache-2.0
#include "replica/peer_calls.h"

#include <google/protobuf/arena.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <chrono>
#include <utility>

#include "rpc/status.h"

namespace allezon::replica {
namespace {

using Stub = v1::ReplicaService::Stub;
using Callback = std::function<void(grpc::Status)>;

// The method of each kind of request.
void Start(Stub& stub, grpc::ClientContext* context, const v1::PollRequest* request,
           v1::PollResponse* response, Callback done) {
  stub.async()->Poll(context, request, response, std::move(done));
}
void Start(Stub& stub, grpc::ClientContext* context, const v1::ReadDigestsRequest* request,
           v1::ReadDigestsResponse* response, Callback done) {
  stub.async()->ReadDigests(context, request, response, std::move(done));
}
void Start(Stub& stub, grpc::ClientContext* context, const v1::ReadIdsRequest* request,
           v1::ReadIdsResponse* response, Callback done) {
  stub.async()->ReadIds(context, request, response, std::move(done));
}
void Start(Stub& stub, grpc::ClientContext* context, const v1::ReadEventsRequest* request,
           v1::ReadEventsResponse* response, Callback done) {
  stub.async()->ReadEvents(context, request, response, std::move(done));
}
void Start(Stub& stub, grpc::ClientContext* context, const v1::ReadTakenRequest* request,
           v1::ReadTakenResponse* response, Callback done) {
  stub.async()->ReadTaken(context, request, response, std::move(done));
}
void Start(Stub& stub, grpc::ClientContext* context, const v1::ReadRowsRequest* request,
           v1::ReadRowsResponse* response, Callback done) {
  stub.async()->ReadRows(context, request, response, std::move(done));
}

std::chrono::system_clock::time_point DeadlineIn(Instant timeout_us) {
  return std::chrono::system_clock::now() + std::chrono::microseconds(timeout_us);
}

absl::Status Stopping() { return absl::CancelledError("the node is shutting down"); }

}  // namespace

struct PeerCalls::Flight {
  virtual ~Flight() = default;
  grpc::ClientContext context;
};

template <typename Request, typename Response>
struct PeerCalls::Unary final : Flight {
  google::protobuf::Arena arena;
  Request* request = google::protobuf::Arena::CreateMessage<Request>(&arena);
  Response* response = google::protobuf::Arena::CreateMessage<Response>(&arena);
};

PeerCalls::PeerCalls(router::Channels& channels, uint32_t self, Replicated replicated, Ended ended)
    : placement_(channels.placement()),
      self_(self),
      replicated_(std::move(replicated)),
      ended_(std::move(ended)) {
  for (uint32_t i = 0; i < placement_.instances.size(); ++i) {
    stubs_.push_back(v1::ReplicaService::NewStub(channels.To(i)));
  }
}

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

void PeerCalls::Send(const Actions::Replicate& batch) {
  auto call = std::make_unique<Unary<v1::ReplicateRequest, v1::ReplicateResponse>>();
  if (!Depart(call.get())) return replicated_(batch.peer, batch.batch, Stopping(), {});
  call->request->set_placement_version(placement_.version);
  call->request->set_from_instance(self_);
  call->request->mutable_events()->Reserve(static_cast<int>(batch.events.size()));
  for (const EventRef& from : batch.events) {
    v1::Event& event = *call->request->add_events();
    event.set_shard(from->shard);
    event.set_id(from->id.data(), from->id.size());
    event.set_accepted_s(from->accepted_s);
    event.set_time_ms(from->time_ms);
    event.set_tag(from->tag);
  }
  call->context.set_deadline(DeadlineIn(batch.timeout_us));
  auto* sent = call.release();  // the callback owns it again
  stubs_[batch.peer]->async()->Replicate(
      &sent->context, sent->request, sent->response,
      [this, sent, peer = batch.peer, id = batch.batch](const grpc::Status& status) {
        const std::unique_ptr<std::remove_pointer_t<decltype(sent)>> call(sent);
        replicated_(peer, id, rpc::FromGrpc(status), *call->response);
        Land(sent);
      });
}

template <typename Response, typename Request>
void PeerCalls::SendUnary(const Actions::Call& call, Request request) {
  auto flight = std::make_unique<Unary<Request, Response>>();
  if (!Depart(flight.get())) return ended_(call.id, Stopping(), Response());
  *flight->request = std::move(request);
  flight->context.set_deadline(DeadlineIn(call.timeout_us));
  auto* sent = flight.release();  // the callback owns it again
  Start(*stubs_[call.peer], &sent->context, sent->request, sent->response,
        [this, sent, id = call.id](const grpc::Status& status) {
          const std::unique_ptr<std::remove_pointer_t<decltype(sent)>> flight(sent);
          ended_(id, rpc::FromGrpc(status), std::move(*flight->response));
          Land(sent);
        });
}

void PeerCalls::Send(Actions::Call call) {
  struct Sender {
    void operator()(v1::PollRequest& r) { calls.SendUnary<v1::PollResponse>(call, std::move(r)); }
    void operator()(v1::ReadDigestsRequest& r) {
      calls.SendUnary<v1::ReadDigestsResponse>(call, std::move(r));
    }
    void operator()(v1::ReadIdsRequest& r) {
      calls.SendUnary<v1::ReadIdsResponse>(call, std::move(r));
    }
    void operator()(v1::ReadEventsRequest& r) {
      calls.SendUnary<v1::ReadEventsResponse>(call, std::move(r));
    }
    void operator()(v1::ReadTakenRequest& r) {
      calls.SendUnary<v1::ReadTakenResponse>(call, std::move(r));
    }
    void operator()(v1::ReadRowsRequest& r) {
      calls.SendUnary<v1::ReadRowsResponse>(call, std::move(r));
    }
    PeerCalls& calls;
    const Actions::Call& call;
  };
  std::visit(Sender{*this, call}, call.request);
}

void PeerCalls::Stop() {
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
  for (Flight* flight : flights_) flight->context.TryCancel();
  mutex_.Await(absl::Condition(
      +[](std::unordered_set<Flight*>* flights) { return flights->empty(); }, &flights_));
}

}  // namespace allezon::replica
