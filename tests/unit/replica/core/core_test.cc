// SPDX-License-Identifier: Apache-2.0
//
// What the core makes of its parts; the simulation tests it as a whole.
#include "replica/core/core.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>

#include "absl/strings/str_cat.h"

namespace allezon::replica {
namespace {

class NoDigests final : public DigestSource {
 public:
  Digest ShardDigest(ShardId) const override { return {}; }
  Digest HourDigest(ShardId, int64_t) const override { return {}; }
  Digest MinuteDigest(ShardId, int64_t) const override { return {}; }
  uint32_t ExpiredThroughS(ShardId, int64_t) const override { return 0; }
  bool HasExpired(const v1::ExpiredRange&) const override { return false; }
  uint64_t ExpiredHash(ShardId) const override { return 0; }
  uint32_t NewestAcceptedS(ShardId, int64_t) const override { return 0; }
  uint64_t ExpiredKeyed(ShardId) const override { return 0; }
};

// All that was accepted up to then is on the disk: for ever.
constexpr WallS kComplete = 1'000'000'000'000;

router::Placement ThreeFullReplicas(uint32_t shards) {
  std::vector<router::Instance> instances;
  for (int i = 0; i < 3; ++i) {
    instances.push_back({absl::StrCat("n", i), absl::StrCat("core:", i + 1), ""});
  }
  return *router::MakePlacement(std::move(instances), shards, 3);
}

// Three full replicas; the core is the one that is in the middle of the order of shard 0.
class CoreTest : public testing::Test {
 protected:
  CoreTest() {
    placement_ = ThreeFullReplicas(1);
    reader_ = placement_.replicas[0][0].instance;
    other_ = placement_.replicas[0][2].instance;
    options_.self = placement_.replicas[0][1].instance;
    options_.write_quorum = 2;
    core_ = std::make_unique<Core>(options_, placement_, digests_,
                                   DiskRecord{{true}, {}, kComplete}, 0);
    // Who knows no clock but its own coordinates nothing.
    Actions actions;
    core_->Tick(0, 1, actions);
    for (const Actions::Call& call : actions.calls) {
      if (!std::holds_alternative<v1::PollRequest>(call.request)) continue;
      v1::PollResponse answer;
      answer.set_wall_us(1);
      answer.mutable_received()->Resize(3, 0);
      Actions none;
      core_->CallEnded(call.id, absl::OkStatus(), std::move(answer), 0, none);
    }
  }

  // The write is stored here and sent to both peers.
  void Write(WriteId id, Instant deadline, Instant now) {
    const EventRef event = std::make_shared<router::Event>();
    Actions actions;
    ASSERT_TRUE(core_->Write(id, {event}, deadline, now, actions).ok());
    core_->Stored(id, absl::OkStatus(), now, actions);
    for (const Actions::Replicate& call : actions.replicate) batches_[call.peer] = call.batch;
    EXPECT_TRUE(actions.outcomes.empty());
  }
  std::vector<WriteOutcome> Taken(uint32_t peer, Instant now) {
    Actions actions;
    core_->Replicated(peer, batches_[peer], absl::OkStatus(), {}, now, actions);
    return actions.outcomes;
  }
  std::vector<WriteOutcome> Tick(Instant now) {
    Actions actions;
    core_->Tick(now, now, actions);
    return actions.outcomes;
  }

  // Ticks; how often the peer is polled by that, which fails so.
  int PollsThatFail(uint32_t peer, Instant now,
                    const absl::Status& failure = absl::UnavailableError("away")) {
    Actions actions;
    core_->Tick(now, now, actions);
    int polls = 0;
    for (const Actions::Call& call : actions.calls) {
      if (call.peer != peer || !std::holds_alternative<v1::PollRequest>(call.request)) continue;
      ++polls;
      Actions none;
      core_->CallEnded(call.id, failure, v1::PollResponse(), now, none);
    }
    return polls;
  }

  NoDigests digests_;
  router::Placement placement_;
  CoreOptions options_;
  uint32_t reader_ = 0;
  uint32_t other_ = 0;
  std::map<uint32_t, BatchId> batches_;
  std::unique_ptr<Core> core_;
};

TEST_F(CoreTest, AWriteWithItsQuorumWaitsForTheOneThatIsReadFirst) {
  Write(1, 1'000'000, 0);
  EXPECT_TRUE(Taken(other_, 1'000).empty());
  const auto outcomes = Taken(reader_, 2'000);
  ASSERT_EQ(outcomes.size(), 1u);
  EXPECT_TRUE(outcomes[0].failures.empty());
}

TEST_F(CoreTest, WhoWasAwayAndCallsIsPolledAtOnce) {
  const Instant period = options_.poll_period_hasty_us;
  EXPECT_EQ(PollsThatFail(reader_, period), 1);
  EXPECT_EQ(PollsThatFail(reader_, period + kTickUs), 0);
  core_->HeardFrom(reader_, period + kTickUs);
  EXPECT_EQ(PollsThatFail(reader_, period + kTickUs), 1);
}

TEST_F(CoreTest, WhoDoesNotServeSaysWhichPeerRefusesItAndWhy) {
  constexpr Instant kLate = 100'000'000;
  const auto why = [&](Instant now) { return std::string(core_->CheckServing(0, now).message()); };
  ASSERT_THAT(why(kLate), testing::HasSubstr("may lack acknowledged tags"));
  EXPECT_EQ(PollsThatFail(other_, kLate, absl::FailedPreconditionError("it is of version 2")), 1);
  EXPECT_THAT(why(kLate), testing::EndsWith(absl::StrCat("; ", placement_.instances[other_].id,
                                                         " refuses: it is of version 2")));
  // A peer that is away refuses nothing.
  EXPECT_EQ(PollsThatFail(other_, 2 * kLate), 1);
  EXPECT_THAT(why(2 * kLate), testing::Not(testing::HasSubstr("refuses")));
}

TEST_F(CoreTest, AndNotForLongWhereThatOneIsSilent) {
  Write(1, 1'000'000, 0);
  EXPECT_TRUE(Taken(other_, 1'000).empty());
  EXPECT_TRUE(Tick(options_.late_min_us - 1).empty());
  const auto outcomes = Tick(options_.late_min_us);
  ASSERT_EQ(outcomes.size(), 1u);
  EXPECT_TRUE(outcomes[0].failures.empty());
  // The next ones do not wait at all, until it has caught up.
  Write(2, 1'000'000, 40'000);
  EXPECT_EQ(Taken(other_, 41'000).size(), 1u);
  Taken(reader_, 50'000);
  Taken(reader_, 51'000);
  EXPECT_TRUE(Tick(60'000).empty());
  Write(3, 1'000'000, 61'000);
  EXPECT_TRUE(Taken(other_, 62'000).empty());
}

TEST_F(CoreTest, AndNotForLongWhereThatOneIsSlowerThanTheOthers) {
  Instant now = 0;
  for (WriteId id = 1; id <= 20; ++id) {
    Write(id, now + 1'000'000, now);
    Taken(other_, now + 1'000);
    now += 300'000;
    Taken(reader_, now);
    Tick(now);
  }
  Write(30, now + 1'000'000, now);
  Taken(other_, now + 1'000);
  EXPECT_EQ(Tick(now + options_.late_min_us).size(), 1u) << "the other one takes a millisecond";
}

TEST_F(CoreTest, AndNotWhereTheDeadlineIsNear) {
  Write(1, 30'000, 0);
  EXPECT_EQ(Taken(other_, 1'000).size(), 1u);
}

// Three full replicas of more shards than one session pulls.
class CoreSyncTest : public testing::Test {
 protected:
  CoreSyncTest() {
    placement_ = ThreeFullReplicas(kShards);
    options_.write_quorum = 2;
    Start(kComplete);
    Tick();
  }

  void Start(WallS complete_s) {
    core_ = std::make_unique<Core>(options_, placement_, digests_,
                                   DiskRecord{std::vector<bool>(kShards, true), {}, complete_s}, 0);
  }
  // Polls are answered; of the other calls, those to peer 1 are returned.
  std::vector<Actions::Call> Tick() {
    now_ += options_.sync_pause_min_us;
    Actions actions;
    core_->Tick(now_, kWallUs + now_, actions);
    std::vector<Actions::Call> calls = std::exchange(next_, {});
    for (Actions::Call& call : actions.calls) {
      if (std::holds_alternative<v1::PollRequest>(call.request)) {
        v1::PollResponse answer;
        answer.set_incarnation(1);
        answer.set_lane_session(1);
        answer.set_wall_us(kWallUs + now_);
        answer.mutable_received()->Resize(3, 0);
        Actions none;
        core_->CallEnded(call.id, absl::OkStatus(), std::move(answer), now_, none);
      } else if (call.peer == 1) {
        calls.push_back(std::move(call));
      }
    }
    return calls;
  }
  // What follows is returned by the next tick.
  void End(CallId id, const absl::Status& status, PeerResponse response) {
    Actions actions;
    core_->CallEnded(id, status, std::move(response), now_, actions);
    for (Actions::Call& call : actions.calls) next_.push_back(std::move(call));
  }
  static std::vector<ShardId> ShardsOf(const Actions::Call& call) {
    const auto& shards = std::get<v1::ReadDigestsRequest>(call.request).shards();
    return {shards.begin(), shards.end()};
  }
  // Of shards that the core has nothing of; the peer has one event in each, or nothing either.
  static v1::ReadDigestsResponse DigestsOf(const std::vector<ShardId>& shards, uint64_t count) {
    v1::ReadDigestsResponse response;
    response.set_incarnation(1);
    response.mutable_received()->Resize(3, 0);
    for (const ShardId shard : shards) {
      response.add_expired_hashes(0);
      v1::SetDigest& digest = *response.add_digests();
      digest.set_shard(shard);
      digest.set_count(count);
    }
    return response;
  }

  static constexpr uint32_t kShards = 20;
  static constexpr WallUs kWallUs = 1'700'000'000'000'000;
  NoDigests digests_;
  router::Placement placement_;
  CoreOptions options_;
  Instant now_ = 0;
  std::vector<Actions::Call> next_;
  std::unique_ptr<Core> core_;
};

// Equal logs are not enough: what was acknowledged meanwhile may have been expired since.
TEST_F(CoreSyncTest, WhoWasAwayForLongerThanLogsReachBackPullsRowsAndWhatWasExpired) {
  for (const WallS away_s : {WallS{3'600}, options_.retention_s}) {
    Start(kWallUs / 1'000'000 - away_s);
    Tick();
    const auto calls = Tick();
    ASSERT_EQ(calls.size(), 1u);
    End(calls[0].id, absl::OkStatus(), DigestsOf(ShardsOf(calls[0]), 0));
    const auto more = Tick();
    ASSERT_EQ(more.size(), 1u);
    EXPECT_TRUE(std::holds_alternative<v1::ReadDigestsRequest>(more[0].request));
    if (away_s < options_.retention_s) continue;  // it goes on with the next shards
    v1::ReadDigestsResponse hours;
    hours.set_incarnation(1);
    End(more[0].id, absl::OkStatus(), hours);
    const auto rows = Tick();
    ASSERT_EQ(rows.size(), 1u);
    EXPECT_TRUE(std::holds_alternative<v1::ReadRowsRequest>(rows[0].request));
  }
}

TEST_F(CoreSyncTest, AShardWhosePullFailsIsPulledAloneAfterTheOthers) {
  auto calls = Tick();
  ASSERT_EQ(calls.size(), 1u);
  ASSERT_EQ(ShardsOf(calls[0]).size(), options_.sync_shards_max);
  End(calls[0].id, absl::OkStatus(), DigestsOf(ShardsOf(calls[0]), 1));
  calls = Tick();
  ASSERT_EQ(calls.size(), 1u) << "asks for the hours of the first one";
  const std::vector<ShardId> broken = ShardsOf(calls[0]);
  ASSERT_EQ(broken.size(), 1u);
  End(calls[0].id, absl::DataLossError("a block cannot be read"), v1::ReadDigestsResponse());
  std::set<ShardId> others;
  while (true) {
    calls = Tick();
    ASSERT_EQ(calls.size(), 1u);
    const std::vector<ShardId> asked = ShardsOf(calls[0]);
    if (asked == broken) break;
    others.insert(asked.begin(), asked.end());
    EXPECT_EQ(std::count(asked.begin(), asked.end(), broken[0]), 0);
    End(calls[0].id, absl::OkStatus(), DigestsOf(asked, 0));
  }
  EXPECT_EQ(others.size(), kShards - 1);
}

}  // namespace
}  // namespace allezon::replica
