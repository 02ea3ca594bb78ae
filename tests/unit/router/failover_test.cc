// SPDX-License-Identifier: Apache-2.0
//
// What the writer does while an instance is gone, hangs, or has no quorum.
#include <gtest/gtest.h>

#include <set>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "router/writer.h"
#include "tests/unit/router/writer_testing.h"

namespace allezon::router {
namespace {

TEST_F(WriterTest, ANodeThatComesBackWithinTheDeadlineGetsTheTag) {
  Start(1);
  const std::string address = channels_->placement().instances[0].address;
  servers_[0].reset();
  auto group = std::make_shared<WriteGroup>(1);
  writer_->Write(MakeTestEvent(), absl::Now() + absl::Seconds(30), group);
  EXPECT_FALSE(group->WaitFor(absl::Milliseconds(50)));
  servers_[0] = StartServer(0, address);
  EXPECT_TRUE(group->Wait().ok());
}

TEST_F(WriterTest, TheNextReplicaIsAskedWhenOneIsGone) {
  Start(3, {}, /*write_quorum=*/1);
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
  EXPECT_TRUE(group->Wait().ok());
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
  Start(2, {}, /*write_quorum=*/1);
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
  Start(3, {}, /*write_quorum=*/1);
  for (const auto code : {absl::StatusCode::kUnavailable, absl::StatusCode::kDeadlineExceeded,
                          absl::StatusCode::kResourceExhausted}) {
    replicas_[0]->FailEvents(code);
    auto group = std::make_shared<WriteGroup>(1);
    writer_->Write(MakeEventOf(0), absl::Now() + absl::Seconds(30), group);
    EXPECT_TRUE(group->Wait().ok());
    EXPECT_FALSE(channels_->CircuitOf(0)->is_open()) << "it is alive";
  }
  EXPECT_EQ(replicas_[0]->ids().size(), 3u);
}

TEST_F(WriterTest, AnInstanceThatRefusesWhatItGetsIsNotAskedFirstForLong) {
  Start(3, {.overdue_min = absl::Seconds(1)});
  replicas_[0]->FailEvents(absl::StatusCode::kUnavailable);
  for (int i = 0; i < 20; ++i) {
    auto group = std::make_shared<WriteGroup>(1);
    writer_->Write(MakeEventOf(0), absl::Now() + absl::Seconds(30), group);
    EXPECT_TRUE(group->Wait().ok());
  }
  EXPECT_EQ(replicas_[0]->batches().size(), 1u);
}

TEST_F(WriterTest, AnEventThatNobodyHasAQuorumForIsToBeTriedAgain) {
  Start(3);
  // An attempt that the deadline cuts short may have been heard, or not been sent on a busy
  // machine; most are answered before.
  const auto answer = [&](absl::StatusCode expected) {
    absl::Status status;
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    do {
      status = WriteOne(absl::Milliseconds(100));
    } while (status.code() != expected && absl::Now() < deadline);
    return status;
  };
  for (const auto& replica : replicas_) replica->FailEvents(absl::StatusCode::kUnavailable);
  const absl::Status unavailable = answer(absl::StatusCode::kUnavailable);
  EXPECT_TRUE(absl::IsUnavailable(unavailable)) << unavailable;
  EXPECT_GT(rpc::RetryDelayOf(unavailable), absl::ZeroDuration());
  for (const auto& replica : replicas_) replica->FailEvents(absl::StatusCode::kResourceExhausted);
  const absl::Status exhausted = answer(absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(absl::IsResourceExhausted(exhausted)) << exhausted;
}

}  // namespace
}  // namespace allezon::router
