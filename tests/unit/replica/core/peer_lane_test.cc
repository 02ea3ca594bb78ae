// SPDX-License-Identifier: Apache-2.0
#include "replica/core/peer_lane.h"

#include <gtest/gtest.h>

namespace allezon::replica {
namespace {

constexpr uint32_t kPeer = 3;
const absl::Status kDown = absl::UnavailableError("down");

class PeerLaneTest : public testing::Test {
 protected:
  void Push(WriteId write, Instant now = 0) {
    auto event = std::make_shared<router::Event>();
    event->tag = "0123456789";
    lane_.Push({event, write, 0, now});
  }
  // The batches that the lane sends now.
  std::vector<Actions::Replicate> Pump(Instant now) {
    Actions actions;
    lane_.Pump(now, actions);
    return actions.replicate;
  }

  CoreOptions options_ = {.lane_batches_in_flight_max = 1,
                          .lane_batch_events_max = 2,
                          .lane_owed_events_max = 4,
                          .lane_retry_min_us = 100};
  PeerLane lane_{options_, kPeer};
};

TEST_F(PeerLaneTest, IdleItSendsAtOnceAndBusyItGathersUpToABatch) {
  Push(1);
  ASSERT_EQ(Pump(0).size(), 1u);
  for (WriteId write = 2; write <= 4; ++write) Push(write);
  EXPECT_TRUE(Pump(0).empty());
  EXPECT_EQ(lane_.Ended(1, absl::OkStatus(), 0, {}).size(), 1u);
  const auto batches = Pump(0);
  ASSERT_EQ(batches.size(), 1u);
  EXPECT_EQ(batches[0].peer, kPeer);
  EXPECT_EQ(batches[0].events.size(), 2u);
}

TEST_F(PeerLaneTest, ItsPaceIsThatOfBatchesNotOfWhatWaitedBefore) {
  EXPECT_EQ(lane_.pace_us(), 0);
  Push(1, 0);
  Pump(10'000);
  lane_.Ended(1, absl::OkStatus(), 10'800, {});
  EXPECT_EQ(lane_.pace_us(), 200) << "it rises by a quarter of the difference";
  Push(2, 20'000);
  Pump(20'000);
  lane_.Ended(2, kDown, 90'000, [](Owed&) {});
  EXPECT_EQ(lane_.pace_us(), 200) << "a failure says nothing";
}

TEST_F(PeerLaneTest, WhatFailsIsSentAgainAfterAPauseAndCountedOutOnce) {
  Push(1);
  const BatchId first = Pump(0)[0].batch;
  int counted_out = 0;
  const auto count_out = [&](Owed& owed) {
    owed.counted_out = true;
    ++counted_out;
  };
  EXPECT_TRUE(lane_.Ended(first, kDown, 0, count_out).empty());
  EXPECT_TRUE(Pump(99).empty());
  const BatchId second = Pump(100)[0].batch;
  lane_.Ended(second, kDown, 100, count_out);
  EXPECT_EQ(counted_out, 1);
  EXPECT_TRUE(Pump(299).empty()) << "the pause doubles";
  const BatchId third = Pump(300)[0].batch;
  const std::vector<Owed> taken = lane_.Ended(third, absl::OkStatus(), 300, count_out);
  ASSERT_EQ(taken.size(), 1u);
  EXPECT_TRUE(taken[0].counted_out);
  EXPECT_EQ(lane_.owed_events(), 0u);
  EXPECT_EQ(lane_.owed_bytes(), 0u);
}

TEST_F(PeerLaneTest, PastItsBoundItForgetsWhatWasAnsweredAndBeginsANewSession) {
  for (WriteId write = 1; write <= 6; ++write) Push(write);
  const uint64_t session = lane_.session();
  // What is still to be answered may be acknowledged within the next session: it must stay.
  lane_.EnforceBounds([](WriteId write) { return write % 2 == 0; });
  EXPECT_EQ(lane_.session(), session + 1);
  EXPECT_EQ(lane_.owed_events(), 3u);
  const auto batches = Pump(0);
  ASSERT_EQ(batches.size(), 1u);
  lane_.EnforceBounds([](WriteId) { return false; });
  EXPECT_EQ(lane_.session(), session + 1) << "within the bounds nothing is forgotten";
}

TEST_F(PeerLaneTest, BatchesThatFailInAnyOrderKeepTheOldestEventFirst) {
  options_.lane_batches_in_flight_max = 2;
  options_.lane_large_batch_events = 1;
  for (WriteId write = 1; write <= 4; ++write) Push(write, 10 * write);
  const auto batches = Pump(50);
  ASSERT_EQ(batches.size(), 2u);
  const auto ignore = [](Owed&) {};
  lane_.Ended(batches[0].batch, kDown, 50, ignore);
  lane_.Ended(batches[1].batch, kDown, 50, ignore);
  EXPECT_EQ(lane_.OldestQueued(60), 10);
}

TEST_F(PeerLaneTest, WhatThePeerRefusesIsSentAgainAfterAPause) {
  Push(1, 10);
  std::vector<Owed> taken = lane_.Ended(Pump(10)[0].batch, absl::OkStatus(), 10, {});
  lane_.PutBack(std::move(taken), 10);
  EXPECT_EQ(lane_.owed_events(), 1u);
  EXPECT_EQ(lane_.OldestQueued(60), 10);
  EXPECT_TRUE(Pump(109).empty());
  EXPECT_EQ(Pump(110).size(), 1u);
}

TEST_F(PeerLaneTest, SaysSinceWhenTheOldestEventWaits) {
  EXPECT_EQ(lane_.OldestQueued(50), 50);
  Push(1, 10);
  Push(2, 20);
  Push(3, 30);
  EXPECT_EQ(lane_.OldestQueued(50), 10);
  const BatchId batch = Pump(50)[0].batch;
  EXPECT_EQ(lane_.OldestQueued(50), 10) << "in flight it waits as well";
  lane_.Ended(batch, absl::OkStatus(), 50, {});
  EXPECT_EQ(lane_.OldestQueued(50), 30);
}

}  // namespace
}  // namespace allezon::replica
