// SPDX-License-Identifier: Apache-2.0
//
// Aggregates: full answers or an error, never a part.
#include "tests/unit/router/readers_testing.h"

namespace allezon::router {
namespace {

TEST_F(ReadersTest, EveryShardIsAskedOnceWithOneCallANode) {
  Start(4, 1);
  ExpectFull(Query());
  for (const auto& node : aggregates_) EXPECT_EQ(node->calls, 1);
}

TEST_F(ReadersTest, EachShardIsAskedOfTheReplicaThatItsWritesGoTo) {
  Start(3, 3);
  for (int i = 0; i < 9; ++i) ExpectFull(Query());
  for (const auto& node : aggregates_) EXPECT_EQ(node->calls, 9) << "each is the first of some";
}

TEST_F(ReadersTest, TheShardsOfANodeThatFailsAreAskedFromOthers) {
  Start(4, 2);
  for (int i = 0; i < 20; ++i) {
    aggregates_[i % 4]->fail_next = 1;
    ExpectFull(Query());
    aggregates_[i % 4]->fail_next = 0;
  }
  servers_[2].reset();
  for (int i = 0; i < 5; ++i) ExpectFull(Query());
}

TEST_F(ReadersTest, ANodeThatComesToItselfIsAskedAgainWithinTheDeadline) {
  Start(2, 1);
  aggregates_[0]->fail_next = 3;
  ExpectFull(Query());
}

TEST_F(ReadersTest, AShardThatNobodyAnswersForIsAnErrorNotAPart) {
  Start(3, 1);
  servers_[1].reset();
  const auto buckets = Query(absl::Milliseconds(300));
  EXPECT_TRUE(absl::IsUnavailable(buckets.status()) || absl::IsDeadlineExceeded(buckets.status()))
      << buckets.status();
  EXPECT_GT(rpc::RetryDelayOf(buckets.status()), absl::ZeroDuration());
}

TEST_F(ReadersTest, AnAnswerThatLacksAMinuteIsAnError) {
  Start(2, 1);
  aggregates_[1]->drop_a_minute = true;
  EXPECT_EQ(Query().status().code(), absl::StatusCode::kInternal);
}

// Two nodes that hold different shards of the same minutes.
TEST_F(ReadersTest, AMinuteThatExpiredInAnyShardIsAnsweredOnlyWhereAllThatIsLeftCameLater) {
  Start(2, 1);
  const auto expect_refused = [&](uint32_t expired_at_s0, uint32_t oldest_s0,
                                  uint32_t expired_at_s1, uint32_t oldest_s1) {
    aggregates_[0]->expired_at_s = expired_at_s0;
    aggregates_[0]->oldest_accepted_s = oldest_s0;
    aggregates_[1]->expired_at_s = expired_at_s1;
    aggregates_[1]->oldest_accepted_s = oldest_s1;
    for (const bool quorum : {false, true}) {
      EXPECT_EQ(Query(absl::Seconds(20), quorum).status().code(),
                absl::StatusCode::kFailedPrecondition)
          << expired_at_s0 << ' ' << oldest_s0 << ' ' << expired_at_s1 << ' ' << oldest_s1;
    }
  };
  const auto expect_answered = [&](uint32_t expired_at_s0, uint32_t oldest_s0,
                                   uint32_t expired_at_s1, uint32_t oldest_s1) {
    aggregates_[0]->expired_at_s = expired_at_s0;
    aggregates_[0]->oldest_accepted_s = oldest_s0;
    aggregates_[1]->expired_at_s = expired_at_s1;
    aggregates_[1]->oldest_accepted_s = oldest_s1;
    for (const bool quorum : {false, true}) ExpectFull(Query(absl::Seconds(20), quorum));
  };
  // The one is gone, and the other one has tags that came before that.
  expect_refused(100, 0, 0, 50);
  expect_refused(100, 0, 0, 100);
  expect_answered(100, 0, 0, 101);
  // The one has something new, the other one not.
  expect_refused(100, 101, 0, 99);
  // Either's expiry counts for both: the latest.
  expect_refused(100, 150, 200, 0);
  expect_refused(100, 150, 200, 201);
  expect_answered(100, 201, 200, 201);
  // Nothing is left.
  expect_refused(100, 0, 0, 0);
  expect_refused(100, 0, 90, 0);
  // It never expired.
  expect_answered(0, 0, 0, 0);
  expect_answered(0, 1, 0, 0);
}

TEST_F(ReadersTest, InAQuorumAnotherReplicasExpiryCountsToo) {
  Start(3, 3);
  for (const auto& node : aggregates_) node->oldest_accepted_s = 99;
  // Any two answer.
  aggregates_[1]->expired_at_s = aggregates_[2]->expired_at_s = 100;
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(Query(absl::Seconds(20), true).status().code(),
              absl::StatusCode::kFailedPrecondition);
  }
  for (const auto& node : aggregates_) node->oldest_accepted_s = 101;
  ExpectFull(Query(absl::Seconds(20), true));
}

TEST_F(ReadersTest, ShardsOfANodeThatHangsAreAskedElsewhereAndCountOnce) {
  Start(4, 2);
  for (int i = 0; i < 4; ++i) {
    aggregates_[i]->holder.Hold();
    ExpectFull(Query());
    aggregates_[i]->holder.Release();
  }
}

TEST_F(ReadersTest, ALateAnswerIsUsedWhereItIsTheOnlyOneAndNotCountedTwice) {
  Start(2, 2);
  // Both hang: each is asked for everything, and whichever answers first is the answer.
  aggregates_[0]->holder.Hold();
  aggregates_[1]->holder.Hold();
  std::jthread releaser([&] {
    aggregates_[0]->holder.AwaitCalls(1);
    aggregates_[1]->holder.AwaitCalls(1);
    aggregates_[0]->holder.Release();
    aggregates_[1]->holder.Release();
  });
  ExpectFull(Query());
}

TEST_F(ReadersTest, AnOverdueNodeIsWaitedForWhereNobodyElseHasItsShards) {
  Start(2, 1);
  aggregates_[0]->holder.Hold();
  std::jthread releaser([&] {
    aggregates_[0]->holder.AwaitCalls(1);
    absl::SleepFor(absl::Milliseconds(100));  // long enough to be overdue
    aggregates_[0]->holder.Release();
  });
  ExpectFull(Query());
  EXPECT_EQ(aggregates_[0]->calls, 1);
}

TEST_F(ReadersTest, AQuorumOfEqualReplicasAnswersAggregates) {
  Start(4, 3);
  ExpectFull(Query(absl::Seconds(20), true));
  servers_[2].reset();  // any read quorum will do
  ExpectFull(Query(absl::Seconds(20), true));
  for (const auto& sync : syncs_) EXPECT_EQ(sync->shards, 0);
}

TEST_F(ReadersTest, AQuorumOfReplicasThatDifferIsSyncedAndAskedAgain) {
  Start(3, 3);
  aggregates_[1]->lacks_until_sync = true;
  // Two that are equal may answer first; sooner or later the third one is among them.
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  do {
    ExpectFull(Query(absl::Seconds(20), true));
  } while (aggregates_[1]->lacks_until_sync && absl::Now() < deadline);
  EXPECT_FALSE(aggregates_[1]->lacks_until_sync);
  EXPECT_GE(syncs_[1]->shards, static_cast<int>(kShards));
}

}  // namespace
}  // namespace allezon::router
