// SPDX-License-Identifier: Apache-2.0
#include "router/writer.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/random/random.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "router/channels.h"
#include "router/lane.h"
#include "rpc/metrics.h"
#include "rpc/status.h"

namespace allezon::router {
namespace {

constexpr char kWriteMethod[] = "/allezon.v1.ReplicaService/Write";
// Pauses between attempts: they double, with jitter, up to the bound.
constexpr absl::Duration kBackoffMin = absl::Milliseconds(5);
constexpr absl::Duration kBackoffMax = absl::Milliseconds(200);
// What a caller is told to wait before a retry of its own.
constexpr absl::Duration kRetryDelay = absl::Seconds(1);
// An instance that could not be reached is tried after the others for this long.
constexpr absl::Duration kAvoidFor = absl::Seconds(2);

bool IsRetryable(const absl::Status& status) {
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

// Whether an attempt that failed so may have stored the event all the same. A connection that was
// never made stored nothing, nor did a node that refused the work.
bool MaybeStored(const absl::Status& status) {
  if (status.code() == absl::StatusCode::kResourceExhausted) return false;
  return !absl::StrContains(status.message(), "failed to connect") &&
         !absl::StrContains(status.message(), "before the tag could be sent");
}

absl::Duration Backoff(uint32_t attempts) {
  thread_local absl::BitGen random;
  const absl::Duration most =
      std::min(kBackoffMax, kBackoffMin * (1 << std::min<uint32_t>(attempts, 10)));
  return most * absl::Uniform(random, 0.5, 1.0);
}

// Writes that wait for their next attempt, and the thread that starts it.
class RetryQueue {
 public:
  explicit RetryQueue(std::function<void(PendingWrite)> retry)
      : retry_(std::move(retry)), thread_([this] { Run(); }) {}
  ~RetryQueue() {
    for (PendingWrite& write : Stop()) write.done->Done(absl::CancelledError("shutting down"));
  }

  void Add(absl::Time when, PendingWrite write) {
    {
      absl::MutexLock lock(&mutex_);
      if (!stopping_) {
        waiting_.emplace(when, std::move(write));
        return;
      }
    }
    write.done->Done(absl::CancelledError("shutting down"));
  }

  // Ends the thread; what still waited comes back. What is added later is told at once.
  std::vector<PendingWrite> Stop() {
    std::vector<PendingWrite> left;
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
      for (auto& [when, write] : waiting_) left.push_back(std::move(write));
      waiting_.clear();
    }
    if (thread_.joinable()) thread_.join();
    return left;
  }

 private:
  void Run() {
    while (true) {
      std::vector<PendingWrite> due;
      {
        absl::MutexLock lock(&mutex_);
        const absl::Time next = waiting_.empty() ? absl::InfiniteFuture() : waiting_.begin()->first;
        known_next_ = next;
        mutex_.AwaitWithDeadline(
            absl::Condition(
                +[](RetryQueue* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
                  return self->stopping_ || (!self->waiting_.empty() &&
                                             self->waiting_.begin()->first < self->known_next_);
                },
                this),
            next);
        if (stopping_) return;
        const absl::Time now = absl::Now();
        while (!waiting_.empty() && waiting_.begin()->first <= now) {
          due.push_back(std::move(waiting_.begin()->second));
          waiting_.erase(waiting_.begin());
        }
      }
      for (PendingWrite& write : due) retry_(std::move(write));
    }
  }

  const std::function<void(PendingWrite)> retry_;
  absl::Mutex mutex_;
  std::multimap<absl::Time, PendingWrite> waiting_ ABSL_GUARDED_BY(mutex_);
  absl::Time known_next_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // joined by Stop
};

class LaneWriter final : public Writer, private Lane::Owner {
 public:
  LaneWriter(std::string_view service, Channels& channels, LaneOptions options)
      : placement_(channels.placement()),
        avoid_until_(placement_.instances.size()),
        retries_total_(rpc::MakeCounter("allezon_router_retries_total",
                                        "Attempts after the first one.",
                                        {{"service", std::string(service)}})),
        failures_total_(rpc::MakeCounter("allezon_router_failures_total",
                                         "Writes that failed for good.",
                                         {{"service", std::string(service)}})),
        retries_([this](PendingWrite write) { Start(std::move(write)); }) {
    Lane::Owner& owner = *this;
    for (uint32_t i = 0; i < placement_.instances.size(); ++i) {
      lanes_.push_back(std::make_unique<Lane>(service, placement_, i, channels.To(i), kWriteMethod,
                                              options, owner));
    }
  }

  ~LaneWriter() override {
    stopping_ = true;
    for (PendingWrite& write : retries_.Stop()) {
      write.done->Done(absl::CancelledError("shutting down"));
    }
    for (const auto& lane : lanes_) lane->Stop();
  }

  void Write(EventRef event, absl::Time deadline, std::shared_ptr<WriteDone> done) override {
    Start(PendingWrite{std::move(event), deadline, std::move(done)});
  }

 private:
  // The replica to try: in the order of the placement, those to avoid last, the next one after each
  // attempt.
  uint32_t Choose(const PendingWrite& write) const {
    const std::vector<Replica>& replicas = placement_.replicas[write.event->shard];
    const int64_t now = absl::ToUnixMillis(absl::Now());
    const size_t n = replicas.size();
    for (size_t i = 0; i < n; ++i) {
      const uint32_t instance = replicas[(write.attempts + i) % n].instance;
      if (avoid_until_[instance].load(std::memory_order_relaxed) <= now) return instance;
    }
    return replicas[write.attempts % n].instance;
  }

  void Start(PendingWrite write) {
    const uint32_t instance = Choose(write);
    ++write.attempts;
    if (lanes_[instance]->Push(write)) return;
    Fail(write, absl::ResourceExhaustedError(absl::StrCat(
                    "too many tags wait for ", placement_.instances[instance].id, " already")));
  }

  void Finished(uint32_t instance, PendingWrite write, const absl::Status& status) override {
    if (status.ok()) {
      avoid_until_[instance].store(0, std::memory_order_relaxed);
      write.done->Done(status);
      return;
    }
    write.maybe_stored = write.maybe_stored || MaybeStored(status);
    if (status.code() != absl::StatusCode::kResourceExhausted && IsRetryable(status)) {
      avoid_until_[instance].store(absl::ToUnixMillis(absl::Now() + kAvoidFor),
                                   std::memory_order_relaxed);
    }
    const absl::Time next = absl::Now() + Backoff(write.attempts);
    if (stopping_ || !IsRetryable(status) || next >= write.deadline) {
      Fail(write, status);
      return;
    }
    retries_total_.Increment();
    retries_.Add(next, std::move(write));
  }

  void Fail(const PendingWrite& write, const absl::Status& status) {
    failures_total_.Increment();
    if (IsRetryable(status) && write.maybe_stored) {
      write.done->Done(absl::DeadlineExceededError(absl::StrCat(
          "no answer in time; the tag may be stored or not (", status.message(), ")")));
    } else if (IsRetryable(status)) {
      write.done->Done(rpc::WithRetryDelay(status, kRetryDelay));
    } else {
      write.done->Done(status);
    }
  }

  const Placement& placement_;
  std::vector<std::atomic<int64_t>> avoid_until_;  // Unix milliseconds, by instance
  std::atomic<bool> stopping_ = false;
  prometheus::Counter& retries_total_;
  prometheus::Counter& failures_total_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  RetryQueue retries_;
};

}  // namespace

EventRef MakeEvent(std::string_view cookie, int64_t time_ms, std::string serialised_tag,
                   std::string_view idempotency_key, uint32_t shards, absl::Time now) {
  auto event = std::make_shared<Event>();
  event->id = idempotency_key.empty() ? RandomEventId() : KeyedEventId(idempotency_key, cookie);
  event->shard = ShardOf(cookie, shards);
  event->accepted_s = static_cast<uint32_t>(absl::ToUnixSeconds(now));
  event->time_ms = time_ms;
  event->tag = std::move(serialised_tag);
  return event;
}

struct WriteGroup::State {
  absl::Mutex mutex;
  int left ABSL_GUARDED_BY(mutex) = 0;
  absl::Status worst ABSL_GUARDED_BY(mutex);
};

WriteGroup::WriteGroup(int writes) : state_(std::make_unique<State>()) {
  absl::MutexLock lock(&state_->mutex);
  state_->left = writes;
}

WriteGroup::~WriteGroup() = default;

void WriteGroup::Done(const absl::Status& status) {
  absl::MutexLock lock(&state_->mutex);
  if (state_->worst.ok()) state_->worst = status;
  --state_->left;
}

absl::Status WriteGroup::Wait(absl::Time deadline) {
  absl::MutexLock lock(&state_->mutex);
  const bool done =
      state_->mutex.AwaitWithDeadline(absl::Condition(
                                          +[](int* left) { return *left == 0; }, &state_->left),
                                      deadline);
  if (!done && state_->worst.ok()) {
    return absl::DeadlineExceededError("no answer in time; the tag may be stored or not");
  }
  return state_->worst;
}

std::unique_ptr<Writer> MakeWriter(std::string_view service, Channels& channels,
                                   LaneOptions options) {
  return std::make_unique<LaneWriter>(service, channels, options);
}

}  // namespace allezon::router
