// SPDX-License-Identifier: Apache-2.0
//
// absl::Status inside a process, grpc::Status with google.rpc details between processes.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace grpc {
class Status;
}

namespace allezon::rpc {

// kInvalidArgument about a field, whose name travels as a status payload (and, over gRPC, as
// BadRequest).
absl::Status InvalidField(std::string_view field, std::string_view description);
// The field that a status is about; empty where none is.
std::string FieldOf(const absl::Status& status);

// The same error with a delay after which to retry (over gRPC, RetryInfo).
absl::Status WithRetryDelay(absl::Status status, absl::Duration delay);
// The delay that a status carries; zero where none.
absl::Duration RetryDelayOf(const absl::Status& status);

// Code, message, field and delay survive both ways.
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

// Whether a call failed without a word of the peer: no connection, a broken one, no answer in time,
// a server that is going. Everything that ToGrpc makes carries details, which tells it apart.
bool IsTransportFailure(const grpc::Status& status);

}  // namespace allezon::rpc
