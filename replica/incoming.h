// SPDX-License-Identifier: Apache-2.0
//
// Events that came in by a call, parsed and checked: nothing that is broken reaches the set.
#pragma once

#include <google/protobuf/arena.h>
#include <google/protobuf/repeated_field.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "allezon/v1/replica.pb.h"
#include "replica/core/types.h"
#include "replica/view.h"

namespace allezon::replica {

// The events of one call, on their way through the committer and the peers' lanes. What `entries`
// borrows, it holds. Immutable once it was made.
struct Incoming {
  google::protobuf::Arena arena;  // the parsed tags
  std::vector<EventRef> events;
  std::vector<LogEntry> entries;   // the same, in the same order
  std::vector<uint32_t> position;  // of each in the call
};

// Takes those that belong to this node and keep the rules; `refuse` is told of the others.
std::shared_ptr<const Incoming> TakeEvents(
    const google::protobuf::RepeatedPtrField<v1::Event>& events, const std::vector<bool>& holds,
    absl::FunctionRef<void(uint32_t position, const absl::Status& why)> refuse);

}  // namespace allezon::replica
