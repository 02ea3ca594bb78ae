// SPDX-License-Identifier: Apache-2.0
//
// The calls of one read, several at a time, taken as they end. Used by one thread; the calls
// themselves end on any.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <deque>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "router/call_status.h"
#include "router/circuit.h"
#include "router/identity.h"
#include "rpc/status.h"

namespace allezon::router {

template <typename Request, typename Response>
class ReadCalls {
 public:
  struct Call {
    uint32_t instance = 0;
    grpc::ClientContext context;
    Request request;
    Response response;
    absl::Time sent;
    // Once it was taken.
    absl::Status status;
    absl::Duration took;
  };
  // The asynchronous method of a stub.
  using Method = std::function<void(grpc::ClientContext*, const Request*, Response*,
                                    std::function<void(grpc::Status)>)>;

  ReadCalls() : state_(std::make_shared<State>()) {}
  // Cancels what is under way, without waiting for it: what it uses is its own.
  ~ReadCalls() {
    for (const std::shared_ptr<Call>& call : under_way_) call->context.TryCancel();
  }
  ReadCalls(const ReadCalls&) = delete;
  ReadCalls& operator=(const ReadCalls&) = delete;

  // The call lives as long as this, or what ReleaseTaken gave. `circuit` is told what its end says
  // of the instance. An answer by somebody else than the request is for is as good as a refusal.
  Call* Start(uint32_t instance, std::shared_ptr<Circuit> circuit, absl::Time deadline,
              Request request, const Method& method) {
    const auto call = std::make_shared<Call>();
    call->instance = instance;
    call->request = std::move(request);
    call->sent = absl::Now();
    call->context.set_deadline(absl::ToChronoTime(deadline));
    under_way_.push_back(call);
    method(&call->context, &call->request, &call->response,
           [state = state_, call, circuit = std::move(circuit)](const grpc::Status& status) {
             if (!rpc::IsTransportFailure(status)) {
               circuit->Answered();
             } else if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
               circuit->Failed();
             }
             absl::MutexLock lock(&state->mutex);
             call->status =
                 status.ok()
                     ? StatusOfAnswer(CheckAnswerBy(call->response.by(), call->request.to()))
                     : StatusOfCall(status);
             call->took = absl::Now() - call->sent;
             state->ended.push_back(call.get());
           });
    return call.get();
  }

  // A call that has ended and was not taken yet; null where there is none by `until`.
  Call* Next(absl::Time until) {
    absl::MutexLock lock(&state_->mutex);
    const bool has_one = state_->mutex.AwaitWithDeadline(
        absl::Condition(
            +[](std::deque<Call*>* ended) { return !ended->empty(); }, &state_->ended),
        until);
    if (!has_one) return nullptr;
    Call* call = state_->ended.front();
    state_->ended.pop_front();
    for (auto at = under_way_.begin(); at != under_way_.end(); ++at) {
      if (at->get() != call) continue;
      taken_.push_back(std::move(*at));
      under_way_.erase(at);
      break;
    }
    return call;
  }

  // The calls that Next gave, for who needs their answers for longer.
  std::vector<std::shared_ptr<Call>> ReleaseTaken() { return std::move(taken_); }

 private:
  struct State {
    absl::Mutex mutex;
    std::deque<Call*> ended ABSL_GUARDED_BY(mutex);
  };
  const std::shared_ptr<State> state_;
  std::vector<std::shared_ptr<Call>> under_way_;
  std::vector<std::shared_ptr<Call>> taken_;
};

}  // namespace allezon::router
