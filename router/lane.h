// SPDX-License-Identifier: Apache-2.0
//
// A queue of events to one instance with few batches in flight: idle, it sends at once; busy, it
// gathers. So batching adapts to the load by itself, without a timer.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <deque>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "allezon/v1/replica.pb.h"
#include "router/writer.h"
#include "rpc/metrics.h"

namespace allezon::router {

// An event on its way to one instance after another.
struct PendingWrite {
  EventRef event;
  absl::Time deadline;
  std::shared_ptr<WriteDone> done;
  uint32_t attempts = 0;
  // Whether an attempt ended without a word, so that the event may be stored.
  bool maybe_stored = false;
};

class Lane {
 public:
  // Gets every event back that was pushed, once, from any thread, without a lock of the lane held.
  class Owner {
   public:
    virtual ~Owner() = default;
    virtual void Finished(uint32_t instance, PendingWrite write, const absl::Status& status) = 0;
  };

  // `method` is /allezon.v1.ReplicaService/Write or /Replicate, whose messages have the same
  // fields. `owner` must outlive it.
  Lane(std::string_view service, const Placement& placement, uint32_t instance,
       std::shared_ptr<grpc::Channel> channel, std::string method, LaneOptions options,
       Owner& owner);
  // Stops.
  ~Lane();

  // Queues an event. False, with `write` untouched, where the queue is full or the lane has
  // stopped. Thread-safe.
  bool Push(PendingWrite& write);
  // Gives back what is queued, cancels what is in flight, and waits until that is given back too.
  // Idempotent.
  void Stop();

 private:
  struct Batch;

  // The next batch, or null where nothing waits; takes a place in flight. What is too late goes to
  // `expired`.
  std::unique_ptr<Batch> TakeBatch(std::vector<PendingWrite>* expired)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Send(std::unique_ptr<Batch> batch);
  void Received(Batch* batch, const absl::Status& status);
  void GiveBack(Batch& batch, const absl::Status& status);
  void Expire(std::vector<PendingWrite> expired);

  const Placement& placement_;
  const uint32_t instance_;
  const std::string method_;
  const LaneOptions options_;
  Owner& owner_;
  grpc::TemplatedGenericStub<v1::WriteRequest, v1::WriteResponse> stub_;
  prometheus::Gauge& queue_events_;
  prometheus::Histogram& batch_events_;
  prometheus::Histogram& batch_seconds_;
  prometheus::Counter& batch_failures_;

  absl::Mutex mutex_;
  std::deque<PendingWrite> queue_ ABSL_GUARDED_BY(mutex_);
  std::unordered_set<Batch*> in_flight_ ABSL_GUARDED_BY(mutex_);
  // Batches whose callback has not ended: longer than in flight, and what Stop waits for.
  size_t running_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace allezon::router
