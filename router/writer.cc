// SPDX-License-Identifier: Apache-2.0
#include "router/writer.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "router/call_status.h"
#include "router/channels.h"
#include "router/circuit.h"
#include "router/lane.h"
#include "router/retry_queue.h"
#include "rpc/metrics.h"
#include "rpc/status.h"

namespace allezon::router {
namespace {

constexpr char kWriteMethod[] = "/allezon.v1.ReplicaService/Write";
// Pauses between rounds over the replicas: they double, with jitter, up to the bound.
constexpr absl::Duration kBackoffMin = absl::Milliseconds(5);
constexpr absl::Duration kBackoffMax = absl::Milliseconds(200);
// What a caller is told to wait before a retry of its own.
constexpr absl::Duration kRetryDelay = absl::Seconds(1);
// However slow batches were lately.
constexpr absl::Duration kOverdueMax = absl::Seconds(1);
// How often to look for overdue ones.
constexpr absl::Duration kWatchInterval = absl::Milliseconds(10);
// The writer ends so long before its caller does, who would otherwise not hear why; where little
// time is left, by this share of it.
constexpr absl::Duration kAnswerMargin = absl::Milliseconds(20);
constexpr double kAnswerShare = 0.2;
// Copies of one write under way at a time.
constexpr int kCopiesMax = 4;

int Severity(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kResourceExhausted:
      return 1;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
      return 2;
    case absl::StatusCode::kDeadlineExceeded:
      return 3;
    default:
      return 4;
  }
}

// Whether a node answered that it cannot take the event just now.
bool IsRefusal(const absl::Status& status) {
  return absl::IsUnavailable(status) && rpc::RetryDelayOf(status) > absl::ZeroDuration();
}

absl::Duration Backoff(uint32_t rounds) {
  thread_local absl::BitGen random;
  const absl::Duration most =
      std::min(kBackoffMax, kBackoffMin * (1 << std::min<uint32_t>(rounds, 10)));
  return most * absl::Uniform(random, 0.5, 1.0);
}

class LaneWriter final : public Writer, private Lane::Owner {
 public:
  LaneWriter(std::string_view service, Channels& channels, LaneOptions options)
      : channels_(channels),
        placement_(channels.placement()),
        retries_total_(rpc::MakeCounter("allezon_router_retries_total",
                                        "Attempts after the first one.",
                                        {{"service", std::string(service)}})),
        hedges_total_(rpc::MakeCounter("allezon_router_hedges_total",
                                       "Writes that were sent elsewhere, or moved there, because "
                                       "their instance owed an answer for too long.",
                                       {{"service", std::string(service)}})),
        failures_total_(rpc::MakeCounter("allezon_router_failures_total",
                                         "Writes that failed for good.",
                                         {{"service", std::string(service)}})),
        paces_(service, "writes", placement_, options.overdue_min, kOverdueMax),
        retries_(options.retries_max, [this](PendingWrite write) { Start(std::move(write)); }) {
    Lane::Owner& owner = *this;
    for (uint32_t i = 0; i < placement_.instances.size(); ++i) {
      lanes_.push_back(
          std::make_unique<Lane>(service, channels, i, kWriteMethod, options, paces_, owner));
    }
    flush_at_.resize(lanes_.size(), absl::InfiniteFuture());
    timer_ = std::thread([this] { RunTimer(); });
  }

  ~LaneWriter() override {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    timer_.join();
    for (PendingWrite& write : retries_.Stop()) Fail(write, ShuttingDown());
    for (const auto& lane : lanes_) lane->Stop();
  }

  void Write(EventRef event, absl::Time deadline, std::shared_ptr<WriteDone> done) override {
    const absl::Time now = absl::Now();
    const absl::Duration left = std::max(deadline - now, absl::ZeroDuration());
    const absl::Duration margin = std::min(kAnswerMargin, left * kAnswerShare);
    PendingWrite write{std::move(event), deadline - margin, std::move(done)};
    const std::optional<size_t> trial = Trial(write, now);
    Start(std::move(write), trial);
  }

 private:
  static absl::Status ShuttingDown() { return absl::CancelledError("shutting down"); }
  static bool HasTried(const PendingWrite& write, size_t i) {
    return (write.tried >> std::min<size_t>(i, 63) & 1) != 0;
  }
  bool IsOpen(const Replica& replica) const {
    return channels_.CircuitOf(replica.instance)->is_open();
  }

  bool IsSlow(const Replica& replica) const {
    return CoordinatorIsFree() && paces_.IsSlow(replica.instance);
  }
  // Where the coordinator alone acknowledges, it is always the first replica, which is read first.
  bool CoordinatorIsFree() const { return placement_.write_quorum > 1; }

  // The replica to try, as an index into those of the shard: of those that this round has not tried
  // and whose circuit is closed, the one whose lane pulls most; the first in the order of the
  // placement where lanes are alike or one of them is full enough, so that a high load is spread.
  // A slow one only after all others. Where all circuits are open, the first that was not tried.
  // None: the round is over.
  std::optional<size_t> Choose(const PendingWrite& write) const {
    const std::vector<Replica>& replicas = placement_.replicas[write.event->shard];
    std::optional<size_t> best, first, slow, untried;
    size_t best_pull = 0;
    bool all_open = true;
    for (size_t i = 0; i < replicas.size(); ++i) {
      const bool open = IsOpen(replicas[i]);
      all_open = all_open && open;
      if (HasTried(write, i)) continue;
      if (!untried) untried = i;
      if (open) continue;
      if (IsSlow(replicas[i])) {
        if (!slow) slow = i;
        continue;
      }
      if (!first) first = i;
      const size_t pull = PullOf(replicas[i]);
      if (best && pull <= best_pull) continue;
      best = i;
      best_pull = pull;
    }
    if (best) return best_pull == Lane::kLargePull ? first : best;
    if (slow) return slow;
    return all_open ? untried : std::nullopt;
  }

  size_t PullOf(const Replica& replica) const {
    return CoordinatorIsFree() ? lanes_[replica.instance]->pull() : 0;
  }

  bool CanGoElsewhere(uint32_t instance, const PendingWrite& write) const override {
    if (write.hedge != nullptr && write.hedge->copies_open >= kCopiesMax) return false;
    const std::vector<Replica>& replicas = placement_.replicas[write.event->shard];
    return std::any_of(replicas.begin(), replicas.end(), [&](const Replica& replica) {
      return replica.instance != instance && !IsOpen(replica) && !IsSlow(replica);
    });
  }

  // Now and then a new write goes to an instance of which nothing was heard lately. To one that was
  // slow then, a copy goes: nobody waits for it.
  std::optional<size_t> Trial(PendingWrite& write, absl::Time now) {
    if (!CoordinatorIsFree()) return std::nullopt;
    const std::vector<Replica>& replicas = placement_.replicas[write.event->shard];
    for (size_t i = 0; i < replicas.size(); ++i) {
      const uint32_t instance = replicas[i].instance;
      if (IsOpen(replicas[i]) || !paces_.TakesTrial(instance, now)) continue;
      if (!paces_.IsSlow(instance)) return i;
      write.hedge = std::make_shared<Hedge>();
      ++write.hedge->copies_open;
      PendingWrite copy = write;
      if (!lanes_[instance]->Push(copy)) --write.hedge->copies_open;
      return std::nullopt;
    }
    return std::nullopt;
  }

  void Start(PendingWrite write, std::optional<size_t> chosen = std::nullopt) {
    if (write.was_told()) return;
    if (!chosen) chosen = Choose(write);
    if (!chosen) {  // a copy, sent elsewhere when its round was over
      write.tried = 0;
      chosen = Choose(write).value_or(0);
    }
    const std::vector<Replica>& replicas = placement_.replicas[write.event->shard];
    // Where a lane is full another one may not be.
    for (; chosen; chosen = Choose(write)) {
      write.tried |= uint64_t{1} << std::min<size_t>(*chosen, 63);
      if (lanes_[replicas[*chosen].instance]->Push(write)) return;
    }
    // At last also one that this round has tried, but not for a copy: another one is under way.
    if (write.hedge == nullptr || write.hedge->copies_open == 1) {
      for (const Replica& replica : replicas) {
        if (lanes_[replica.instance]->Push(write)) return;
      }
    }
    Fail(write,
         absl::ResourceExhaustedError(absl::StrCat("too many tags wait for the replicas of shard ",
                                                   write.event->shard, " already")));
  }

  void Finished(uint32_t, PendingWrite write, const absl::Status& status) override {
    if (status.ok()) {
      if (write.hedge == nullptr || !write.hedge->told.exchange(true)) write.done->Done(status);
      return;
    }
    if (write.was_told()) return;
    write.was_hedged = false;
    if (IsRefusal(status)) write.refusal = status;
    const absl::Time now = absl::Now();
    const bool is_transient = IsTransient(status);
    if (stopping_ || now >= write.deadline || !(is_transient || IsFaultOfOne(status))) {
      return Fail(write, status);
    }
    write.may_pass = write.may_pass || is_transient;
    if (Choose(write)) {
      retries_total_.Increment();
      return Start(std::move(write));
    }
    // Where every replica has a fault of its own, the next round would hear the same.
    if (!std::exchange(write.may_pass, false)) return Fail(write, status);
    write.tried = 0;
    const absl::Time next = now + Backoff(++write.rounds);
    if (next >= write.deadline) return Fail(write, status);
    retries_total_.Increment();
    if (absl::Status s = retries_.Add(next, write); !s.ok()) Fail(write, s);
  }

  // Ends a write, or this copy of it where others are open.
  void Fail(const PendingWrite& write, const absl::Status& status) {
    bool maybe_stored = write.maybe_stored;
    if (Hedge* hedge = write.hedge.get(); hedge != nullptr) {
      if (maybe_stored) hedge->maybe_stored = true;
      if (hedge->copies_open.fetch_sub(1) != 1 || hedge->told.exchange(true)) return;
      maybe_stored = hedge->maybe_stored;
    }
    failures_total_.Increment();
    if (!IsTransient(status)) return write.done->Done(status);
    // Nodes that answer, for want of replicas say, are to be asked again, also where the last
    // attempt came too late; without any answer nobody knows.
    if (maybe_stored && write.refusal.ok()) {
      return write.done->Done(absl::DeadlineExceededError(absl::StrCat(
          "no answer in time; the tag may be stored or not (", status.message(), ")")));
    }
    write.done->Done(rpc::WithRetryDelay(write.refusal.ok() ? status : write.refusal, kRetryDelay));
  }

  void FlushAt(uint32_t instance, absl::Time when) override {
    absl::MutexLock lock(&mutex_);
    flush_at_[instance] = when;
    next_flush_ = std::min(next_flush_, when);
  }

  // Flushes lanes when they are due, and watches them.
  void RunTimer() {
    absl::Time watched = absl::Now();
    while (true) {
      std::vector<uint32_t> due;
      absl::Time now;
      {
        absl::MutexLock lock(&mutex_);
        wakes_at_ = std::min(next_flush_, watched + kWatchInterval);
        mutex_.AwaitWithDeadline(
            absl::Condition(
                +[](LaneWriter* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
                  return self->stopping_.load() || self->next_flush_ < self->wakes_at_;
                },
                this),
            wakes_at_);
        if (stopping_) return;
        now = absl::Now();
        due = TakeDue(now);
      }
      for (const uint32_t instance : due) lanes_[instance]->Flush();
      if (now < watched + kWatchInterval) continue;
      Watch(now - watched);
      watched = now;
    }
  }

  std::vector<uint32_t> TakeDue(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::vector<uint32_t> due;
    next_flush_ = absl::InfiniteFuture();
    for (uint32_t i = 0; i < flush_at_.size(); ++i) {
      if (flush_at_[i] <= now) {
        due.push_back(i);
        flush_at_[i] = absl::InfiniteFuture();
      }
      next_flush_ = std::min(next_flush_, flush_at_[i]);
    }
    return due;
  }

  // Sends elsewhere what an instance owes an answer for too long.
  void Watch(absl::Duration tick) {
    for (const auto& lane : lanes_) {
      for (PendingWrite& write : lane->TakeOverdue(tick)) {
        hedges_total_.Increment();
        Start(std::move(write));
      }
    }
  }

  Channels& channels_;
  const Placement& placement_;
  absl::Mutex mutex_;  // of the timer
  std::atomic<bool> stopping_ = false;
  // By lane; the infinite future where no flush is due.
  std::vector<absl::Time> flush_at_ ABSL_GUARDED_BY(mutex_);
  absl::Time next_flush_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  absl::Time wakes_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  prometheus::Counter& retries_total_;
  prometheus::Counter& hedges_total_;
  prometheus::Counter& failures_total_;
  Paces paces_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  RetryQueue retries_;
  std::thread timer_;  // joined by the destructor
};

}  // namespace

const absl::Status& Worse(const absl::Status& a, const absl::Status& b) {
  return Severity(b) > Severity(a) ? b : a;
}

EventRef MakeEvent(std::string_view cookie, int64_t time_ms, std::string serialised_tag,
                   std::string_view idempotency_key, uint32_t shards, absl::Time now) {
  auto event = std::make_shared<Event>();
  event->id = idempotency_key.empty() ? NewEventId(now) : KeyedEventId(idempotency_key, cookie);
  event->shard = ShardOf(cookie, shards);
  event->accepted_s = static_cast<uint32_t>(absl::ToUnixSeconds(now));
  event->time_ms = time_ms;
  event->tag = std::move(serialised_tag);
  return event;
}

std::unique_ptr<Writer> MakeWriter(std::string_view service, Channels& channels,
                                   LaneOptions options) {
  return std::make_unique<LaneWriter>(service, channels, options);
}

}  // namespace allezon::router
