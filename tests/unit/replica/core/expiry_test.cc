// SPDX-License-Identifier: Apache-2.0
//
// How a node decides what retention expires, and what of a peer's decision it adopts. Nodes 0 (this
// one), 1 and 2, full replicas of one shard, with a write quorum of 2.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "replica/core/core.h"

namespace allezon::replica {
namespace {

constexpr WallUs kSecondUs = 1'000'000;
constexpr WallS kStartS = 1'700'000'000;
constexpr WallS kRetentionS = 86'400;
constexpr WallS kMarginS = 3'600;
constexpr int64_t kMinute = 100;

class NothingHeld final : public DigestSource {
 public:
  Digest ShardDigest(ShardId) const override { return {}; }
  Digest HourDigest(ShardId, int64_t) const override { return {}; }
  Digest MinuteDigest(ShardId, int64_t) const override { return {}; }
  uint32_t ExpiredThroughS(ShardId, int64_t) const override { return 0; }
  bool HasExpired(const v1::ExpiredRange& range) const override {
    return range.expired_at_s() <= expired_at_s;
  }
  uint64_t ExpiredHash(ShardId) const override { return 0; }
  uint32_t NewestAcceptedS(ShardId, int64_t) const override { return 0; }
  uint64_t ExpiredKeyed(ShardId) const override { return expired_keyed; }

  uint64_t expired_keyed = 0;
  uint32_t expired_at_s = 0;  // what was decided by then is known here
};

class ExpiryTest : public testing::Test {
 protected:
  ExpiryTest() {
    std::vector<router::Instance> instances;
    for (int i = 0; i < 3; ++i) {
      instances.push_back({absl::StrCat("n", i), absl::StrCat("h:", i + 1), ""});
    }
    placement_ = *router::MakePlacement(std::move(instances), 1, 3);
    options_.write_quorum = 2;
    Start(0);
  }
  void Start(WallS complete_s) {
    core_ = std::make_unique<Core>(options_, placement_, digests_,
                                   DiskRecord{{true}, {}, complete_s}, now_);
  }

  // Both peers answer polls, and have nothing that is not here.
  void Run(int ticks) {
    for (int i = 0; i < ticks; ++i) {
      now_ += kTickUs;
      Actions actions;
      core_->Tick(now_, kStartS * kSecondUs + now_ + skew_us_[0], actions);
      while (!actions.empty()) actions = Answer(std::move(actions));
    }
  }
  void RunUntilServing() {
    for (int i = 0; i < 500 && !core_->ServesAll(now_); ++i) Run(1);
    ASSERT_TRUE(core_->ServesAll(now_));
  }

  Actions Answer(Actions actions) {
    Actions next;
    for (Actions::Call& call : actions.calls) {
      const auto* digests = std::get_if<v1::ReadDigestsRequest>(&call.request);
      if (holds_hours_ && digests != nullptr && digests->level() == v1::DIGEST_LEVEL_HOUR) {
        held_.calls.push_back(std::move(call));
        continue;
      }
      if (static_cast<int>(call.peer) == silent_) {
        core_->CallEnded(call.id, absl::UnavailableError("it is away"), {}, now_, next);
        continue;
      }
      PeerResponse answer = AnswerOf(call);  // it may take time
      core_->CallEnded(call.id, absl::OkStatus(), std::move(answer), now_, next);
    }
    for (Actions::Storage& storage : actions.storage) {
      if (auto* expire = std::get_if<ExpireRanges>(&storage.request)) {
        if (holds_expiry_) {
          held_.storage.push_back(std::move(storage));
          continue;
        }
        expired_.insert(expired_.end(), expire->ranges.begin(), expire->ranges.end());
        ++digests_.expired_keyed;
        for (const v1::ExpiredRange& range : expire->ranges) {
          digests_.expired_at_s = std::max(digests_.expired_at_s, range.expired_at_s());
        }
      }
      core_->StorageEnded(storage.id, absl::OkStatus(), "", now_, next);
    }
    return next;
  }
  PeerResponse AnswerOf(const Actions::Call& call) {
    if (std::holds_alternative<v1::PollRequest>(call.request)) {
      v1::PollResponse answer;
      answer.set_incarnation(1);
      answer.set_lane_session(1);
      answer.set_wall_us(kStartS * kSecondUs + now_ + skew_us_[call.peer]);
      answer.set_expired_version(version_);
      answer.mutable_received()->Resize(3, 0);
      return answer;
    }
    if (std::holds_alternative<v1::ReadNewestRequest>(call.request)) {
      asked_.push_back(call.peer);
      now_ += newest_takes_us_;
      v1::ReadNewestResponse answer;
      answer.add_newest_accepted_s(newest_s_);
      return answer;
    }
    if (std::holds_alternative<v1::ReadExpiredRequest>(call.request)) {
      ++records_asked_;
      if (std::get<v1::ReadExpiredRequest>(call.request).since_s() > 0) only_lately_ = true;
      v1::ReadExpiredResponse answer;
      if (told_.through_s() != 0) *answer.add_ranges() = told_;
      return answer;
    }
    if (std::holds_alternative<v1::ReadRowsRequest>(call.request)) {
      ++rows_asked_;
      return v1::ReadRowsResponse();
    }
    v1::ReadDigestsResponse answer;
    answer.set_incarnation(1);
    answer.mutable_received()->Resize(3, 0);
    if (std::get<v1::ReadDigestsRequest>(call.request).level() == v1::DIGEST_LEVEL_SHARD) {
      answer.add_expired_hashes(differs_ ? 1 : 0);
      if (differs_) answer.add_digests()->set_count(1);
    }
    return answer;
  }

  void Expire(uint32_t newest_accepted_s) {
    Actions actions;
    core_->Expire({{{0, kMinute}, newest_accepted_s}}, now_, actions);
    while (!actions.empty()) actions = Answer(std::move(actions));
  }
  // What a peer says that it has expired, and decided so long ago.
  void Tell(uint32_t through_s, WallS decided_ago_s = 0) {
    told_.set_shard(0);
    told_.set_from_minute(kMinute);
    told_.set_to_minute(kMinute + 1);
    told_.set_through_s(through_s);
    told_.set_expired_at_s(static_cast<uint32_t>(kStartS + now_ / kSecondUs - decided_ago_s));
    ++version_;
    ticks_not_serving_ = 0;
    for (int i = 0; i < 100; ++i) {
      Run(1);
      if (!core_->ServesAll(now_)) ++ticks_not_serving_;
    }
  }

  NothingHeld digests_;
  CoreOptions options_;
  router::Placement placement_;
  std::unique_ptr<Core> core_;
  Instant now_ = 0;
  WallUs skew_us_[3] = {};
  uint32_t newest_s_ = 0;
  Instant newest_takes_us_ = 0;
  uint64_t version_ = 1;
  v1::ExpiredRange told_;
  std::vector<uint32_t> asked_;
  std::vector<v1::ExpiredRange> expired_;
  bool differs_ = false;       // the peers' logs do
  bool holds_hours_ = false;   // no answer about hours comes
  bool holds_expiry_ = false;  // nothing is expired yet
  int silent_ = -1;            // this peer answers nothing
  Actions held_;
  int rows_asked_ = 0;
  int records_asked_ = 0;
  bool only_lately_ = false;  // some of them
  int ticks_not_serving_ = 0;
};

constexpr auto kOld = static_cast<uint32_t>(kStartS - kRetentionS - kMarginS - 60);

TEST_F(ExpiryTest, WhatIsOldHereAndAtEnoughOthersIsExpired) {
  RunUntilServing();
  newest_s_ = kOld + 10;
  Expire(kOld);
  EXPECT_EQ(asked_.size(), 1u) << "with this one that is a read quorum";
  ASSERT_EQ(expired_.size(), 1u);
  EXPECT_EQ(expired_[0].from_minute(), kMinute);
  EXPECT_EQ(expired_[0].to_minute(), kMinute + 1);
  EXPECT_GE(expired_[0].through_s(), kOld + 10);
  EXPECT_LE(WallS{expired_[0].through_s()}, kStartS - kRetentionS);
  EXPECT_GE(WallS{expired_[0].expired_at_s()}, kStartS);
}

TEST_F(ExpiryTest, WhatAnotherOneAcceptedLaterStays) {
  RunUntilServing();
  newest_s_ = static_cast<uint32_t>(kStartS - kRetentionS);
  Expire(kOld);
  EXPECT_TRUE(expired_.empty());
}

TEST_F(ExpiryTest, WhereTheOtherOneIsNotWholeItsWordDoesNotCount) {
  RunUntilServing();
  newest_s_ = UINT32_MAX;
  Expire(kOld);
  EXPECT_TRUE(expired_.empty());
}

TEST_F(ExpiryTest, WhoMayLackSomethingDecidesNothing) {
  Run(1);
  ASSERT_FALSE(core_->ServesAll(now_));
  Expire(kOld);
  EXPECT_TRUE(asked_.empty());
  EXPECT_TRUE(expired_.empty());
}

// Queries take what was accepted after the round began for what came after the expiry.
TEST_F(ExpiryTest, ARoundThatTakesLongDecidesNothingAndTheNextOneAsksAnother) {
  RunUntilServing();
  newest_takes_us_ = kExpiryRoundMaxUs + 1;
  Expire(kOld);
  EXPECT_TRUE(expired_.empty());
  newest_takes_us_ = kExpiryRoundMaxUs;
  Run(100);
  Expire(kOld);
  EXPECT_FALSE(expired_.empty());
  ASSERT_EQ(asked_.size(), 2u);
  EXPECT_NE(asked_[0], asked_[1]);
}

// However long ago the peer decided it: this node may have been cut off since.
TEST_F(ExpiryTest, ASyncAsksForAllThatAPeerHasExpired) {
  RunUntilServing();
  Run(100);
  only_lately_ = false;
  records_asked_ = 0;
  differs_ = true;
  core_->SyncNow(core_->shards());
  Run(100);
  EXPECT_FALSE(only_lately_);
  EXPECT_GT(records_asked_, 0);
}

TEST_F(ExpiryTest, NoClockThatIsWrongMakesAnythingGoEarly) {
  for (int liar = 0; liar < 3; ++liar) {
    skew_us_[liar] = 30 * kRetentionS * kSecondUs;
    RunUntilServing();
    Expire(static_cast<uint32_t>(kStartS - kRetentionS));
    EXPECT_TRUE(expired_.empty()) << liar;
    skew_us_[liar] = 0;
    Run(100);
  }
}

// When it was decided would be said by the one that may be ahead, and others go by that.
TEST_F(ExpiryTest, NothingIsDecidedWhileItIsNotKnownWhichOfTwoClocksIsWrong) {
  skew_us_[1] = 30 * kSecondUs;
  silent_ = 2;
  RunUntilServing();
  Expire(kOld);
  EXPECT_TRUE(expired_.empty());
  silent_ = -1;
  Run(100);
  Expire(kOld);
  ASSERT_FALSE(expired_.empty());
  EXPECT_LE(WallS{expired_[0].expired_at_s()}, kStartS + now_ / kSecondUs + 5);
}

// What the peer held when the session began may have been here by a copy that has gone since.
TEST_F(ExpiryTest, ASessionInWhichKeyedEventsWentTellsOnlyWhatWasHereWhenTheOthersWereAsked) {
  RunUntilServing();
  Run(100);
  std::vector<Instant> begun;
  core_->ObserveSyncs([&](uint32_t, ShardId, Instant at, bool) { begun.push_back(at); });
  holds_expiry_ = true;
  Expire(kOld);
  ASSERT_EQ(held_.storage.size(), 1u);
  differs_ = holds_hours_ = true;
  core_->SyncNow(core_->shards());
  Run(5);
  ASSERT_FALSE(held_.calls.empty());
  holds_expiry_ = differs_ = holds_hours_ = false;
  const Instant went = now_;
  Actions going;
  going.storage = std::exchange(held_.storage, {});
  while (!going.empty()) going = Answer(std::move(going));
  ASSERT_FALSE(expired_.empty());
  Actions held = std::exchange(held_, {});
  while (!held.empty()) held = Answer(std::move(held));
  EXPECT_TRUE(begun.empty());
  Run(100);
  ASSERT_FALSE(begun.empty()) << "it is pulled again";
  EXPECT_GT(begun[0], went);
}

TEST_F(ExpiryTest, WhatAPeerHasExpiredIsAdopted) {
  RunUntilServing();
  Run(100);
  Tell(kOld);
  ASSERT_FALSE(expired_.empty());
  EXPECT_EQ(expired_[0].through_s(), kOld);
}

TEST_F(ExpiryTest, ButNotWhatTheClocksFindTooYoung) {
  RunUntilServing();
  Tell(static_cast<uint32_t>(kStartS - kRetentionS + 3'600));
  EXPECT_TRUE(expired_.empty());
}

TEST_F(ExpiryTest, WhoAdoptsSoonGoesOnServing) {
  RunUntilServing();
  Tell(kOld);
  EXPECT_FALSE(expired_.empty());
  EXPECT_EQ(ticks_not_serving_, 0);
}

// What it takes out then may have been accepted again by others.
TEST_F(ExpiryTest, WhoAdoptsLateServesOnceItHasComparedAgain) {
  RunUntilServing();
  Tell(kOld, 30);
  EXPECT_FALSE(expired_.empty());
  EXPECT_GT(ticks_not_serving_, 0);
  EXPECT_TRUE(core_->ServesAll(now_));
}

TEST_F(ExpiryTest, WhatIsToldAgainIsNotAdoptedAgain) {
  RunUntilServing();
  Tell(kOld);
  const size_t adopted = expired_.size();
  Tell(kOld, 30);
  EXPECT_EQ(expired_.size(), adopted);
  EXPECT_EQ(ticks_not_serving_, 0);
}

TEST_F(ExpiryTest, WhatIsExpiredInTheMiddleOfALongSessionIsPulledAsRows) {
  Start(kStartS - 60);
  int synced = 0;
  core_->ObserveSyncs([&](uint32_t, ShardId, Instant, bool) { ++synced; });
  differs_ = holds_hours_ = true;
  Run(20);
  ASSERT_FALSE(held_.calls.empty());
  // It takes a day, in which the peers expire what was accepted since this node was complete.
  now_ += (kRetentionS + kMarginS) * kSecondUs;
  Run(300);
  told_.set_through_s(static_cast<uint32_t>(kStartS));
  told_.set_expired_at_s(static_cast<uint32_t>(kStartS + now_ / kSecondUs));
  told_.set_to_minute(kMinute + 1);
  holds_hours_ = false;
  Actions next = Answer(std::exchange(held_, {}));
  EXPECT_EQ(rows_asked_, 0);
  while (!next.empty() && rows_asked_ == 0) next = Answer(std::move(next));
  EXPECT_EQ(synced, 0) << "what was expired is neither in the log nor among the rows";
  Run(100);
  EXPECT_GT(rows_asked_, 0);
  EXPECT_GT(synced, 0);
}

}  // namespace
}  // namespace allezon::replica
