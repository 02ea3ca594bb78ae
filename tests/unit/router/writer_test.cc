// SPDX-License-Identifier: Apache-2.0
//
// The writer and its lanes: batching, bounds, retries, outcomes.
#include "router/writer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "rpc/status.h"
#include "tests/unit/router/writer_testing.h"

namespace allezon::router {
namespace {

TEST_F(WriterTest, AnIdleLaneSendsAtOnceAndABusyOneGathers) {
  Start(1, {.batches_in_flight_max = 2, .gathering = {.large_events = 64}});
  replicas_[0]->Hold();
  auto outcomes = std::make_shared<Outcomes>();
  const auto write = [&](int count) {
    for (int i = 0; i < count; ++i) {
      writer_->Write(MakeTestEvent(), absl::Now() + absl::Seconds(30), outcomes);
    }
  };
  write(1);
  replicas_[0]->AwaitCalls(1);
  write(64);  // enough to join the one in flight
  replicas_[0]->AwaitCalls(2);
  write(30);
  EXPECT_EQ(outcomes->size(), 0u);
  replicas_[0]->Release();
  for (const absl::Status& status : outcomes->Await(95)) EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(replicas_[0]->batches(), (std::vector<int>{1, 64, 30}));
  EXPECT_LE(replicas_[0]->in_flight_most(), 2);
}

TEST_F(WriterTest, ALaneWaitsForThoseWhomAnAnswerSetFree) {
  Start(1, {.gathering = {.time_max = absl::Seconds(30), .times_last = 1e6}});
  replicas_[0]->Hold();
  auto outcomes = std::make_shared<Outcomes>();
  const auto write = [&](int count) {
    for (int i = 0; i < count; ++i) {
      writer_->Write(MakeTestEvent(), absl::Now() + absl::Seconds(60), outcomes);
    }
  };
  write(1);
  replicas_[0]->AwaitCalls(1);
  write(5);
  replicas_[0]->Release();
  outcomes->Await(1);
  write(1);  // is expected still, since one was answered
  outcomes->Await(7);
  write(5);
  write(1);
  outcomes->Await(13);
  EXPECT_EQ(replicas_[0]->batches(), (std::vector<int>{1, 6, 6}));
}

TEST_F(WriterTest, ALaneDoesNotWaitForEver) {
  Start(1, {.gathering = {.time_max = absl::Milliseconds(20)}});
  auto outcomes = std::make_shared<Outcomes>();
  for (int i = 0; i < 10; ++i) {
    writer_->Write(MakeTestEvent(), absl::Now() + absl::Seconds(30), outcomes);
  }
  outcomes->Await(10);
  writer_->Write(MakeTestEvent(), absl::Now() + absl::Seconds(30), outcomes);
  for (const absl::Status& status : outcomes->Await(11)) EXPECT_TRUE(status.ok()) << status;
}

TEST_F(WriterTest, EventsGoWhereOthersOfTheSameReplicasWait) {
  Start(3, {.overdue_min = absl::Seconds(1)});
  for (const auto& replica : replicas_) replica->Hold();
  auto outcomes = std::make_shared<Outcomes>();
  const auto write = [&](uint32_t first, int count) {
    for (int i = 0; i < count; ++i) {
      writer_->Write(MakeEventOf(first), absl::Now() + absl::Seconds(30), outcomes);
    }
  };
  write(0, 1);
  replicas_[0]->AwaitCalls(1);
  write(0, 5);
  write(1, 5);
  write(2, 5);
  for (const auto& replica : replicas_) replica->Release();
  for (const absl::Status& status : outcomes->Await(16)) EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(replicas_[0]->batches(), (std::vector<int>{1, 15}));
}

TEST_F(WriterTest, WhereManyWaitEventsAreSpreadOverTheirReplicas) {
  Start(3, {.batches_in_flight_max = 1,
            .gathering = {.large_events = 5},
            .overdue_min = absl::Seconds(1)});
  for (const auto& replica : replicas_) replica->Hold();
  auto outcomes = std::make_shared<Outcomes>();
  for (uint32_t i = 0; i < 3; ++i) {
    writer_->Write(MakeEventOf(i), absl::Now() + absl::Seconds(30), outcomes);
    replicas_[i]->AwaitCalls(1);
  }
  const auto write = [&](uint32_t first, int count) {
    for (int i = 0; i < count; ++i) {
      writer_->Write(MakeEventOf(first), absl::Now() + absl::Seconds(30), outcomes);
    }
  };
  write(0, 5);
  for (int i = 0; i < 10; ++i) {
    for (const uint32_t first : {0, 1, 2}) write(first, 1);
  }
  for (const auto& replica : replicas_) replica->Release();
  for (const absl::Status& status : outcomes->Await(38)) EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(replicas_[0]->batches(), (std::vector<int>{1, 15}));
  EXPECT_EQ(replicas_[1]->batches(), (std::vector<int>{1, 10}));
  EXPECT_EQ(replicas_[2]->batches(), (std::vector<int>{1, 10}));
}

TEST_F(WriterTest, WhereTheCoordinatorAloneAcknowledgesItIsTheOneThatIsReadFirst) {
  Start(2, {.batches_in_flight_max = 1, .overdue_min = absl::Seconds(1)}, /*write_quorum=*/1);
  for (const auto& replica : replicas_) replica->Hold();
  auto outcomes = std::make_shared<Outcomes>();
  for (const uint32_t first : {0, 0, 0, 0, 1}) {
    writer_->Write(MakeEventOf(first), absl::Now() + absl::Seconds(30), outcomes);
  }
  replicas_[1]->AwaitCalls(1);
  for (const auto& replica : replicas_) replica->Release();
  outcomes->Await(5);
  EXPECT_EQ(replicas_[1]->batches(), (std::vector<int>{1}));
}

TEST_F(WriterTest, ACallerWithLittleTimeIsTriedForAllTheSame) {
  Start(1);
  auto outcomes = std::make_shared<Outcomes>();
  writer_->Write(MakeTestEvent(), absl::Now() + absl::Seconds(30), outcomes);
  outcomes->Await(1);  // connected
  // This thread may be held up for longer than a caller waits, but not each time.
  for (size_t tried = 1; tried < 100 && replicas_[0]->batches().size() < 2; ++tried) {
    writer_->Write(MakeTestEvent(), absl::Now() + absl::Milliseconds(15), outcomes);
    outcomes->Await(tried + 1);
  }
  EXPECT_EQ(replicas_[0]->batches().size(), 2u);
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

TEST_F(WriterTest, WhereALaneIsFullAnotherOneIsTaken) {
  Start(2, {.batches_in_flight_max = 1, .queue_events_max = 5}, 2);
  for (auto& replica : replicas_) replica->Hold();
  auto outcomes = std::make_shared<Outcomes>();
  // One in flight and five in the queue, for each of them.
  for (int i = 0; i < 12; ++i) {
    writer_->Write(MakeTestEvent(), absl::Now() + absl::Seconds(30), outcomes);
  }
  // They owe their answers for so long that what waits is moved to and fro.
  absl::SleepFor(absl::Milliseconds(300));
  for (auto& replica : replicas_) replica->Release();
  for (const absl::Status& status : outcomes->Await(12)) EXPECT_TRUE(status.ok()) << status;
}

TEST_F(WriterTest, NoMoreThanSoManyWritesWaitForAnotherAttempt) {
  Start(1, {.retries_max = 2});
  replicas_[0]->FailEvents(absl::StatusCode::kUnavailable);
  auto outcomes = std::make_shared<Outcomes>();
  const absl::Time begun = absl::Now();
  for (int i = 0; i < 30; ++i) {
    writer_->Write(MakeTestEvent(), begun + absl::Seconds(60), outcomes);
  }
  // Those that wait, and those that are at the instance, go on.
  for (const absl::Status& status : outcomes->Await(20)) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_GT(rpc::RetryDelayOf(status), absl::ZeroDuration()) << status;
  }
  EXPECT_LT(absl::Now() - begun, absl::Seconds(20)) << "the others waited to their end";
  replicas_[0]->FailEvents(absl::StatusCode::kOk);
  const std::vector<absl::Status> all = outcomes->Await(30);
  EXPECT_TRUE(all.back().ok()) << all.back();
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
  EXPECT_TRUE(good->Wait().ok());
  const absl::Status status = bad->Wait();
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

TEST_F(WriterTest, AReplicaWithAFaultOfItsOwnIsAnotherOnesWrite) {
  Start(2, {}, 2);
  for (const absl::Status& fault :
       {absl::DataLossError("a block"), absl::InternalError("x"), absl::UnknownError("y")}) {
    replicas_[0]->FailNext(1'000'000, fault);
    for (int i = 0; i < 10; ++i) EXPECT_TRUE(WriteOne().ok());
    replicas_[0]->FailNext(0, fault);
  }
}

TEST_F(WriterTest, AFaultThatAllReplicasHaveIsToldAtOnce) {
  Start(2, {}, 2);
  for (auto& replica : replicas_) replica->FailNext(1'000'000, absl::DataLossError("broken"));
  EXPECT_EQ(WriteOne().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(replicas_[0]->batches().size() + replicas_[1]->batches().size(), 2u);
}

// One of them may take it a little later.
TEST_F(WriterTest, AFaultThatOnlySomeHaveIsNoReasonToGiveUp) {
  Start(2, {}, 2);
  replicas_[0]->FailNext(1'000'000, absl::DataLossError("broken"));
  replicas_[1]->FailNext(3, absl::UnavailableError("not now"));
  EXPECT_TRUE(WriteOne().ok());
}

TEST_F(WriterTest, WhereOneGoesByAnotherPlacementTheNextOneIsAsked) {
  Start(2, {}, 2);
  for (auto& replica : replicas_) {
    replica->FailNext(1, absl::FailedPreconditionError("another placement"));
  }
  EXPECT_TRUE(WriteOne().ok());
  for (auto& replica : replicas_) replica->FailNext(1'000'000, absl::FailedPreconditionError("x"));
  EXPECT_TRUE(absl::IsUnavailable(WriteOne(absl::Milliseconds(300))));
}

TEST_F(WriterTest, WhatSomebodyElseSaysIsStoredIsStoredByTheNextOne) {
  Start(2, {}, 1);
  v1::NodeIdentity another = channels_->IdentityOf(1);
  replicas_[0]->AnswerAs(another);
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(WriteOne().ok());
  EXPECT_EQ(replicas_[1]->ids().size(), 20u);
  // Of the right name, in another cluster; or of no name at all.
  another = channels_->IdentityOf(1);
  another.set_cluster("another");
  replicas_[1]->AnswerAs(another);
  const absl::Status status = WriteOne(absl::Milliseconds(300));
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_NE(status.message().find("the answer is by "), std::string::npos) << status;
  replicas_[1]->AnswerAs({});
  EXPECT_TRUE(absl::IsUnavailable(WriteOne(absl::Milliseconds(300))));
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
          ok += group->Wait().ok();
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
  EXPECT_TRUE(CheckReady({channels_.get()}, deadline).ok())
      << "the other replica of each shard serves";
  servers_[0]->SetServing(false);
  const absl::Status status = CheckReady({channels_.get()}, deadline);
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_NE(status.message().find("8 of 8 shards"), std::string::npos) << status;
}

TEST_F(WriterTest, ReadinessSaysWhoAnswersForAnotherOneOrRefuses) {
  Start(1);
  servers_[0]->SetServing(true);
  const auto check = [&] { return CheckReady({channels_.get()}, absl::Now() + absl::Seconds(10)); };
  EXPECT_TRUE(check().ok());
  v1::NodeIdentity another = channels_->IdentityOf(0);
  another.set_instance("another");
  replicas_[0]->AnswerAs(another);
  EXPECT_NE(check().message().find("not serving: n0 (the answer is by /another of cluster allezon"),
            std::string::npos)
      << check();
  replicas_[0]->AnswerAs(channels_->IdentityOf(0));
  EXPECT_TRUE(check().ok());
  replicas_[0]->FailNext(1'000, absl::FailedPreconditionError("another placement"));
  EXPECT_NE(check().message().find("not serving: n0 (another placement)"), std::string::npos)
      << check();
}

}  // namespace
}  // namespace allezon::router
