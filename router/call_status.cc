// SPDX-License-Identifier: Apache-2.0
#include "router/call_status.h"

#include <grpcpp/support/status.h>

#include "rpc/status.h"

namespace allezon::router {
namespace {

constexpr absl::Duration kRetryDelay = absl::Milliseconds(100);

}  // namespace

absl::Status StatusOfAnswer(const absl::Status& said) {
  if (!absl::IsFailedPrecondition(said)) return said;
  return rpc::WithRetryDelay(absl::UnavailableError(said.message()), kRetryDelay);
}

absl::Status StatusOfCall(const grpc::Status& status) {
  const absl::Status said = rpc::FromGrpc(status);
  switch (said.code()) {
    case absl::StatusCode::kFailedPrecondition:
      return StatusOfAnswer(said);
    case absl::StatusCode::kInvalidArgument:
      return absl::InternalError(said.message());
    case absl::StatusCode::kUnknown:
      return rpc::IsTransportFailure(status) ? absl::UnavailableError(said.message()) : said;
    default:
      return said;
  }
}

bool IsTransient(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kCancelled:  // by the node, which is shutting down
      return true;
    default:
      return false;
  }
}

bool IsFaultOfOne(const absl::Status& status) {
  return absl::IsDataLoss(status) || absl::IsInternal(status) || absl::IsUnknown(status);
}

}  // namespace allezon::router
