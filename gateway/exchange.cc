// SPDX-License-Identifier: Apache-2.0
#include "gateway/exchange.h"

#include <sys/socket.h>

#include <exception>
#include <utility>

#include "rpc/log.h"

namespace allezon::gateway {

using std::chrono::steady_clock;

namespace {

// Answers up to this size are not counted: every connection may send one.
constexpr size_t kUncountedBytes = 64 << 10;

}  // namespace

bool Live::Enter(Phase next) {
  since_.store(steady_clock::now().time_since_epoch().count());
  Phase now = phase_.load();
  while (now < Phase::kLeaving && !phase_.compare_exchange_weak(now, next)) {
  }
  return now != Phase::kCut;
}

bool Live::End(Phase expected) {
  const bool idle = expected == Phase::kIdle;
  if (!phase_.compare_exchange_strong(expected, idle ? Phase::kLeaving : Phase::kCut)) return false;
  idle ? EndReading() : EndAll();
  return true;
}

void Live::EndReading() { shutdown(fd_, SHUT_RD); }

void Live::EndAll() { shutdown(fd_, SHUT_RDWR); }

void Live::ExpectAnswer() {
  absl::MutexLock lock(&mutex_);
  expects_answer_ = true;
}

bool Live::expects_answer() const {
  absl::MutexLock lock(&mutex_);
  return expects_answer_;
}

void Live::AnswerSent(bool at_end) {
  absl::MutexLock lock(&mutex_);
  expects_answer_ = false;
  at_end_ = at_end;
}

bool Live::AwaitSent() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(
      +[](bool* expects) { return !*expects; }, &expects_answer_));
  return !at_end_;
}

bool Exchange::Send(Answer answer) {
  const std::string answer_head = context_.engine.FormHead(head, answer);
  if (!live_->Enter(Phase::kTransfer)) return true;
  const bool may_wait = std::this_thread::get_id() == thread_;
  const Io written = connection_.Write(
      answer_head, answer.response.body,
      steady_clock::now() + (may_wait ? context_.write_timeout : steady_clock::duration()));
  context_.metrics.Count(route, answer.response.status, steady_clock::now() - began_);
  return written != Io::kOk || answer.close;
}

void Exchange::Tell(Response response) {
  if (told_.exchange(true)) return;
  response_ = std::move(response);
  // What says that tags are stored must be said; bodies of requests bound it.
  const bool is_query = route == Route::kUserProfiles || route == Route::kAggregates;
  if (is_query && response_.body.size() > kUncountedBytes) {
    if (auto bytes = rpc::BytesTaken::From(context_.answers, response_.body.size())) {
      response_bytes_ = *std::move(bytes);
    } else {
      response_ = ToResponse(
          {.status = 503, .detail = "too many large answers are being sent", .retry_after_s = 1});
    }
  }
  if (--awaited_ == 0) SendTold();
}

void Exchange::BodyGivenBack() {
  if (--awaited_ == 0) SendTold();
}

void Exchange::SendTold() {
  bool at_end = true;
  try {
    const bool close = !head.keep_alive || live_->is_leaving() || context_.draining.load();
    at_end = Send({std::move(response_), close});
  } catch (const std::exception& e) {
    rpc::LogError("an answer could not be sent", {{"what", e.what()}});
  }
  // Whoever stops the server sets the flag first, and then ends the reading of what is idle; the
  // phase must be idle before the flag is looked at. The descriptor is open until AnswerSent.
  live_->Enter(Phase::kIdle);
  if (at_end || context_.ending.load()) live_->EndReading();
  live_->AnswerSent(at_end);
}

}  // namespace allezon::gateway
