// SPDX-License-Identifier: Apache-2.0
//
// The writer and its lanes against a real gRPC server that a test can slow down, make refuse, and
// end.
#include "router/writer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <set>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "allezon/v1/replica.grpc.pb.h"
#include "router/channels.h"
#include "rpc/server.h"
#include "rpc/status.h"

namespace allezon::router {
namespace {

// Stores ids; does what its knobs say.
class TestReplica final : public v1::ReplicaService::CallbackService {
 public:
  grpc::ServerUnaryReactor* Write(grpc::CallbackServerContext* call,
                                  const v1::WriteRequest* request,
                                  v1::WriteResponse* response) override {
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    absl::MutexLock lock(&mutex_);
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
    --in_flight_;
    reactor->Finish(rpc::ToGrpc(fail_next_ > 0 ? (--fail_next_, failure_) : absl::OkStatus()));
    return reactor;
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
  int fail_next_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
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

class WriterTest : public testing::Test {
 protected:
  // As many servers as `rf`, each a replica of every shard.
  void Start(uint32_t rf, LaneOptions options = {}) {
    std::vector<Instance> instances;
    for (uint32_t i = 0; i < rf; ++i) {
      replicas_.push_back(std::make_unique<TestReplica>());
      servers_.push_back(StartServer(i, "127.0.0.1:0"));
      instances.push_back(
          {absl::StrCat("n", i), absl::StrCat("127.0.0.1:", servers_[i]->port()), ""});
    }
    auto placement = MakePlacement(instances, 8, rf);
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

  // An event whose replicas are tried in this order.
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
    return group->Wait(absl::InfiniteFuture());
  }

  int next_ = 0;
  std::vector<std::unique_ptr<TestReplica>> replicas_;
  std::vector<std::unique_ptr<rpc::Server>> servers_;
  std::unique_ptr<Channels> channels_;
  std::unique_ptr<Writer> writer_;
};

TEST_F(WriterTest, AnIdleLaneSendsAtOnceAndABusyOneGathers) {
  Start(1, {.batches_in_flight_max = 2});
  replicas_[0]->Hold();
  auto outcomes = std::make_shared<Outcomes>();
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  for (int i = 0; i < 2; ++i) {
    writer_->Write(MakeTestEvent(), deadline, outcomes);
    replicas_[0]->AwaitCalls(i + 1);
  }
  for (int i = 0; i < 100; ++i) writer_->Write(MakeTestEvent(), deadline, outcomes);
  EXPECT_EQ(outcomes->size(), 0u);
  replicas_[0]->Release();
  for (const absl::Status& status : outcomes->Await(102)) EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(replicas_[0]->batches(), (std::vector<int>{1, 1, 100}));
  EXPECT_LE(replicas_[0]->in_flight_most(), 2);
}

TEST_F(WriterTest, BatchesKeepTheirBound) {
  Start(1, {.batches_in_flight_max = 1, .batch_events_max = 10});
  replicas_[0]->Hold();
  auto outcomes = std::make_shared<Outcomes>();
  for (int i = 0; i < 35; ++i) {
    writer_->Write(MakeTestEvent(), absl::Now() + absl::Seconds(30), outcomes);
    if (i == 0) replicas_[0]->AwaitCalls(1);
  }
  replicas_[0]->Release();
  outcomes->Await(35);
  EXPECT_EQ(replicas_[0]->batches(), (std::vector<int>{1, 10, 10, 10, 4}));
}

TEST_F(WriterTest, AFullQueueRefusesAtOnceAndSaysWhenToComeBack) {
  Start(1, {.batches_in_flight_max = 1, .queue_events_max = 5});
  replicas_[0]->Hold();
  auto outcomes = std::make_shared<Outcomes>();
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  writer_->Write(MakeTestEvent(), deadline, outcomes);
  replicas_[0]->AwaitCalls(1);
  for (int i = 0; i < 8; ++i) writer_->Write(MakeTestEvent(), deadline, outcomes);
  const auto refused = outcomes->Await(3);
  ASSERT_EQ(refused.size(), 3u);
  for (const absl::Status& status : refused) {
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_GT(rpc::RetryDelayOf(status), absl::ZeroDuration());
  }
  replicas_[0]->Release();
  outcomes->Await(9);
}

TEST_F(WriterTest, OneRefusedEventFailsAlone) {
  Start(1, {.batches_in_flight_max = 1});
  replicas_[0]->Hold();
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  auto first = std::make_shared<WriteGroup>(1);
  auto good = std::make_shared<WriteGroup>(2);
  auto bad = std::make_shared<WriteGroup>(1);
  writer_->Write(MakeTestEvent(), deadline, first);
  replicas_[0]->AwaitCalls(1);
  writer_->Write(MakeTestEvent(), deadline, good);
  writer_->Write(MakeTestEvent("refuse"), deadline, bad);
  writer_->Write(MakeTestEvent(), deadline, good);
  replicas_[0]->Release();
  EXPECT_TRUE(good->Wait(absl::InfiniteFuture()).ok());
  const absl::Status status = bad->Wait(absl::InfiniteFuture());
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_EQ(status.message(), "no such tag");
}

TEST_F(WriterTest, ARetryHasTheSameEventId) {
  Start(1);
  replicas_[0]->FailNext(2, absl::UnavailableError("not now"));
  EXPECT_TRUE(WriteOne().ok());
  const auto ids = replicas_[0]->ids();
  ASSERT_EQ(ids.size(), 1u);
  EXPECT_EQ(ids.begin()->second, 3);
}

TEST_F(WriterTest, WhatNoRetryCanSaveIsNotRetried) {
  Start(1);
  replicas_[0]->FailNext(1, absl::FailedPreconditionError("another placement"));
  EXPECT_EQ(WriteOne().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(replicas_[0]->batches().size(), 1u);
}

TEST_F(WriterTest, ANodeThatRefusesConnectionsIsSaidToHaveStoredNothing) {
  Start(1);
  servers_[0]->Shutdown(absl::ZeroDuration());
  const absl::Status status = WriteOne(absl::Milliseconds(300));
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_GT(rpc::RetryDelayOf(status), absl::ZeroDuration());
}

TEST_F(WriterTest, ANodeThatDoesNotAnswerMayHaveStoredIt) {
  Start(1);
  replicas_[0]->Hold();
  const absl::Status status = WriteOne(absl::Milliseconds(300));
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  replicas_[0]->Release();
}

TEST_F(WriterTest, ANodeThatComesBackWithinTheDeadlineGetsTheTag) {
  Start(1);
  const std::string address = channels_->placement().instances[0].address;
  servers_[0].reset();
  auto group = std::make_shared<WriteGroup>(1);
  writer_->Write(MakeTestEvent(), absl::Now() + absl::Seconds(30), group);
  EXPECT_TRUE(absl::IsDeadlineExceeded(group->Wait(absl::Now() + absl::Milliseconds(50))));
  servers_[0] = StartServer(0, address);
  EXPECT_TRUE(group->Wait(absl::InfiniteFuture()).ok());
}

TEST_F(WriterTest, TheNextReplicaIsAskedWhenOneIsGone) {
  Start(3);
  servers_[1].reset();
  std::set<std::string> stored;
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(WriteOne().ok());
  for (const uint32_t i : {0, 2}) {
    for (const auto& [id, times] : replicas_[i]->ids()) stored.insert(id);
  }
  EXPECT_EQ(stored.size(), 50u);
}

TEST_F(WriterTest, ANodeThatDiesWithABatchCostsNoPause) {
  Start(3);
  std::vector<uint32_t> order;
  const EventRef event = MakeEventOf(0, &order);
  replicas_[0]->Hold();
  auto group = std::make_shared<WriteGroup>(1);
  writer_->Write(event, absl::Now() + absl::Seconds(30), group);
  replicas_[0]->AwaitCalls(1);
  // Ends the held call, as the kernel does for a killed process.
  std::jthread killer([&] { servers_[0]->Shutdown(absl::ZeroDuration()); });
  EXPECT_TRUE(group->Wait(absl::InfiniteFuture()).ok());
  EXPECT_EQ(replicas_[order[1]]->ids().size(), 1u) << "the next one of the placement has it";
  EXPECT_TRUE(replicas_[order[2]]->ids().empty());
  AwaitCircuit(0, true);
  replicas_[0]->Release();
}

TEST_F(WriterTest, ANodeThatHangsIsOvertakenAndItsLateAnswerIsNotTold) {
  Start(3, {.batches_in_flight_max = 1});
  std::vector<uint32_t> order;
  auto outcomes = std::make_shared<Outcomes>();
  replicas_[0]->Hold();
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  writer_->Write(MakeEventOf(0, &order), deadline, outcomes);
  replicas_[0]->AwaitCalls(1);
  for (int i = 0; i < 9; ++i) writer_->Write(MakeEventOf(0), deadline, outcomes);
  for (const absl::Status& status : outcomes->Await(10)) EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(replicas_[0]->batches().size(), 1u) << "what waited behind it went elsewhere";
  EXPECT_TRUE(channels_->CircuitOf(0)->is_open());
  // New ones do not wait for the hung one at all.
  writer_->Write(MakeEventOf(0), deadline, outcomes);
  outcomes->Await(11);
  EXPECT_EQ(replicas_[0]->batches().size(), 1u);
  replicas_[0]->Release();
  AwaitCircuit(0, false);
  writer_.reset();
  EXPECT_EQ(outcomes->size(), 11u) << "each was told once";
}

TEST_F(WriterTest, NothingIsSentTwiceWhereNoOtherInstanceIsBetter) {
  Start(2, {.batches_in_flight_max = 1});
  replicas_[0]->Hold();
  replicas_[1]->Hold();
  auto outcomes = std::make_shared<Outcomes>();
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  writer_->Write(MakeEventOf(0), deadline, outcomes);
  writer_->Write(MakeEventOf(1), deadline, outcomes);
  // Each is overdue, and may have been copied to the other while that was not yet known to be.
  replicas_[0]->AwaitCalls(1);
  replicas_[1]->AwaitCalls(1);
  AwaitCircuit(0, true);
  AwaitCircuit(1, true);
  replicas_[0]->Release();
  replicas_[1]->Release();
  for (const absl::Status& status : outcomes->Await(2)) EXPECT_TRUE(status.ok()) << status;
  writer_.reset();
  EXPECT_EQ(outcomes->size(), 2u);
}

TEST_F(WriterTest, ACircuitOpensForANodeThatIsGoneAndClosesOnceItIsBack) {
  Start(2);
  const std::string address = channels_->placement().instances[0].address;
  servers_[0].reset();
  auto outcomes = std::make_shared<Outcomes>();
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  writer_->Write(MakeEventOf(0), deadline, outcomes);
  EXPECT_TRUE(outcomes->Await(1)[0].ok());
  AwaitCircuit(0, true);
  EXPECT_FALSE(channels_->CircuitOf(1)->is_open());
  servers_[0] = StartServer(0, address);
  AwaitCircuit(0, false);  // by a probe: nothing else is sent there
  writer_->Write(MakeEventOf(0), deadline, outcomes);
  EXPECT_TRUE(outcomes->Await(2)[1].ok());
  EXPECT_EQ(replicas_[0]->ids().size(), 1u);
}

TEST_F(WriterTest, AnEventThatANodeHasNoQuorumForIsStoredByTheNextOne) {
  Start(3);
  for (const auto code : {absl::StatusCode::kUnavailable, absl::StatusCode::kDeadlineExceeded,
                          absl::StatusCode::kResourceExhausted}) {
    replicas_[0]->FailEvents(code);
    auto group = std::make_shared<WriteGroup>(1);
    writer_->Write(MakeEventOf(0), absl::Now() + absl::Seconds(30), group);
    EXPECT_TRUE(group->Wait(absl::InfiniteFuture()).ok());
    EXPECT_FALSE(channels_->CircuitOf(0)->is_open()) << "it is alive";
  }
  EXPECT_EQ(replicas_[0]->ids().size(), 3u);
}

TEST_F(WriterTest, AnEventThatNobodyHasAQuorumForMayBeStored) {
  Start(3);
  for (const auto& replica : replicas_) replica->FailEvents(absl::StatusCode::kUnavailable);
  EXPECT_TRUE(absl::IsDeadlineExceeded(WriteOne(absl::Milliseconds(100))));
  for (const auto& replica : replicas_) replica->FailEvents(absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(absl::IsResourceExhausted(WriteOne(absl::Milliseconds(100))));
}

TEST(PaceTest, AnswersAreOverdueAfterAMultipleOfWhatTheyTookLately) {
  Pace pace(absl::Milliseconds(50), absl::Seconds(1));
  EXPECT_EQ(pace.overdue(), absl::Milliseconds(50));
  for (int i = 0; i < 100; ++i) pace.Observe(absl::Milliseconds(100));
  EXPECT_GT(pace.overdue(), absl::Milliseconds(300));
  EXPECT_LT(pace.overdue(), absl::Milliseconds(401));
  for (int i = 0; i < 1000; ++i) pace.Observe(absl::Hours(1));
  EXPECT_EQ(pace.overdue(), absl::Seconds(1));
  for (int i = 0; i < 1000; ++i) pace.Observe(absl::Milliseconds(1));
  EXPECT_EQ(pace.overdue(), absl::Milliseconds(50));
}

TEST_F(WriterTest, EndingTheWriterAnswersEverythingThatWasQueuedOrUnderWay) {
  Start(2, {.batches_in_flight_max = 1, .batch_events_max = 5});
  replicas_[0]->Hold();
  replicas_[1]->Hold();
  auto outcomes = std::make_shared<Outcomes>();
  for (int i = 0; i < 500; ++i) {
    writer_->Write(MakeTestEvent(), absl::Now() + absl::Seconds(30), outcomes);
  }
  writer_.reset();
  EXPECT_EQ(outcomes->size(), 500u);
  replicas_[0]->Release();
  replicas_[1]->Release();
}

TEST_F(WriterTest, ManyThreadsWritingGetOneAnswerEach) {
  Start(3, {.batch_events_max = 7});
  replicas_[0]->FailNext(20, absl::ResourceExhaustedError("busy"));
  std::atomic<int> ok = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 200; ++i) {
          auto group = std::make_shared<WriteGroup>(1);
          writer_->Write(MakeEvent(absl::StrCat("c", i), 1, "tag", "", 8, absl::Now()),
                         absl::Now() + absl::Seconds(30), group);
          ok += group->Wait(absl::InfiniteFuture()).ok();
        }
      });
    }
  }
  EXPECT_EQ(ok, 800);
}

TEST_F(WriterTest, ReadinessNamesWhoDoesNotServe) {
  Start(2);
  servers_[0]->SetServing(true);
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  EXPECT_TRUE(channels_->CheckReady(deadline).ok()) << "the other replica of each shard serves";
  servers_[0]->SetServing(false);
  const absl::Status status = channels_->CheckReady(deadline);
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_NE(status.message().find("8 of 8 shards"), std::string::npos) << status;
}

TEST(WriteGroup, KeepsTheFirstErrorAndAWaitThatWasGivenUpIsSafe) {
  auto group = std::make_shared<WriteGroup>(2);
  group->Done(absl::UnavailableError("x"));
  EXPECT_TRUE(absl::IsUnavailable(group->Wait(absl::InfinitePast())));
  group->Done(absl::OkStatus());
  EXPECT_TRUE(absl::IsUnavailable(group->Wait(absl::InfiniteFuture())));
}

}  // namespace
}  // namespace allezon::router
