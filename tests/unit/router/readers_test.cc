// SPDX-License-Identifier: Apache-2.0
//
// The readers against real gRPC servers that a test can make fail: full answers or an error, never
// a part.
#include "router/readers.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "allezon/v1/aggregate_replica.grpc.pb.h"
#include "allezon/v1/profile_replica.grpc.pb.h"
#include "router/channels.h"
#include "rpc/server.h"
#include "rpc/status.h"

namespace allezon::router {
namespace {

constexpr uint32_t kShards = 32;

// Counts 1 for every shard in every minute, so that an answer says how many shards it covers.
class TestAggregates final : public v1::AggregateReplicaService::CallbackService {
 public:
  grpc::ServerUnaryReactor* ScanMinutes(grpc::CallbackServerContext* call,
                                        const v1::ScanMinutesRequest* request,
                                        v1::ScanMinutesResponse* response) override {
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    ++calls;
    if (fail_next.fetch_sub(1) > 0) {
      reactor->Finish(rpc::ToGrpc(absl::UnavailableError("not now")));
      return reactor;
    }
    for (int64_t m = request->from_minute(); m < request->to_minute(); ++m) {
      v1::MinuteTotal& minute = *response->add_minutes();
      minute.set_count(request->shards_size());
      minute.set_sum_price(-10 * request->shards_size());
      minute.set_taken_through_s(taken_through_s);
      minute.set_oldest_accepted_s(oldest_accepted_s);
    }
    if (drop_a_minute) response->mutable_minutes()->RemoveLast();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  std::atomic<int> calls = 0;
  std::atomic<int> fail_next = 0;
  std::atomic<uint32_t> taken_through_s = 0;
  std::atomic<uint32_t> oldest_accepted_s = 100;
  std::atomic<bool> drop_a_minute = false;
};

class TestProfiles final : public v1::ProfileReplicaService::CallbackService {
 public:
  grpc::ServerUnaryReactor* ReadProfile(grpc::CallbackServerContext* call,
                                        const v1::ReadProfileRequest* request,
                                        v1::ReadProfileResponse* response) override {
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    if (fail_next.fetch_sub(1) > 0) {
      reactor->Finish(rpc::ToGrpc(absl::UnavailableError("not now")));
      return reactor;
    }
    if (request->shard() != ShardOf(request->cookie(), kShards)) {
      reactor->Finish(rpc::ToGrpc(absl::InvalidArgumentError("not of this shard")));
      return reactor;
    }
    response->add_views()->set_tag(request->cookie() + "/view");
    response->add_buys()->set_tag(absl::StrCat(request->limit()));
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  std::atomic<int> fail_next = 0;
};

class ReadersTest : public testing::Test {
 protected:
  void Start(int nodes, uint32_t rf) {
    std::vector<Instance> instances;
    for (int i = 0; i < nodes; ++i) {
      aggregates_.push_back(std::make_unique<TestAggregates>());
      profiles_.push_back(std::make_unique<TestProfiles>());
      rpc::ServerOptions options;
      options.listen = "127.0.0.1:0";
      options.services = {aggregates_[i].get(), profiles_[i].get()};
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

  absl::StatusOr<std::vector<AggregateBucket>> Query(absl::Duration timeout = absl::Seconds(20)) {
    AggregateQuery query;
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

TEST_F(ReadersTest, AsFewNodesAsHoldEverythingAreAskedAndTheyTakeTurns) {
  Start(3, 3);
  for (int i = 0; i < 9; ++i) ExpectFull(Query());
  int calls = 0;
  for (const auto& node : aggregates_) {
    EXPECT_GT(node->calls, 0);
    calls += node->calls;
  }
  EXPECT_EQ(calls, 9) << "each node holds every shard, so one is enough";
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

TEST_F(ReadersTest, AMinuteThatRetentionTookIsRefusedAlsoWhereOnlyOneNodeTookIt) {
  Start(2, 1);
  aggregates_[0]->taken_through_s = 100;
  aggregates_[0]->oldest_accepted_s = 0;
  EXPECT_EQ(Query().status().code(), absl::StatusCode::kFailedPrecondition)
      << "the other one still has events from before";
  aggregates_[1]->taken_through_s = 90;
  aggregates_[1]->oldest_accepted_s = 0;
  EXPECT_EQ(Query().status().code(), absl::StatusCode::kFailedPrecondition) << "nothing is left";
  aggregates_[1]->oldest_accepted_s = 101;
  ExpectFull(Query());  // begun anew by a later replay
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
    EXPECT_EQ(profile->views, std::vector<std::string>{query.cookie + "/view"});
    EXPECT_EQ(profile->buys, std::vector<std::string>{"7"});
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

}  // namespace
}  // namespace allezon::router
