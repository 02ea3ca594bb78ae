// SPDX-License-Identifier: Apache-2.0
#include "replica/calls.h"

#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "rpc/status.h"

namespace allezon::replica {
namespace {

// After this the caller may try again when a queue is full.
constexpr absl::Duration kRetryDelay = absl::Milliseconds(100);
// What a read that waits takes beside its request: of gRPC, and here.
constexpr size_t kReadBytes = 4'096;
// Of an answer: as a message, and as it is sent.
constexpr size_t kAnswerCopies = 2;

}  // namespace

void FinishCall(grpc::ServerUnaryReactor* reactor, rpc::CallMetrics& metrics, absl::Time start,
                const absl::Status& status) {
  metrics.Ended(start, status);
  reactor->Finish(rpc::ToGrpc(status));
}

ReadReactor* ReadReactor::Make(rpc::ByteBudget& budget) {
  return absl::WrapUnique(new ReadReactor(budget)).release();
}

absl::Status ReadReactor::Hold(size_t bytes) {
  if (!budget_.Take(bytes)) return TooMuchWaits(budget_, bytes);
  held_ += bytes;
  return absl::OkStatus();
}

void FinishRead(const ReadCall& read, absl::Status status) {
  if (status.ok()) status = read.reactor->Hold(kAnswerCopies * read.response->ByteSizeLong());
  if (!status.ok()) read.response->Clear();
  FinishCall(read.reactor, *read.metrics, read.start, status);
}

void FinishReadLater(rpc::BlockingCalls& threads, const ReadCall& read,
                     std::function<absl::Status()> work) {
  absl::Status status = read.reactor->Hold(kReadBytes + read.request->ByteSizeLong());
  if (!status.ok()) return FinishRead(read, std::move(status));
  const bool queued = threads.Run([read, work = std::move(work)] {
    FinishRead(read,
               read.call->IsCancelled() ? absl::CancelledError("the caller has gone") : work());
  });
  if (queued) return;
  FinishRead(read, rpc::WithRetryDelay(absl::ResourceExhaustedError("too many reads wait already"),
                                       kRetryDelay));
}

absl::Status TooMuchWaits(const rpc::ByteBudget& budget, size_t bytes) {
  if (bytes > budget.bytes_max()) {
    return absl::ResourceExhaustedError(absl::StrCat("the call takes more memory (", bytes,
                                                     " bytes) than there is for all of them (",
                                                     budget.bytes_max(), "): split it"));
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
