// SPDX-License-Identifier: Apache-2.0
//
// A connection among those that are open, and one request of it, from its head to its answer. The
// thread of the connection reads; the answer is sent by whoever has it, so that a tag that is
// stored wakes up no thread only to say so.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gateway/connection.h"
#include "gateway/http_engine.h"
#include "gateway/http_metrics.h"
#include "rpc/memory.h"

namespace allezon::gateway {

// Where a connection is in its life, for those who look for one to end.
enum class Phase {
  kIdle,
  kTransfer,  // a request comes in, or an answer goes out
  kServing,
  kLeaving,  // gives way to another: answers what has already arrived, and ends
  kCut,      // the same, without an answer
};

// Thread-safe but where it says otherwise.
class Live {
 public:
  explicit Live(int fd) : fd_(fd) {}

  Phase phase() const { return phase_.load(); }
  // When the phase was entered.
  SteadyTime::rep since() const { return since_.load(); }
  bool is_leaving() const { return phase_.load() >= Phase::kLeaving; }
  // False where the connection was cut. One that is leaving stays so.
  bool Enter(Phase next);
  // Makes it leave, or cuts it, if its phase is still `expected`.
  bool End(Phase expected);
  // Reading ends behind what has already arrived.
  void EndReading();
  void EndAll();

  // By the connection's thread: an answer is to be sent, maybe by another thread.
  void ExpectAnswer();
  bool expects_answer() const;
  // By who has sent it, or failed to: nothing is sent after it. `at_end`: no request follows.
  void AnswerSent(bool at_end);
  // By the connection's thread: waits until no answer is expected. False where no request follows.
  // The descriptor must stay open until then.
  bool AwaitSent();

 private:
  const int fd_;
  std::atomic<Phase> phase_{Phase::kIdle};
  std::atomic<SteadyTime::rep> since_{std::chrono::steady_clock::now().time_since_epoch().count()};
  mutable absl::Mutex mutex_;
  bool expects_answer_ ABSL_GUARDED_BY(mutex_) = false;
  bool at_end_ ABSL_GUARDED_BY(mutex_) = false;
};

// What an exchange needs of the server, which outlives every one that has not been answered.
struct ExchangeContext {
  const HttpEngine& engine;
  HttpMetrics& metrics;
  const std::atomic<bool>& draining;  // each answer ends its connection
  const std::atomic<bool>& ending;    // what is idle ends
  std::chrono::milliseconds write_timeout;
  rpc::ByteBudget& answers;  // large ones to queries, from when they are told until they are sent
};

// Made by the thread of the connection.
class Exchange {
 public:
  Exchange(const ExchangeContext& context, std::shared_ptr<Live> live, Connection& connection,
           SteadyTime began)
      : context_(context), live_(std::move(live)), connection_(connection), began_(began) {}

  // Sends the answer; whether the connection is at its end. On the connection's thread it waits for
  // a client that is slow to read, on another one it gives that client up.
  bool Send(Answer answer);
  // The same for the answer that the connection expects, or 503 in its place where a large one to a
  // query finds no room among those that are being sent; and says that it was sent; once the body
  // was given back, so that a client that has its answer finds the body's memory free. The first
  // call counts. Thread-safe.
  void Tell(Response response);
  // By the connection's thread, once: the body was given back.
  void BodyGivenBack();

  Head head;
  Route route = Route::kUnknown;

 private:
  void SendTold();

  const ExchangeContext& context_;
  const std::shared_ptr<Live> live_;
  Connection& connection_;
  const SteadyTime began_;
  const std::thread::id thread_ = std::this_thread::get_id();
  std::atomic<bool> told_{false};
  Response response_;  // by who told it, for who sends it
  rpc::BytesTaken response_bytes_;
  std::atomic<int> awaited_{2};  // the response, and that the body was given back
};

}  // namespace allezon::gateway
