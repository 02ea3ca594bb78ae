// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "absl/status/status.h"

namespace grpc {
class Status;
}

namespace allezon::router {

// What the end of a call to a replica means to who routes. A replica that goes by another placement
// took nothing and knows nothing: kUnavailable with a delay, since others may go by ours. As
// callers have checked what they were asked, a replica that calls the question wrong is kInternal.
// A transport that names no reason is kUnavailable.
absl::Status StatusOfCall(const grpc::Status& status);
// The same, of what CheckAnswerBy said of an answer.
absl::Status StatusOfAnswer(const absl::Status& said);

// Whether what failed so may succeed a little later, at the same replica or at another one.
bool IsTransient(const absl::Status& status);
// Whether the replica has a fault of its own, a broken block for one: another one may answer, but
// the same one will not. Where all of them say so, the fault is in what was asked.
bool IsFaultOfOne(const absl::Status& status);

}  // namespace allezon::router
