// SPDX-License-Identifier: Apache-2.0
//
// A writer over real gRPC servers that a test can slow down, make refuse, and end.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "allezon/v1/replica.grpc.pb.h"
#include "router/channels.h"
#include "router/writer.h"
#include "rpc/server.h"
#include "rpc/status.h"

namespace allezon::router {

// Stores ids; does what its knobs say.
class TestReplica final : public v1::ReplicaService::CallbackService {
 public:
  grpc::ServerUnaryReactor* Write(grpc::CallbackServerContext* call,
                                  const v1::WriteRequest* request,
                                  v1::WriteResponse* response) override {
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    absl::MutexLock lock(&mutex_);
    *response->mutable_by() = answers_as_.value_or(request->to());
    const int now = ++in_flight_;
    in_flight_most_ = std::max(in_flight_most_, now);
    batches_.push_back(request->events_size());
    for (int i = 0; i < request->events_size(); ++i) {
      ++ids_[request->events(i).id()];
      if (request->events(i).tag() == "refuse") {
        v1::WriteFailure& failure = *response->add_failures();
        failure.set_index(i);
        failure.set_code(static_cast<int>(absl::StatusCode::kInvalidArgument));
        failure.set_message("no such tag");
      } else if (fail_events_ != absl::StatusCode::kOk) {
        v1::WriteFailure& failure = *response->add_failures();
        failure.set_index(i);
        failure.set_code(static_cast<int>(fail_events_));
        failure.set_message("no quorum");
      }
    }
    if (held_) {
      waiting_.push_back(reactor);
      return reactor;
    }
    if (delay_ > absl::ZeroDuration()) {
      slow_answers_.emplace_back([this, reactor, delay = delay_] {
        absl::SleepFor(delay);
        {
          absl::MutexLock answered(&mutex_);
          --in_flight_;
        }
        reactor->Finish(grpc::Status::OK);
      });
      return reactor;
    }
    --in_flight_;
    reactor->Finish(rpc::ToGrpc(fail_next_ > 0 ? (--fail_next_, failure_) : absl::OkStatus()));
    return reactor;
  }

  // By which a router finds out who is there.
  grpc::ServerUnaryReactor* SyncNow(grpc::CallbackServerContext* call,
                                    const v1::SyncNowRequest* request,
                                    v1::SyncNowResponse* response) override {
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    absl::MutexLock lock(&mutex_);
    *response->mutable_by() = answers_as_.value_or(request->to());
    reactor->Finish(rpc::ToGrpc(fail_next_ > 0 ? failure_ : absl::OkStatus()));
    return reactor;
  }

  ~TestReplica() override {
    for (std::thread& answer : slow_answers_) answer.join();
  }

  // Calls are answered after so long.
  void Delay(absl::Duration delay) {
    absl::MutexLock lock(&mutex_);
    delay_ = delay;
  }
  // While held, calls are taken and not answered.
  void Hold() {
    absl::MutexLock lock(&mutex_);
    held_ = true;
  }
  void Release() {
    std::vector<grpc::ServerUnaryReactor*> waiting;
    {
      absl::MutexLock lock(&mutex_);
      held_ = false;
      in_flight_ -= static_cast<int>(waiting_.size());
      waiting.swap(waiting_);
    }
    for (grpc::ServerUnaryReactor* reactor : waiting) reactor->Finish(grpc::Status::OK);
  }
  void FailNext(int calls, absl::Status status) {
    absl::MutexLock lock(&mutex_);
    fail_next_ = calls;
    failure_ = std::move(status);
  }
  // Calls succeed and each of their events fails so; kOk: no longer.
  void FailEvents(absl::StatusCode code) {
    absl::MutexLock lock(&mutex_);
    fail_events_ = code;
  }
  // Answers as this one, whoever is asked.
  void AnswerAs(v1::NodeIdentity who) {
    absl::MutexLock lock(&mutex_);
    answers_as_ = std::move(who);
  }
  void AwaitCalls(size_t calls) {
    absl::MutexLock lock(&mutex_);
    wanted_ = calls;
    mutex_.Await(absl::Condition(
        +[](TestReplica* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
          return self->batches_.size() >= self->wanted_;
        },
        this));
  }
  std::vector<int> batches() {
    absl::MutexLock lock(&mutex_);
    return batches_;
  }
  std::map<std::string, int> ids() {
    absl::MutexLock lock(&mutex_);
    return ids_;
  }
  int in_flight_most() {
    absl::MutexLock lock(&mutex_);
    return in_flight_most_;
  }

 private:
  absl::Mutex mutex_;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration delay_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> slow_answers_ ABSL_GUARDED_BY(mutex_);
  int fail_next_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::optional<v1::NodeIdentity> answers_as_ ABSL_GUARDED_BY(mutex_);
  absl::StatusCode fail_events_ ABSL_GUARDED_BY(mutex_) = absl::StatusCode::kOk;
  std::vector<grpc::ServerUnaryReactor*> waiting_ ABSL_GUARDED_BY(mutex_);
  std::vector<int> batches_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int> ids_ ABSL_GUARDED_BY(mutex_);
  int in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  int in_flight_most_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t wanted_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Keeps every outcome.
class Outcomes final : public WriteDone {
 public:
  void Done(const absl::Status& status) override {
    absl::MutexLock lock(&mutex_);
    statuses_.push_back(status);
  }
  std::vector<absl::Status> Await(size_t count) {
    absl::MutexLock lock(&mutex_);
    wanted_ = count;
    mutex_.Await(absl::Condition(
        +[](Outcomes* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
          return self->statuses_.size() >= self->wanted_;
        },
        this));
    return statuses_;
  }
  size_t size() {
    absl::MutexLock lock(&mutex_);
    return statuses_.size();
  }

 private:
  absl::Mutex mutex_;
  std::vector<absl::Status> statuses_ ABSL_GUARDED_BY(mutex_);
  size_t wanted_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Waits for a number of writes; the first error, or OK.
class WriteGroup final : public WriteDone {
 public:
  explicit WriteGroup(int writes) : left_(writes) {}
  void Done(const absl::Status& status) override {
    absl::MutexLock lock(&mutex_);
    first_error_.Update(status);
    --left_;
  }
  bool WaitFor(absl::Duration timeout) {
    absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(
                                       +[](int* left) { return *left == 0; }, &left_),
                                   timeout);
  }
  absl::Status Wait() {
    WaitFor(absl::InfiniteDuration());
    absl::MutexLock lock(&mutex_);
    return first_error_;
  }

 private:
  absl::Mutex mutex_;
  int left_ ABSL_GUARDED_BY(mutex_);
  absl::Status first_error_ ABSL_GUARDED_BY(mutex_);
};

class WriterTest : public testing::Test {
 protected:
  // As many servers as `rf`, each a replica of every shard. With a write quorum of 1 events are
  // sent in the order of the placement, whatever waits where.
  void Start(uint32_t rf, LaneOptions options = {}, uint32_t write_quorum = 0) {
    std::vector<Instance> instances;
    for (uint32_t i = 0; i < rf; ++i) {
      replicas_.push_back(std::make_unique<TestReplica>());
      servers_.push_back(StartServer(i, "127.0.0.1:0"));
      instances.push_back(
          {absl::StrCat("n", i), absl::StrCat("127.0.0.1:", servers_[i]->port()), ""});
    }
    auto placement = MakePlacement(instances, 8, rf, write_quorum);
    ASSERT_TRUE(placement.ok()) << placement.status();
    channels_ = std::make_unique<Channels>(*std::move(placement));
    writer_ = MakeWriter("profile", *channels_, options);
  }

  std::unique_ptr<rpc::Server> StartServer(uint32_t i, const std::string& listen) {
    rpc::ServerOptions options;
    options.listen = listen;
    options.services = {replicas_[i].get()};
    auto server = rpc::Server::Start(options);
    EXPECT_TRUE(server.ok()) << server.status();
    return server.ok() ? *std::move(server) : nullptr;
  }

  EventRef MakeTestEvent(const std::string& tag = "tag") {
    return MakeEvent(absl::StrCat("cookie", next_++), 1, tag, "", 8, absl::Now());
  }

  // An event whose replicas stand in this order in the placement.
  EventRef MakeEventOf(uint32_t first, std::vector<uint32_t>* order = nullptr) {
    while (true) {
      EventRef event = MakeTestEvent();
      const auto& replicas = channels_->placement().replicas[event->shard];
      if (replicas[0].instance != first) continue;
      if (order != nullptr) {
        order->clear();
        for (const Replica& replica : replicas) order->push_back(replica.instance);
      }
      return event;
    }
  }

  void AwaitCircuit(uint32_t instance, bool open) {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (channels_->CircuitOf(instance)->is_open() != open && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_EQ(channels_->CircuitOf(instance)->is_open(), open);
  }

  absl::Status WriteOne(absl::Duration timeout = absl::Seconds(10)) {
    auto group = std::make_shared<WriteGroup>(1);
    writer_->Write(MakeTestEvent(), absl::Now() + timeout, group);
    return group->Wait();
  }

  int next_ = 0;
  std::vector<std::unique_ptr<TestReplica>> replicas_;
  std::vector<std::unique_ptr<rpc::Server>> servers_;
  std::unique_ptr<Channels> channels_;
  std::unique_ptr<Writer> writer_;
};

}  // namespace allezon::router
