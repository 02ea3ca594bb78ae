// SPDX-License-Identifier: Apache-2.0
#include "replica/calls.h"

#include "absl/strings/str_cat.h"
#include "rpc/status.h"

namespace allezon::replica {
namespace {

// After this the caller may try again when a queue is full.
constexpr absl::Duration kRetryDelay = absl::Milliseconds(100);

}  // namespace

void FinishCall(grpc::ServerUnaryReactor* reactor, rpc::CallMetrics& metrics, absl::Time start,
                const absl::Status& status) {
  metrics.Ended(start, status);
  reactor->Finish(rpc::ToGrpc(status));
}

void FinishLater(rpc::BlockingCalls& threads, grpc::CallbackServerContext* call,
                 grpc::ServerUnaryReactor* reactor, rpc::CallMetrics& metrics, absl::Time start,
                 std::function<absl::Status()> work) {
  const bool queued = threads.Run([call, reactor, &metrics, start, work = std::move(work)] {
    FinishCall(reactor, metrics, start,
               call->IsCancelled() ? absl::CancelledError("the caller has gone") : work());
  });
  if (queued) return;
  FinishCall(reactor, metrics, start,
             rpc::WithRetryDelay(absl::ResourceExhaustedError("too many reads wait already"),
                                 kRetryDelay));
}

absl::Status TooMuchWaits(const NodeContext& context, size_t bytes) {
  if (bytes > context.calls->bytes_max()) {
    return absl::ResourceExhaustedError(absl::StrCat("the call takes more memory (", bytes,
                                                     " bytes) than there is for all of them (",
                                                     context.calls->bytes_max(), "): split it"));
  }
  return rpc::WithRetryDelay(absl::ResourceExhaustedError("too much waits in memory already"),
                             kRetryDelay);
}

absl::Status CheckCall(const NodeContext& context, const v1::NodeIdentity& to,
                       uint64_t placement_version) {
  if (absl::Status status = context.identities->CheckTo(to); !status.ok()) return status;
  const uint64_t own = context.placement().version;
  if (placement_version == own) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the caller's placement is ", placement_version,
                                                    ", that of ", context.id, " is ", own));
}

absl::Status CheckReadable(const NodeContext& context, absl::Span<const uint32_t> shards,
                           bool for_quorum) {
  for (const uint32_t shard : shards) {
    if (absl::Status status = context.check_readable(shard, for_quorum); !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status CheckConsistency(v1::Consistency consistency) {
  switch (consistency) {
    case v1::CONSISTENCY_UNSPECIFIED:
    case v1::CONSISTENCY_ONE:
    case v1::CONSISTENCY_QUORUM:
      return absl::OkStatus();
    default:
      return rpc::InvalidField("consistency", "is not one of Consistency");
  }
}

}  // namespace allezon::replica
