// SPDX-License-Identifier: Apache-2.0
//
// Profiles: from one replica, and from a quorum of them.
#include "tests/unit/router/readers_testing.h"

namespace allezon::router {
namespace {

TEST_F(ReadersTest, AProfileIsReadFromAReplicaOfItsShardAndFromTheNextOneWhereThatFails) {
  Start(3, 2);
  for (int i = 0; i < 40; ++i) {
    ProfileQuery query;
    query.cookie = absl::StrCat("cookie", i);
    query.limit = 7;
    profiles_[i % 3]->fail_next = 1;
    const auto profile = profile_reader_->Read(query, absl::Now() + absl::Seconds(20));
    ASSERT_TRUE(profile.ok()) << profile.status();
    EXPECT_EQ(profile->views, std::vector<std::string_view>{query.cookie + "/view"});
    EXPECT_EQ(profile->buys, std::vector<std::string_view>{"7"});
  }
}

TEST_F(ReadersTest, AProfileThatNobodyHasIsAnErrorInsideTheDeadline) {
  Start(1, 1);
  servers_[0].reset();
  const auto profile =
      profile_reader_->Read({.cookie = "c"}, absl::Now() + absl::Milliseconds(200));
  EXPECT_FALSE(profile.ok());
  EXPECT_GT(rpc::RetryDelayOf(profile.status()), absl::ZeroDuration());
}

// A cookie whose replicas are asked in this order: the instance first.
std::string CookieOf(const Placement& placement, uint32_t instance) {
  for (int i = 0;; ++i) {
    const std::string cookie = absl::StrCat("cookie", i);
    if (placement.replicas[ShardOf(cookie, kShards)][0].instance == instance) return cookie;
  }
}

TEST_F(ReadersTest, AProfileIsReadFromTheNextReplicaWhereTheFirstHangs) {
  Start(3, 3);
  profiles_[1]->holder.Hold();
  const ProfileQuery query{.cookie = CookieOf(channels_->placement(), 1)};
  EXPECT_TRUE(profile_reader_->Read(query, absl::Now() + absl::Seconds(20)).ok());
  profiles_[1]->holder.AwaitCalls(1);
  // The one that hangs has an open circuit, or was found alive by a probe: either way it answers.
  EXPECT_TRUE(profile_reader_->Read(query, absl::Now() + absl::Seconds(20)).ok());
  profiles_[1]->holder.Release();
}

TEST_F(ReadersTest, ANodeThatSaysNotNowKeepsItsCircuitClosedAndOneThatIsGoneDoesNot) {
  Start(2, 2);
  const ProfileQuery query{.cookie = CookieOf(channels_->placement(), 0)};
  profiles_[0]->fail_next = 1;
  EXPECT_TRUE(profile_reader_->Read(query, absl::Now() + absl::Seconds(20)).ok());
  EXPECT_FALSE(channels_->CircuitOf(0)->is_open());
  servers_[0].reset();
  EXPECT_TRUE(profile_reader_->Read(query, absl::Now() + absl::Seconds(20)).ok());
  EXPECT_TRUE(channels_->CircuitOf(0)->is_open());
}

TEST_F(ReadersTest, AQuorumReadOfAProfileIsTheUnionNewestFirst) {
  Start(2, 2);  // a write quorum of both, so one answer has it all
  profiles_[0]->tags = profiles_[1]->tags = {{9, "a"}, {5, "b"}};
  const ProfileQuery query{.cookie = "c", .quorum = true};
  const auto profile = profile_reader_->Read(query, absl::Now() + absl::Seconds(20));
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_EQ(profile->views, (std::vector<std::string_view>{"9a", "5b"}));
  EXPECT_EQ(profiles_[0]->quorum_calls + profiles_[1]->quorum_calls, 1);
}

TEST_F(ReadersTest, AQuorumReadAsksAsManyReplicasAsSeeEveryWrite) {
  Start(3, 3);
  profiles_[0]->tags = {{9, "a"}, {5, "d"}, {5, "f"}, {1, "x"}};
  profiles_[1]->tags = {{9, "a"}, {5, "c"}, {5, "d"}, {4, "k"}};
  profiles_[2]->tags = {{9, "a"}, {5, "c"}, {5, "d"}, {5, "f"}, {4, "k"}, {1, "x"}};
  for (int i = 0; i < 20; ++i) {
    // Any one may fail.
    profiles_[i % 3]->fail_next = 1;
    const ProfileQuery query{.cookie = absl::StrCat("c", i), .limit = 5, .quorum = true};
    const auto profile = profile_reader_->Read(query, absl::Now() + absl::Seconds(20));
    ASSERT_TRUE(profile.ok()) << profile.status();
    EXPECT_EQ(profile->views, (std::vector<std::string_view>{"9a", "5c", "5d", "5f", "4k"}));
    profiles_[i % 3]->fail_next = 0;
  }
}

TEST_F(ReadersTest, AKeyWithTwoTagsStandsOnceInAQuorumRead) {
  Start(2, 2);
  // With a write quorum of one, both are read.
  auto placement = MakePlacement(channels_->placement().instances, kShards, 2, 1);
  ASSERT_TRUE(placement.ok());
  profile_reader_.reset();
  aggregate_reader_.reset();
  channels_ = std::make_unique<Channels>(*std::move(placement));
  profile_reader_ = MakeProfileReader(*channels_);
  int outcomes[2] = {};
  for (const bool bought : {false, true}) {
    for (int i = 0; i < 20; ++i) {
      // Of another time, minutes away and with others in between; or a purchase instead.
      const std::string key = absl::StrCat("k", i);
      profiles_[0]->tags = {{900'000, key}, {500'000, "m"}, {1, "z"}};
      profiles_[1]->tags = {{500'000, "m"}, {1, "z"}};
      profiles_[1]->buys.clear();
      (bought ? profiles_[1]->buys : profiles_[1]->tags).push_back({0, key});
      const ProfileQuery query{.cookie = "c", .limit = 3, .quorum = true};
      const auto profile = profile_reader_->Read(query, absl::Now() + absl::Seconds(20));
      ASSERT_TRUE(profile.ok()) << profile.status();
      const std::string one = absl::StrCat(900'000, key);
      const std::string other = absl::StrCat(0, key, bought ? "bought" : "");
      const bool is_one = ContentHash(one) < ContentHash(other);
      ++outcomes[is_one];
      std::vector<std::string_view> views = {"500000m", "1z"};
      std::vector<std::string_view> buys;
      if (is_one) {
        views.insert(views.begin(), one);
      } else {
        (bought ? buys : views).push_back(other);
      }
      EXPECT_EQ(profile->views, views);
      EXPECT_EQ(profile->buys, buys);
    }
  }
  EXPECT_GT(outcomes[false], 0);
  EXPECT_GT(outcomes[true], 0);
}

}  // namespace
}  // namespace allezon::router
