// SPDX-License-Identifier: Apache-2.0
//
// Events that came in by a call, parsed and checked: nothing that is broken reaches the set.
#pragma once

#include <google/protobuf/arena.h>
#include <google/protobuf/repeated_field.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "allezon/v1/replica.pb.h"
#include "replica/core/agreed_clock.h"
#include "replica/core/types.h"
#include "replica/view.h"
#include "rpc/memory.h"

namespace allezon::replica {

// The events of one call, on their way through the committer, and the peers' lanes where this node
// coordinates. Immutable once it was made.
struct Incoming {
  rpc::BytesTaken bytes;          // for as long as it lives
  google::protobuf::Arena arena;  // the parsed tags
  std::vector<LogEntry> entries;
  std::vector<EventRef> events;         // the same, in the same order, for peers; or none
  std::vector<const v1::Event*> taken;  // of each entry; valid while the call's events are
  std::vector<uint32_t> position;       // of each in the call
};

using CallEvents = google::protobuf::RepeatedPtrField<v1::Event>;
using Refuse = absl::FunctionRef<void(uint32_t position, const absl::Status& why)>;

// How events are accepted.
struct Acceptance {
  StampRule stamps;  // that are put right where they are wrong
  // What the set has under an idempotency key, to be taken in the place of what came; null where it
  // has nothing. Empty: events are taken as they came.
  std::function<absl::StatusOr<EventRef>(ShardId shard, const EventId& id)> find_by_key;
};

// About what the events of a call and what is made of them take until it is answered.
size_t BytesOf(const CallEvents& events);

// Takes those that belong to this node and keep the rules; `refuse` is told of the others. They
// outlive the call: a peer may be owed them for long.
std::shared_ptr<const Incoming> TakeEvents(const CallEvents& events, const std::vector<bool>& holds,
                                           const Acceptance& acceptance, rpc::BytesTaken bytes,
                                           Refuse refuse);
// The same, for this node alone: entries borrow from `events`, which must outlive them.
std::shared_ptr<const Incoming> BorrowEvents(const CallEvents& events,
                                             const std::vector<bool>& holds,
                                             const Acceptance& acceptance, rpc::BytesTaken bytes,
                                             Refuse refuse);

}  // namespace allezon::replica
