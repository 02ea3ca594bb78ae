// SPDX-License-Identifier: Apache-2.0
#include "router/lane.h"

#include <google/protobuf/arena.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "router/call_status.h"
#include "router/identity.h"
#include "rpc/status.h"

namespace allezon::router {
namespace {

// No attempt waits longer for an answer, so that a hung node leaves time for another one.
constexpr absl::Duration kAttemptMax = absl::Seconds(1);
// Where a node answers that an event has too few replicas just now.
constexpr absl::Duration kRetryDelay = absl::Milliseconds(100);

// A tick that came late (the process was paused, or starved) says nothing of the instance: no tick
// counts for more.
constexpr absl::Duration kTickMax = absl::Milliseconds(20);

prometheus::Labels LabelsOf(std::string_view service, const Instance& instance) {
  return {{"service", std::string(service)}, {"instance", instance.id}};
}

// Whether the call failed before the instance can have seen it.
bool NeverArrived(const grpc::Status& status) {
  return rpc::IsTransportFailure(status) &&
         absl::StrContains(status.error_message(), "failed to connect");
}

}  // namespace

struct Lane::Batch {
  grpc::ClientContext context;
  google::protobuf::Arena arena;
  v1::WriteRequest* request = google::protobuf::Arena::CreateMessage<v1::WriteRequest>(&arena);
  v1::WriteResponse* response = google::protobuf::Arena::CreateMessage<v1::WriteResponse>(&arena);
  std::vector<PendingWrite> writes;
  absl::Time sent;
  // How long it was seen in flight; none until it was seen once.
  std::optional<absl::Duration> waited;
};

Lane::Lane(std::string_view service, Channels& channels, uint32_t instance, std::string method,
           LaneOptions options, Paces& paces, Owner& owner)
    : placement_version_(channels.placement().version),
      to_(channels.IdentityOf(instance)),
      instance_(instance),
      method_(std::move(method)),
      options_(options),
      circuit_(*channels.CircuitOf(instance)),
      paces_(paces),
      owner_(owner),
      stub_(channels, instance,
            [](const auto& channel) { return std::make_shared<WriteStub>(channel); }),
      queue_events_(rpc::MakeGauge("allezon_lane_queue_events", "Events that wait in the lane.",
                                   LabelsOf(service, channels.placement().instances[instance]))),
      batch_events_(rpc::MakeHistogram("allezon_lane_batch_events", "Events in one batch.",
                                       LabelsOf(service, channels.placement().instances[instance]),
                                       rpc::SizeBuckets())),
      batch_seconds_(rpc::MakeHistogram(
          "allezon_lane_batch_seconds", "Time from sending a batch to its answer.",
          LabelsOf(service, channels.placement().instances[instance]), rpc::LatencyBuckets())),
      batch_failures_(rpc::MakeCounter(
          "allezon_lane_batch_failures_total", "Batches that the instance did not answer with OK.",
          LabelsOf(service, channels.placement().instances[instance]))),
      gathering_(options.gathering) {}

Lane::~Lane() { Stop(); }

bool Lane::Push(PendingWrite& write) {
  Step step;
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_ || queue_.size() >= options_.queue_events_max) return false;
    queue_.push_back(std::move(write));
    step = Look();
  }
  Do(std::move(step));
  return true;
}

void Lane::Flush() {
  Step step;
  {
    absl::MutexLock lock(&mutex_);
    flush_is_due_ = false;
    step = Look();
  }
  Do(std::move(step));
}

Lane::Step Lane::Look() {
  Step step = Next();
  NotePull();
  return step;
}

// An instance that refuses or fails what it gets is not expected to get more, so it does not pull.
void Lane::NotePull() {
  const size_t waiting = queue_.size();
  const size_t expected = gathering_.expected();
  pull_.store(gathering_.IsLarge(waiting) ? kLargePull : waiting + expected,
              std::memory_order_relaxed);
}

Lane::Step Lane::Next() {
  Step step;
  if (stopping_ || queue_.empty() ||
      in_flight_.size() >= static_cast<size_t>(options_.batches_in_flight_max)) {
    return step;
  }
  const absl::Time now = absl::Now();
  if (!gathering_.IsLarge(queue_.size())) {
    if (!in_flight_.empty()) return step;
    const absl::Time until = gathering_.until(now);
    if (!gathering_.IsEnough(queue_.size()) && now < until) {
      if (!std::exchange(flush_is_due_, true)) step.flush_at = until;
      return step;
    }
  }
  step.batch = TakeBatch(now, step.expired);
  return step;
}

std::unique_ptr<Lane::Batch> Lane::TakeBatch(absl::Time now, std::vector<PendingWrite>& expired) {
  auto batch = std::make_unique<Batch>();
  size_t bytes = 0;
  absl::Time latest = now;
  while (!queue_.empty() && batch->writes.size() < options_.batch_events_max &&
         bytes < options_.batch_bytes_max) {
    PendingWrite write = std::move(queue_.front());
    queue_.pop_front();
    if (write.deadline <= now || write.was_told()) {
      expired.push_back(std::move(write));
      continue;
    }
    bytes += write.event->tag.size();
    latest = std::max(latest, write.deadline);
    batch->writes.push_back(std::move(write));
  }
  queue_events_.Set(static_cast<double>(queue_.size()));
  if (batch->writes.empty()) return nullptr;
  batch->sent = now;
  batch->context.set_deadline(absl::ToChronoTime(std::min(latest, now + kAttemptMax)));
  in_flight_.insert(batch.get());
  ++running_;
  return batch;
}

void Lane::Do(Step step) {
  if (step.batch != nullptr) Send(std::move(step.batch));
  Expire(std::move(step.expired));
  if (step.flush_at != absl::InfiniteFuture()) owner_.FlushAt(instance_, step.flush_at);
}

void Lane::Expire(std::vector<PendingWrite> expired) {
  for (PendingWrite& write : expired) {
    owner_.Finished(instance_, std::move(write),
                    absl::UnavailableError("the deadline passed before the tag could be sent"));
  }
}

void Lane::Send(std::unique_ptr<Batch> batch) {
  *batch->request->mutable_to() = to_;
  batch->request->set_placement_version(placement_version_);
  for (const PendingWrite& write : batch->writes) {
    v1::Event& event = *batch->request->add_events();
    event.set_shard(write.event->shard);
    event.set_id(write.event->id.data(), write.event->id.size());
    event.set_accepted_s(write.event->accepted_s);
    event.set_time_ms(write.event->time_ms);
    event.set_tag(write.event->tag);
  }
  batch_events_.Observe(static_cast<double>(batch->writes.size()));
  Batch* sent = batch.release();  // Received owns it again
  stub_.Get()->UnaryCall(
      &sent->context, method_, grpc::StubOptions(), sent->request, sent->response,
      [this, sent](const grpc::Status& status) {
        // What somebody else stored is no more stored than what he refuses.
        Received(sent, status.ok()
                           ? rpc::ToGrpc(CheckAnswerBy(sent->response->by(), sent->request->to()))
                           : status);
      });
}

void Lane::Received(Batch* received, const grpc::Status& status) {
  const std::unique_ptr<Batch> batch(received);
  // Where the next batch leaves at once, it leaves before this one's writers are woken up.
  Step step;
  {
    absl::MutexLock lock(&mutex_);
    in_flight_.erase(received);
    const absl::Time now = absl::Now();
    if (status.ok() && batch->response->failures().size() < batch->request->events().size()) {
      gathering_.Ended(batch->writes.size(), queue_.size(), now - batch->sent, now);
    } else {
      gathering_.Failed();
    }
    step = Look();
  }
  Learn(*batch, status);
  Do(std::move(step));
  GiveBack(*batch, status);
  absl::MutexLock lock(&mutex_);
  --running_;
}

void Lane::Learn(const Batch& batch, const grpc::Status& status) {
  const absl::Time now = absl::Now();
  const absl::Duration took = now - batch.sent;
  batch_seconds_.Observe(absl::ToDoubleSeconds(took));
  if (!status.ok()) batch_failures_.Increment();
  if (!rpc::IsTransportFailure(status)) {
    circuit_.Answered();
    if (status.ok()) paces_.Observe(instance_, took, now);
    return;
  }
  // A batch that was given little time, or was cancelled here, says nothing.
  if (status.error_code() == grpc::StatusCode::CANCELLED) return;
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    if (took < paces_.overdue(instance_)) return;
    paces_.Observe(instance_, took, now);
  }
  circuit_.Failed();
}

void Lane::GiveBack(Batch& batch, const grpc::Status& status) {
  const absl::Status whole = StatusOfCall(status);
  std::vector<absl::Status> outcomes(batch.writes.size(), whole);
  if (status.ok()) {
    for (const v1::WriteFailure& failure : batch.response->failures()) {
      if (failure.index() >= outcomes.size()) continue;
      absl::Status outcome(static_cast<absl::StatusCode>(failure.code()), failure.message());
      if (absl::IsUnavailable(outcome)) outcome = rpc::WithRetryDelay(outcome, kRetryDelay);
      outcomes[failure.index()] = std::move(outcome);
    }
  }
  const bool never_arrived = NeverArrived(status);
  for (size_t i = 0; i < outcomes.size(); ++i) {
    PendingWrite& write = batch.writes[i];
    // A node that refuses the work has not begun it; any other failure may leave the event stored.
    if (!outcomes[i].ok() && !never_arrived && !absl::IsResourceExhausted(outcomes[i])) {
      write.maybe_stored = true;
    }
    owner_.Finished(instance_, std::move(write), outcomes[i]);
  }
}

std::vector<PendingWrite> Lane::TakeOverdue(absl::Duration tick) {
  const absl::Duration overdue = paces_.overdue(instance_);
  std::vector<PendingWrite> elsewhere;
  absl::MutexLock lock(&mutex_);
  bool is_overdue = false;
  for (Batch* batch : in_flight_) {
    batch->waited = batch->waited ? *batch->waited + std::min(tick, kTickMax) : absl::Duration();
    if (*batch->waited < overdue) continue;
    is_overdue = true;
    circuit_.Failed();
    for (PendingWrite& write : batch->writes) {
      if (write.was_hedged || write.was_told() || !owner_.CanGoElsewhere(instance_, write))
        continue;
      if (write.hedge == nullptr) write.hedge = std::make_shared<Hedge>();
      ++write.hedge->copies_open;
      elsewhere.push_back(write);
      write.was_hedged = true;
    }
  }
  if (!is_overdue) return elsewhere;
  std::deque<PendingWrite> staying;
  for (PendingWrite& write : queue_) {
    if (owner_.CanGoElsewhere(instance_, write)) {
      elsewhere.push_back(std::move(write));
    } else {
      staying.push_back(std::move(write));
    }
  }
  queue_.swap(staying);
  NotePull();
  queue_events_.Set(static_cast<double>(queue_.size()));
  return elsewhere;
}

void Lane::Stop() {
  std::deque<PendingWrite> queued;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    queued.swap(queue_);
    for (Batch* batch : in_flight_) batch->context.TryCancel();
  }
  for (PendingWrite& write : queued) {
    owner_.Finished(instance_, std::move(write), absl::CancelledError("shutting down"));
  }
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(
      +[](size_t* running) { return *running == 0; }, &running_));
}

}  // namespace allezon::router
