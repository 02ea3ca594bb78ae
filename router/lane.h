// SPDX-License-Identifier: Apache-2.0
//
// A queue of events to one instance with few batches in flight: idle, it sends at once; busy, it
// gathers, and after an answer also those whom that sets free.
#pragma once

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
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
#include "router/channels.h"
#include "router/circuit.h"
#include "router/pace.h"
#include "router/stubs.h"
#include "router/writer.h"
#include "rpc/metrics.h"

namespace allezon::router {

// What the copies of a write share from when it was sent to a second instance because the first one
// owed its answer for too long.
struct Hedge {
  std::atomic<bool> told{false};    // a copy has told the outcome
  std::atomic<int> copies_open{1};  // those without an outcome of their own
  std::atomic<bool> maybe_stored{false};
};

// An event on its way to one instance after another.
struct PendingWrite {
  EventRef event;
  absl::Time deadline;
  std::shared_ptr<WriteDone> done;
  uint64_t tried = 0;  // replicas of the shard that this round has tried: bit i, the i-th
  uint32_t rounds = 0;
  bool may_pass = false;  // an attempt of this round failed in a way that another one may not
  // Whether an attempt failed in a way that may have left the event stored. Set by the lane.
  bool maybe_stored = false;
  bool was_hedged = false;  // a copy of this attempt has been sent elsewhere
  // What a node answered last that could not take it just then; OK where none did.
  absl::Status refusal = {};
  std::shared_ptr<Hedge> hedge = nullptr;

  bool was_told() const { return hedge != nullptr && hedge->told; }
};

class Lane {
 public:
  class Owner {
   public:
    virtual ~Owner() = default;
    // Gets every event back that was pushed, once, from any thread, without a lock of the lane
    // held.
    virtual void Finished(uint32_t instance, PendingWrite write, const absl::Status& status) = 0;
    // Whether another instance is likely to store the event sooner than this one, which is overdue.
    // Called with the lane's lock held.
    virtual bool CanGoElsewhere(uint32_t instance, const PendingWrite& write) const = 0;
    // Asks for a call of the instance's Flush at that time. Called without a lock of the lane held.
    virtual void FlushAt(uint32_t instance, absl::Time when) = 0;
  };

  // `method` is /allezon.v1.ReplicaService/Write or /Replicate, whose messages have the same
  // fields. `channels`, `paces` and `owner` must outlive it.
  Lane(std::string_view service, Channels& channels, uint32_t instance, std::string method,
       LaneOptions options, Paces& paces, Owner& owner);
  // Stops.
  ~Lane();

  // Queues an event. False, with `write` untouched, where the queue is full or the lane has
  // stopped. Thread-safe.
  bool Push(PendingWrite& write);
  // Sends what waits and may go by now. Thread-safe.
  void Flush();
  // To be called every `tick`. Where a batch in flight is overdue, opens the circuit and returns
  // what is to be sent elsewhere: copies of its events, while it goes on, and the events that wait
  // behind it. Thread-safe.
  std::vector<PendingWrite> TakeOverdue(absl::Duration tick);
  // About how many events one more would go with, as the more go together, the less each costs; or
  // kLargePull, where so many wait that one more makes no difference. Thread-safe.
  static constexpr size_t kLargePull = SIZE_MAX;
  size_t pull() const { return pull_.load(std::memory_order_relaxed); }
  // Gives back what is queued, cancels what is in flight, and waits until that is given back too.
  // Idempotent.
  void Stop();

 private:
  struct Batch;

  // What is to be done after a look at the queue.
  struct Step {
    std::unique_ptr<Batch> batch;       // to be sent, if there is one
    std::vector<PendingWrite> expired;  // too late
    // When to look again; only where nothing else leads to that.
    absl::Time flush_at = absl::InfiniteFuture();
  };

  Step Look() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Step Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void NotePull() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes a place in flight for the next batch; null where all that waited was too late.
  std::unique_ptr<Batch> TakeBatch(absl::Time now, std::vector<PendingWrite>& expired)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Do(Step step);
  void Send(std::unique_ptr<Batch> batch);
  void Received(Batch* batch, const grpc::Status& status);
  // Lets circuit and paces know what an answer, or none, says of the instance.
  void Learn(const Batch& batch, const grpc::Status& status);
  void GiveBack(Batch& batch, const grpc::Status& status);
  void Expire(std::vector<PendingWrite> expired);

  const uint64_t placement_version_;
  const v1::NodeIdentity& to_;
  const uint32_t instance_;
  const std::string method_;
  const LaneOptions options_;
  Circuit& circuit_;
  Paces& paces_;
  Owner& owner_;
  using WriteStub = grpc::TemplatedGenericStub<v1::WriteRequest, v1::WriteResponse>;
  InstanceStub<WriteStub> stub_;
  prometheus::Gauge& queue_events_;
  prometheus::Histogram& batch_events_;
  prometheus::Histogram& batch_seconds_;
  prometheus::Counter& batch_failures_;

  std::atomic<size_t> pull_ = 0;
  absl::Mutex mutex_;
  std::deque<PendingWrite> queue_ ABSL_GUARDED_BY(mutex_);
  Gathering gathering_ ABSL_GUARDED_BY(mutex_);
  bool flush_is_due_ ABSL_GUARDED_BY(mutex_) = false;  // the owner was asked for one
  std::unordered_set<Batch*> in_flight_ ABSL_GUARDED_BY(mutex_);
  // Batches whose callback has not ended: longer than in flight, and what Stop waits for.
  size_t running_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace allezon::router
