// SPDX-License-Identifier: Apache-2.0
//
// The readers against real gRPC servers that a test can make fail: full answers or an error, never
// a part.
#include "router/readers.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "allezon/v1/aggregate_replica.grpc.pb.h"
#include "allezon/v1/profile_replica.grpc.pb.h"
#include "allezon/v1/replica.grpc.pb.h"
#include "router/channels.h"
#include "router/stored_tags.h"
#include "rpc/server.h"
#include "rpc/status.h"

namespace allezon::router {
namespace {

constexpr uint32_t kShards = 32;

// Keeps calls unanswered while it is told to.
class Holder {
 public:
  // Whether the call is kept; `answer` is called later then.
  bool Keep(std::function<void()> answer) {
    absl::MutexLock lock(&mutex_);
    ++calls_;
    if (held_) kept_.push_back(std::move(answer));
    return held_;
  }
  void Hold() {
    absl::MutexLock lock(&mutex_);
    held_ = true;
  }
  void Release() {
    std::vector<std::function<void()>> kept;
    {
      absl::MutexLock lock(&mutex_);
      held_ = false;
      kept.swap(kept_);
    }
    for (const auto& answer : kept) answer();
  }
  void AwaitCalls(int calls) {
    absl::MutexLock lock(&mutex_);
    const auto enough = [this, calls]()
                            ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return calls_ >= calls; };
    mutex_.Await(absl::Condition(&enough));
  }

 private:
  absl::Mutex mutex_;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  int calls_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::function<void()>> kept_ ABSL_GUARDED_BY(mutex_);
};

// Counts 1 for every shard in every minute, so that an answer says how many shards it covers.
class TestAggregates final : public v1::AggregateReplicaService::CallbackService {
 public:
  grpc::ServerUnaryReactor* ScanMinutes(grpc::CallbackServerContext* call,
                                        const v1::ScanMinutesRequest* request,
                                        v1::ScanMinutesResponse* response) override {
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    *response->mutable_by() = request->to();
    if (answers_as_another) response->mutable_by()->set_instance("another");
    ++calls;
    if (fail_next.fetch_sub(1) > 0) {
      reactor->Finish(rpc::ToGrpc(failure));
      return reactor;
    }
    for (int64_t m = request->from_minute(); m < request->to_minute(); ++m) {
      v1::MinuteTotal& minute = *response->add_minutes();
      minute.set_count(request->shards_size());
      minute.set_sum_price(-10 * request->shards_size());
      minute.set_expired_at_s(expired_at_s);
      minute.set_oldest_accepted_s(oldest_accepted_s);
      if (!request->for_quorum()) continue;
      minute.set_digest_count(request->shards_size() + (lacks_until_sync ? 0 : 1));
      minute.set_digest_low(7);
      minute.set_digest_high(8);
    }
    if (drop_a_minute) response->mutable_minutes()->RemoveLast();
    const auto answer = [reactor] { reactor->Finish(grpc::Status::OK); };
    if (!holder.Keep(answer)) answer();
    return reactor;
  }

  Holder holder;
  std::atomic<int> calls = 0;
  std::atomic<int> fail_next = 0;
  absl::Status failure = absl::UnavailableError("not now");  // set while nothing is asked
  std::atomic<uint32_t> expired_at_s = 0;
  std::atomic<uint32_t> oldest_accepted_s = 100;
  std::atomic<bool> drop_a_minute = false;
  std::atomic<bool> answers_as_another = false;
  std::atomic<bool> lacks_until_sync = false;
};

// Gives its node's aggregates what they lack when it is told to.
class TestSync final : public v1::ReplicaService::CallbackService {
 public:
  explicit TestSync(TestAggregates& aggregates) : aggregates_(aggregates) {}
  grpc::ServerUnaryReactor* SyncNow(grpc::CallbackServerContext* call,
                                    const v1::SyncNowRequest* request,
                                    v1::SyncNowResponse* response) override {
    *response->mutable_by() = request->to();
    shards += request->shards_size();
    if (works) aggregates_.lacks_until_sync = false;
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  std::atomic<int> shards = 0;
  std::atomic<bool> works = true;

 private:
  TestAggregates& aggregates_;
};

// Holds one view and one buy of every cookie; with `tags`, those as views instead, and `buys`.
class TestProfiles final : public v1::ProfileReplicaService::CallbackService {
 public:
  grpc::ServerUnaryReactor* ReadProfile(grpc::CallbackServerContext* call,
                                        const v1::ReadProfileRequest* request,
                                        v1::ReadProfileResponse* response) override {
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    *response->mutable_by() = request->to();
    if (answers_as_another) response->mutable_by()->set_instance("another");
    if (request->for_quorum()) ++quorum_calls;
    if (fail_next.fetch_sub(1) > 0) {
      reactor->Finish(rpc::ToGrpc(failure));
      return reactor;
    }
    if (request->shard() != ShardOf(request->cookie(), kShards)) {
      reactor->Finish(rpc::ToGrpc(absl::InvalidArgumentError("not of this shard")));
      return reactor;
    }
    if (tags.empty()) {
      Append(0, "", request->cookie() + "/view", *response->mutable_views());
      Append(0, "", absl::StrCat(request->limit()), *response->mutable_buys());
    }
    for (const auto& [time_ms, id] : tags) {
      Append(time_ms, id, absl::StrCat(time_ms, id), *response->mutable_views());
    }
    for (const auto& [time_ms, id] : buys) {
      Append(time_ms, id, absl::StrCat(time_ms, id, "bought"), *response->mutable_buys());
    }
    const auto answer = [reactor] { reactor->Finish(grpc::Status::OK); };
    if (!holder.Keep(answer)) answer();
    return reactor;
  }

  static void Append(int64_t time_ms, std::string id, const std::string& tag,
                     v1::StoredTags& columns) {
    id.resize(16);
    AppendStoredTag({id, time_ms, tag}, columns);
  }

  Holder holder;
  std::atomic<bool> answers_as_another = false;
  std::atomic<int> quorum_calls = 0;
  std::atomic<int> fail_next = 0;
  absl::Status failure = absl::UnavailableError("not now");  // set while nothing is asked
  // Set while nothing is asked.
  std::vector<std::pair<int64_t, std::string>> tags;
  std::vector<std::pair<int64_t, std::string>> buys;
};

class ReadersTest : public testing::Test {
 protected:
  void Start(int nodes, uint32_t rf) {
    std::vector<Instance> instances;
    for (int i = 0; i < nodes; ++i) {
      aggregates_.push_back(std::make_unique<TestAggregates>());
      profiles_.push_back(std::make_unique<TestProfiles>());
      syncs_.push_back(std::make_unique<TestSync>(*aggregates_[i]));
      rpc::ServerOptions options;
      options.listen = "127.0.0.1:0";
      options.services = {aggregates_[i].get(), profiles_[i].get(), syncs_[i].get()};
      auto server = rpc::Server::Start(options);
      ASSERT_TRUE(server.ok()) << server.status();
      instances.push_back(
          {absl::StrCat("n", i), absl::StrCat("127.0.0.1:", (*server)->port()), ""});
      servers_.push_back(*std::move(server));
    }
    auto placement = MakePlacement(instances, kShards, rf);
    ASSERT_TRUE(placement.ok());
    channels_ = std::make_unique<Channels>(*std::move(placement));
    aggregate_reader_ = MakeAggregateReader(*channels_);
    profile_reader_ = MakeProfileReader(*channels_);
  }

  absl::StatusOr<std::vector<AggregateBucket>> Query(absl::Duration timeout = absl::Seconds(20),
                                                     bool quorum = false) {
    AggregateQuery query;
    query.quorum = quorum;
    query.from_minute = 5;
    query.to_minute = 8;
    query.action = v1::ACTION_VIEW;
    return aggregate_reader_->Query(query, absl::Now() + timeout);
  }

  void ExpectFull(const absl::StatusOr<std::vector<AggregateBucket>>& buckets) {
    ASSERT_TRUE(buckets.ok()) << buckets.status();
    ASSERT_EQ(buckets->size(), 3u);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ((*buckets)[i].minute, static_cast<int64_t>(5 + i));
      EXPECT_EQ((*buckets)[i].count, kShards) << "every shard once";
      EXPECT_EQ((*buckets)[i].sum_price, -10 * int64_t{kShards});
    }
  }

  std::vector<std::unique_ptr<TestAggregates>> aggregates_;
  std::vector<std::unique_ptr<TestProfiles>> profiles_;
  std::vector<std::unique_ptr<TestSync>> syncs_;
  std::vector<std::unique_ptr<rpc::Server>> servers_;
  std::unique_ptr<Channels> channels_;
  std::unique_ptr<AggregateReader> aggregate_reader_;
  std::unique_ptr<ProfileReader> profile_reader_;
};

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

}  // namespace
}  // namespace allezon::router
