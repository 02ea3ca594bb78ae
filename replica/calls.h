// SPDX-License-Identifier: Apache-2.0
//
// What the gRPC handlers of both services share: the end of a call, calls that wait, the checks
// that every one needs, and AddTags, which is the same job in both.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <functional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "allezon/v1/tag.pb.h"
#include "replica/node.h"
#include "router/add_tags.h"
#include "rpc/blocking_calls.h"
#include "rpc/call_metrics.h"
#include "rpc/memory.h"

namespace allezon::replica {

// Ends a call and counts it.
void FinishCall(grpc::ServerUnaryReactor* reactor, rpc::CallMetrics& metrics, absl::Time start,
                const absl::Status& status);

// The reactor of a read, which holds bytes of NodeContext::reads: of its request while that waits,
// and of its answer until gRPC has sent it, as a caller may be slow to take it. Deletes itself when
// gRPC is done with it.
class ReadReactor final : public grpc::ServerUnaryReactor {
 public:
  // `budget` must outlive it.
  static ReadReactor* Make(rpc::ByteBudget& budget);
  ~ReadReactor() override { budget_.Give(held_); }

  // kResourceExhausted, with nothing held, where there is no room for so many more. To be called
  // before the call is finished, by one thread at a time.
  absl::Status Hold(size_t bytes);
  void OnDone() override { delete this; }

 private:
  explicit ReadReactor(rpc::ByteBudget& budget) : budget_(budget) {}

  rpc::ByteBudget& budget_;
  size_t held_ = 0;
};

// A read on its way through a handler; everything but `call` and `metrics` lives until it is
// finished.
struct ReadCall {
  grpc::CallbackServerContext* call;
  ReadReactor* reactor;
  const google::protobuf::Message* request;
  google::protobuf::Message* response;
  rpc::CallMetrics* metrics;
  absl::Time start = absl::Now();
};

// Ends a read and counts it; with RESOURCE_EXHAUSTED where there is no room for the answer.
void FinishRead(const ReadCall& read, absl::Status status);

// Ends the read with what `work` returns, once one of the threads has run it; at once with
// RESOURCE_EXHAUSTED where too many or too much waits already, and without running it where the
// caller has gone meanwhile.
void FinishReadLater(rpc::BlockingCalls& threads, const ReadCall& read,
                     std::function<absl::Status()> work);

// What holds of every inner call. FAILED_PRECONDITION where it is for somebody else, or the
// caller's placement is another one.
absl::Status CheckCall(const NodeContext& context, const v1::NodeIdentity& to,
                       uint64_t placement_version);
template <typename Request>
absl::Status CheckCall(const NodeContext& context, const Request& request) {
  return CheckCall(context, request.to(), request.placement_version());
}

// Whether this node may answer reads of the shards: NodeContext::check_readable for each. To be
// asked before a read and again after it.
absl::Status CheckReadable(const NodeContext& context, absl::Span<const uint32_t> shards,
                           bool for_quorum);

// Which consistencies a read may ask for.
absl::Status CheckConsistency(v1::Consistency consistency);

// kResourceExhausted: the budget has no room for a call that takes `bytes`. With a delay after
// which to try again, where it ever can have.
absl::Status TooMuchWaits(const rpc::ByteBudget& budget, size_t bytes);

// What tags that other teams add take, in times of what they are on the wire: as they came, as
// events, and in what goes to their nodes.
inline constexpr size_t kAddedTagCopies = 3;

// Serves AddTags of either service. `context` must outlive the call.
template <typename Request, typename Response>
grpc::ServerUnaryReactor* ServeAddTags(const NodeContext& context,
                                       grpc::CallbackServerContext* call, const Request* request,
                                       Response* response, rpc::CallMetrics& metrics) {
  const absl::Time start = absl::Now();
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  const size_t bytes = kAddedTagCopies * request->ByteSizeLong();
  auto taken = rpc::BytesTaken::From(*context.calls, bytes);
  if (!taken) {
    FinishCall(reactor, metrics, start, TooMuchWaits(*context.calls, bytes));
    return reactor;
  }
  const auto held = std::make_shared<rpc::BytesTaken>(*std::move(taken));
  router::AddTags(*context.writer, request->tags(), context.placement().shards(),
                  context.future_max, absl::FromChrono(call->deadline()),
                  [reactor, request, response, start, held, &metrics](const absl::Status& status) {
                    if (status.ok()) response->set_accepted(request->tags_size());
                    FinishCall(reactor, metrics, start, status);
                  });
  return reactor;
}

}  // namespace allezon::replica
