// SPDX-License-Identifier: Apache-2.0
//
// How a tag reaches one service: its shard, the replicas of the shard, the lane of one of them, and
// another replica where that fails. Holds no grpcpp header.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "router/gathering.h"
#include "router/placement.h"
#include "router/shard.h"

namespace allezon::router {

// A tag on its way, made once and shared by every lane and retry. Immutable.
struct Event {
  EventId id;
  ShardId shard = 0;
  uint32_t accepted_s = 0;  // wall clock of the process that accepted it
  int64_t time_ms = 0;
  std::string tag;  // a serialised allezon.v1.Tag
};
using EventRef = std::shared_ptr<const Event>;

// Makes the event of a tag. `idempotency_key` empty: a random id.
EventRef MakeEvent(std::string_view cookie, int64_t time_ms, std::string serialised_tag,
                   std::string_view idempotency_key, uint32_t shards, absl::Time now);

// Of two outcomes of a write, the one that promises less.
const absl::Status& Worse(const absl::Status& a, const absl::Status& b);

// Told once for each event it was given to, from any thread, possibly before Write returns.
class WriteDone {
 public:
  virtual ~WriteDone() = default;
  // OK: durable on a write quorum. kResourceExhausted or kUnavailable: a retry may do.
  // kDeadlineExceeded: it may be stored or not. kInvalidArgument: the nodes refuse the event.
  virtual void Done(const absl::Status& status) = 0;
};

struct LaneOptions {
  int batches_in_flight_max = 2;
  // A large batch does not wait for the answer to the one before either: a small one costs all
  // sides more than it is sooner.
  GatheringOptions gathering = {};
  size_t batch_events_max = 1000;
  size_t batch_bytes_max = 1 << 20;
  size_t queue_events_max = 20'000;
  // Writes to any instance that failed and wait for their next round.
  size_t retries_max = 100'000;
  // What is not answered for so long, and for some times as long as answers take lately, is sent to
  // another replica besides. Above CoreOptions::late_min_us and a tick, for which a coordinator
  // waits for a replica that is late without being at fault.
  absl::Duration overdue_min = absl::Milliseconds(60);
};

class Channels;

// Writes to one service. Thread-safe. Outlives every call to it; the destructor fails what is still
// queued.
class Writer {
 public:
  virtual ~Writer() = default;
  // Stores `event` by the deadline; retries what is safe with the same event id. Full queues of
  // all replicas are kResourceExhausted. `done` is told by the deadline, or, where an instance that
  // got the event hangs just then, up to a second later.
  virtual void Write(EventRef event, absl::Time deadline, std::shared_ptr<WriteDone> done) = 0;
};

// `service` ("profile", "aggregate") labels metrics. `channels` must outlive the writer.
std::unique_ptr<Writer> MakeWriter(std::string_view service, Channels& channels,
                                   LaneOptions options);

// The options of a writer to so many replicas.
inline LaneOptions LaneOptionsFor(const Placement& placement) {
  return {.gathering = {.large_events = LargeEvents(placement.replication_factor)}};
}

}  // namespace allezon::router
