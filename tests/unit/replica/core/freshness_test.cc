// SPDX-License-Identifier: Apache-2.0
//
// A shard with the replicas 0 (this node), 1 and 2, and a write quorum of 2: one other replica's
// set is enough to have seen all that was acknowledged.
#include "replica/core/freshness.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace allezon::replica {
namespace {

router::Placement Replicas(uint32_t rf, uint32_t write_quorum) {
  std::vector<router::Instance> instances;
  for (uint32_t i = 0; i < rf; ++i) {
    instances.push_back({absl::StrCat("n", i), absl::StrCat("h", i, ":1"), ""});
  }
  return *router::MakePlacement(std::move(instances), 1, rf, write_quorum);
}

constexpr Instant kSettled = 10;

class FreshnessTest : public testing::Test {
 protected:
  void Poll(uint32_t peer, Instant sent, Instant now) {
    v1::PollResponse response;
    response.set_incarnation(incarnation_[peer]);
    response.set_lane_session(session_[peer]);
    response.set_owed_age_us(owed_age_us_[peer]);
    for (const uint64_t count : received_[peer]) response.add_received(count);
    if (unjoined_[peer]) response.add_unjoined_shards(0);
    freshness_.Polled(peer, response, sent, now);
  }
  void Sync(uint32_t peer, Instant begun) { Sync(peer, begun, freshness_.KnownOf(peer)); }
  void Sync(uint32_t peer, Instant begun, const Freshness::Known& known) {
    freshness_.Synced(peer, 0, begun, known, incarnation_[peer],
                      std::make_shared<std::vector<uint64_t>>(received_[peer]));
  }
  Instant Complete(Instant now) { return freshness_.CompleteAsOf(0, now); }

  CoreOptions options_ = {.self = 0,
                          .write_quorum = 2,
                          .silent_after_us = 100,
                          .sync_period_us = 1'000'000,
                          .join_after_us = kSettled};
  router::Placement placement_ = Replicas(3, 2);
  Freshness freshness_{options_, placement_, -kSettled};
  uint64_t incarnation_[3] = {1, 1, 1};
  uint64_t session_[3] = {1, 1, 1};
  uint64_t owed_age_us_[3] = {};
  bool unjoined_[3] = {};
  std::vector<uint64_t> received_[3] = {{0, 0, 0}, {0, 0, 0}, {0, 0, 0}};
};

TEST_F(FreshnessTest, NothingIsKnownBeforeTheFirstSync) {
  EXPECT_EQ(Complete(10), kNever);
  Poll(1, 10, 12);
  Poll(2, 10, 12);
  EXPECT_EQ(Complete(20), kNever);
  EXPECT_TRUE(freshness_.NeedsSync(1, 0, 20));
}

TEST_F(FreshnessTest, PollsVouchFromWhenTheyWereSentButForWhatIsOwed) {
  Poll(1, 10, 12);
  Poll(2, 10, 12);
  Sync(1, 20);
  EXPECT_EQ(Complete(25), 20);
  owed_age_us_[2] = 7;
  received_[1][2] = 1;  // so that 1 does not vouch for 2
  Poll(1, 30, 33);
  Poll(2, 30, 33);
  EXPECT_EQ(Complete(40), 23);
}

TEST_F(FreshnessTest, ANewLaneSessionCountsOnlyAfterASyncThatBeganLater) {
  Poll(1, 10, 12);
  Poll(2, 10, 12);
  Sync(1, 20);
  Sync(2, 20);
  ++session_[2];
  received_[1][2] = 5;  // so that 1 does not vouch for 2
  Poll(1, 30, 32);
  Poll(2, 30, 32);
  EXPECT_EQ(Complete(40), 20);
  EXPECT_TRUE(freshness_.NeedsSync(1, 0, 40));
  Sync(1, 31);
  EXPECT_TRUE(freshness_.NeedsSync(1, 0, 40)) << "it began before the session was heard of";
  EXPECT_EQ(Complete(40), 31) << "what was pulled tells as much as that";
  Sync(1, 33);
  Poll(1, 50, 52);
  Poll(2, 50, 52);
  EXPECT_EQ(Complete(55), 50);
}

TEST_F(FreshnessTest, OneThatOnlyThisNodeDoesNotReachIsKnownByWhatIsPulledFromTheOther) {
  for (Instant now = 0; now < 1000; now += 100) {
    Poll(1, now + 10, now + 12);
    Sync(1, now + 20);
    ++received_[1][2];  // 2 is cut off from here alone, and goes on writing
    Poll(1, now + 30, now + 32);
    EXPECT_EQ(Complete(now + 40), now + 20);
  }
}

TEST_F(FreshnessTest, ASilentReplicaIsVouchedForByAnotherThatTookNothingFromIt) {
  Poll(1, 10, 12);
  Poll(2, 10, 12);
  Sync(1, 20);
  for (Instant now = 100; now <= 1000; now += 100) Poll(1, now, now + 2);
  EXPECT_EQ(Complete(1010), 1000);
  // It is alive somewhere and writes by way of 1.
  received_[1][2] = 1;
  Poll(1, 1100, 1102);
  EXPECT_EQ(Complete(1110), 1000) << "what was here stays here";
  EXPECT_TRUE(freshness_.MissesSilent(1, 0, 1110));
  EXPECT_TRUE(freshness_.NeedsSync(1, 0, 1110));
  Sync(1, 1120);
  EXPECT_FALSE(freshness_.NeedsSync(1, 0, 1130));
  EXPECT_EQ(Complete(1130), 1120);
}

TEST_F(FreshnessTest, APeerThatRestartedVouchesForNobodyUntilItIsSyncedFromAgain) {
  Poll(1, 10, 12);
  Poll(2, 10, 12);
  Sync(1, 20);
  Poll(1, 500, 502);
  EXPECT_EQ(Complete(510), 500);
  incarnation_[1] = 2;
  Poll(1, 600, 602);
  EXPECT_EQ(Complete(610), 500);
  Sync(1, 620);
  EXPECT_EQ(Complete(630), 620);
}

TEST_F(FreshnessTest, WhatAnEmptyDiskHoldsProvesNothing) {
  unjoined_[1] = true;
  Poll(1, 10, 12);
  Poll(2, 10, 12);
  Sync(1, 20);
  EXPECT_EQ(Complete(30), kNever);
  unjoined_[1] = false;
  Poll(1, 40, 42);
  EXPECT_TRUE(freshness_.NeedsSync(1, 0, 45)) << "it has its data back";
  Sync(1, 50);
  Poll(1, 60, 62);
  Poll(2, 60, 62);
  EXPECT_EQ(Complete(65), 60);
}

TEST_F(FreshnessTest, WhatAPeerHoldsLaterDoesNotCountForWhenTheSyncBegan) {
  unjoined_[1] = true;
  Poll(1, 10, 12);
  Poll(2, 10, 12);
  const Freshness::Known known = freshness_.KnownOf(1);
  unjoined_[1] = false;
  Poll(1, 30, 32);
  Sync(1, 20, known);
  EXPECT_EQ(Complete(40), kNever);
  EXPECT_TRUE(freshness_.NeedsSync(1, 0, 40));
}

TEST_F(FreshnessTest, AnEmptyDiskIsWholeAfterOneMoreThanUsual) {
  Poll(1, 10, 12);
  Poll(2, 10, 12);
  EXPECT_FALSE(freshness_.HoldsAll(0, false));
  Sync(1, 20);
  EXPECT_FALSE(freshness_.HoldsAll(0, false))
      << "the disk that was lost may have made a quorum with 2";
  Sync(2, 20);
  EXPECT_TRUE(freshness_.HoldsAll(0, false));
}

TEST_F(FreshnessTest, AnEmptyDiskWaitsUntilVotesOfTheOneBeforeCountNoMore) {
  Freshness freshness(options_, placement_, 100);
  v1::PollResponse response;
  response.set_incarnation(1);
  for (const uint32_t peer : {1, 2}) freshness.Polled(peer, response, 101, 102);
  const auto sync = [&](Instant begun) {
    for (const uint32_t peer : {1, 2}) {
      freshness.Synced(peer, 0, begun, freshness.KnownOf(peer), 1,
                       std::make_shared<std::vector<uint64_t>>(3));
    }
  };
  sync(100 + kSettled - 1);
  EXPECT_FALSE(freshness.HoldsAll(0, false));
  EXPECT_FALSE(freshness.NeedsSync(1, 0, 100 + kSettled - 1));
  EXPECT_TRUE(freshness.NeedsSync(1, 0, 100 + kSettled));
  sync(100 + kSettled);
  EXPECT_TRUE(freshness.HoldsAll(0, false));
}

TEST_F(FreshnessTest, InANewClusterNobodyHasToWait) {
  Freshness freshness(options_, placement_, 100);
  v1::PollResponse response;
  response.set_incarnation(1);
  response.add_unjoined_shards(0);
  for (const uint32_t peer : {1, 2}) freshness.Polled(peer, response, 101, 102);
  response.clear_unjoined_shards();
  freshness.Polled(1, response, 103, 104);  // it was faster
  for (const uint32_t peer : {1, 2}) {
    freshness.Synced(peer, 0, 105, freshness.KnownOf(peer), 1,
                     std::make_shared<std::vector<uint64_t>>(3));
  }
  EXPECT_TRUE(freshness.HoldsAll(0, false));
}

// A copy went by this node's own decision, of which the others were asked at 100.
TEST_F(FreshnessTest, WhatWasPulledSinceIsKnownAsOfThenWhereSomethingOfItMayHaveGone) {
  Poll(1, 10, 12);
  Poll(2, 10, 12);
  Sync(1, 90);
  Sync(2, 120);
  received_[1][2] = 1;
  Poll(1, 130, 132);
  EXPECT_EQ(Complete(140), 120);
  freshness_.LimitTo(0, 100);
  EXPECT_EQ(freshness_.SyncBegun(1, 0), 90);
  EXPECT_EQ(freshness_.SyncBegun(2, 0), 100);
  EXPECT_EQ(Complete(140), 100);
  Sync(1, 150);
  EXPECT_EQ(Complete(160), 150);
}

// What it lost may have been on it and on another disk that lost it as well, which says nothing.
TEST_F(FreshnessTest, ADamagedDiskIsWholeOnlyAfterEnoughThatHaveJoined) {
  unjoined_[2] = true;
  Poll(1, 10, 12);
  Poll(2, 10, 12);
  EXPECT_THAT(freshness_.NotSeenWhole(0), testing::UnorderedElementsAre(1, 2));
  Sync(1, 20);
  Sync(2, 20);
  EXPECT_TRUE(freshness_.HoldsAll(0, false)) << "for a new disk there is nothing else to be had";
  EXPECT_FALSE(freshness_.HoldsAll(0, true));
  EXPECT_THAT(freshness_.NotSeenWhole(0), testing::ElementsAre(2));
  unjoined_[2] = false;
  Poll(2, 30, 32);
  EXPECT_FALSE(freshness_.HoldsAll(0, true)) << "it had not joined at the sync";
  Sync(2, 40);
  EXPECT_TRUE(freshness_.HoldsAll(0, true));
  EXPECT_THAT(freshness_.NotSeenWhole(0), testing::IsEmpty());
}

TEST(FreshnessOfTwoTest, WhereEveryReplicaIsInEveryQuorumNothingCanBeMissing) {
  const CoreOptions options = {.self = 0, .write_quorum = 2};
  const router::Placement placement = Replicas(2, 2);
  Freshness freshness(options, placement, 0);
  EXPECT_EQ(freshness.CompleteAsOf(0, 77), 77);
  v1::PollResponse response;
  response.set_incarnation(1);
  freshness.Polled(1, response, 80, 82);
  freshness.Synced(1, 0, 83, freshness.KnownOf(1), 1, std::make_shared<std::vector<uint64_t>>(2));
  EXPECT_EQ(freshness.CompleteAsOf(0, 90), 90);
}

}  // namespace
}  // namespace allezon::replica
