// SPDX-License-Identifier: Apache-2.0
//
// Readers over real gRPC servers that a test can make fail.
#pragma once

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
#include "router/readers.h"
#include "router/stored_tags.h"
#include "rpc/server.h"
#include "rpc/status.h"

namespace allezon::router {

inline constexpr uint32_t kShards = 32;

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
  int calls() {
    absl::MutexLock lock(&mutex_);
    return calls_;
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

}  // namespace allezon::router
