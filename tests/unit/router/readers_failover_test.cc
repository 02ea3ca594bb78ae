// SPDX-License-Identifier: Apache-2.0
//
// What both readers do with replicas that cannot answer.
#include "router/pace.h"
#include "tests/unit/router/readers_testing.h"

namespace allezon::router {
namespace {

// A broken block for one: the same node will not answer, and the next one does.
TEST_F(ReadersTest, AReplicaWithAFaultOfItsOwnIsAnotherOnesAnswer) {
  Start(3, 3);
  for (const absl::Status& fault :
       {absl::DataLossError("a block"), absl::InternalError("x"), absl::UnknownError("y")}) {
    for (size_t broken = 0; broken < 3; ++broken) {
      aggregates_[broken]->failure = profiles_[broken]->failure = fault;
      aggregates_[broken]->fail_next = profiles_[broken]->fail_next = 1'000'000;
      for (const bool quorum : {false, true}) {
        ExpectFull(Query(absl::Seconds(20), quorum));
        for (int i = 0; i < 10; ++i) {
          const ProfileQuery query{.cookie = absl::StrCat("c", i), .quorum = quorum};
          EXPECT_TRUE(profile_reader_->Read(query, absl::Now() + absl::Seconds(20)).ok());
        }
      }
      aggregates_[broken]->fail_next = profiles_[broken]->fail_next = 0;
    }
  }
}

TEST_F(ReadersTest, AFaultThatAllReplicasHaveIsToldAtOnce) {
  Start(3, 3);
  for (int i = 0; i < 3; ++i) {
    aggregates_[i]->failure = profiles_[i]->failure = absl::DataLossError("a block");
    aggregates_[i]->fail_next = profiles_[i]->fail_next = 1'000'000;
  }
  const absl::Time begun = absl::Now();
  for (const bool quorum : {false, true}) {
    EXPECT_TRUE(absl::IsDataLoss(Query(absl::Minutes(1), quorum).status()));
    const ProfileQuery query{.cookie = "c", .quorum = quorum};
    EXPECT_TRUE(
        absl::IsDataLoss(profile_reader_->Read(query, absl::Now() + absl::Minutes(1)).status()));
  }
  EXPECT_LT(absl::Now() - begun, absl::Seconds(30));
}

TEST_F(ReadersTest, WhereOneGoesByAnotherPlacementTheNextOneIsAsked) {
  Start(2, 2);
  for (int i = 0; i < 2; ++i) {
    profiles_[i]->failure = aggregates_[i]->failure = absl::FailedPreconditionError("another");
    profiles_[i]->fail_next = aggregates_[i]->fail_next = 1'000'000;
    EXPECT_TRUE(profile_reader_->Read({.cookie = "c"}, absl::Now() + absl::Seconds(20)).ok());
    ExpectFull(Query());
    profiles_[i]->fail_next = aggregates_[i]->fail_next = 0;
  }
  for (auto& node : aggregates_) node->fail_next = 1'000'000;
  EXPECT_TRUE(absl::IsUnavailable(Query(absl::Milliseconds(300)).status()))
      << "not what retention says";
}

TEST_F(ReadersTest, WhereSomebodyElseAnswersTheNextOneIsAsked) {
  Start(2, 2);
  profiles_[0]->answers_as_another = aggregates_[0]->answers_as_another = true;
  for (int i = 0; i < 10; ++i) {
    const std::string cookie = absl::StrCat("c", i);
    EXPECT_TRUE(profile_reader_->Read({.cookie = cookie}, absl::Now() + absl::Seconds(20)).ok());
    ExpectFull(Query());
  }
  profiles_[1]->answers_as_another = aggregates_[1]->answers_as_another = true;
  const absl::Duration timeout = absl::Milliseconds(300);
  for (const bool quorum : {false, true}) {
    EXPECT_TRUE(absl::IsUnavailable(
        profile_reader_->Read({.cookie = "c", .quorum = quorum}, absl::Now() + timeout).status()));
    EXPECT_TRUE(absl::IsUnavailable(Query(timeout, quorum).status()));
  }
}

TEST_F(ReadersTest, AQuorumThatStaysDifferentIsAnErrorInsideTheDeadline) {
  Start(2, 2);
  // A write quorum of both would be read from one; of one, from both.
  std::vector<Instance> instances = channels_->placement().instances;
  auto placement = MakePlacement(instances, kShards, 2, 1);
  ASSERT_TRUE(placement.ok());
  profile_reader_.reset();
  aggregate_reader_.reset();
  channels_ = std::make_unique<Channels>(*std::move(placement));
  aggregate_reader_ = MakeAggregateReader(*channels_);
  aggregates_[0]->lacks_until_sync = true;
  syncs_[0]->works = false;
  const auto buckets = Query(absl::Milliseconds(300), true);
  EXPECT_TRUE(absl::IsUnavailable(buckets.status())) << buckets.status();
  EXPECT_GT(rpc::RetryDelayOf(buckets.status()), absl::ZeroDuration());
  EXPECT_GT(syncs_[0]->shards, 0);
}

// It lives, so its circuit closes again and again, and each time a read would wait for it.
TEST_F(ReadersTest, AReplicaThatIsSlowIsOnlyTriedNowAndThen) {
  Start(3, 3);
  constexpr absl::Duration kTime = absl::Seconds(4);
  constexpr int kUntilItIsKnown = 8;
  int reads = 0;
  const auto read_one = [&] {
    const ProfileQuery query{.cookie = absl::StrCat("c", ++reads)};
    EXPECT_TRUE(profile_reader_->Read(query, absl::Now() + absl::Seconds(20)).ok());
  };
  while (reads < 100) read_one();
  const int before = profiles_[1]->holder.calls();
  profiles_[1]->holder.Hold();
  for (const absl::Time end = absl::Now() + kTime; absl::Now() < end;) read_one();
  EXPECT_LE(profiles_[1]->holder.calls() - before, kUntilItIsKnown + kTime / Pace::kTrialEvery);
  profiles_[1]->holder.Release();
}

}  // namespace
}  // namespace allezon::router
