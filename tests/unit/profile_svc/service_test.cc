// SPDX-License-Identifier: Apache-2.0
//
// The gRPC services over a real connection and a real view; the rest of the cluster is scripted.
#include "profile_svc/service.h"

#include <gmock/gmock.h>
#include <google/rpc/error_details.pb.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <atomic>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "rpc/server.h"
#include "rpc/status.h"
#include "rpc/version.h"
#include "tests/unit/profile_svc/testing.h"

namespace allezon::profile_svc {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr uint32_t kShards = 8;
constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
constexpr absl::Duration kTimeout = absl::Seconds(20);

class ScriptedWriter final : public router::Writer {
 public:
  void Write(router::EventRef event, absl::Time, std::shared_ptr<router::WriteDone> done) override {
    absl::MutexLock lock(&mutex);
    events.push_back(std::move(event));
    done->Done(outcome);
  }
  absl::Mutex mutex;
  absl::Status outcome;
  std::vector<router::EventRef> events;
};

class ScriptedReader final : public router::ProfileReader {
 public:
  absl::StatusOr<router::Profile> Read(const router::ProfileQuery& query, absl::Time) override {
    absl::MutexLock lock(&mutex);
    queries.push_back(query);
    return outcome;
  }
  absl::Mutex mutex;
  absl::StatusOr<router::Profile> outcome = router::Profile();
  std::vector<router::ProfileQuery> queries;
};

v1::NodeIdentity TheNode() {
  v1::NodeIdentity node;
  node.set_cluster("allezon");
  node.set_service("profile");
  node.set_instance("p0");
  node.set_disk("disk");
  node.set_incarnation(7);
  node.set_version(std::string(rpc::Version()));
  return node;
}

router::Placement OneNode() {
  auto instances = router::ParseInstances("p0=127.0.0.1:1");
  return *router::MakePlacement(*instances, kShards, 1);
}

class ProfileServiceTest : public ::testing::Test {
 protected:
  ProfileServiceTest() : channels_(OneNode()) {
    context_.id = "p0";
    context_.identities = &identities_;
    context_.holds.assign(kShards, true);
    context_.channels = &channels_;
    context_.writer = &writer_;
    context_.calls = &calls_;
    context_.reads = &reads_;
    context_.future_max = absl::Hours(24);
    context_.check_readable = [this](router::ShardId, bool for_quorum) {
      const bool readable = for_quorum || readable_times_.fetch_sub(1) > 0;
      return readable ? absl::OkStatus() : absl::UnavailableError("may lack tags");
    };
    auto reader = std::make_unique<ScriptedReader>();
    reader_ = reader.get();
    replica_service_ = std::make_unique<ProfileReplicaServiceImpl>(context_, db_.view());
    service_ = std::make_unique<ProfileServiceImpl>(context_, std::move(reader));
    rpc::ServerOptions options;
    options.listen = "127.0.0.1:0";
    options.services = {replica_service_.get(), service_.get()};
    auto server = rpc::Server::Start(options);
    if (!server.ok()) std::abort();
    server_ = *std::move(server);
    const auto channel = grpc::CreateChannel(absl::StrCat("127.0.0.1:", server_->port()),
                                             grpc::InsecureChannelCredentials());
    replica_stub_ = v1::ProfileReplicaService::NewStub(channel);
    stub_ = v1::ProfileService::NewStub(channel);
  }

  static void Bound(grpc::ClientContext& call) {
    call.set_deadline(absl::ToChronoTime(absl::Now() + kTimeout));
  }

  v1::ReadProfileRequest RequestFor(const std::string& cookie) {
    v1::ReadProfileRequest request;
    *request.mutable_to() = TheNode();
    request.set_placement_version(channels_.placement().version);
    request.set_shard(router::ShardOf(cookie, kShards));
    request.set_cookie(cookie);
    request.set_from_ms(kMin);
    request.set_to_ms(kMax);
    request.set_limit(200);
    return request;
  }
  absl::Status ReadProfile(const v1::ReadProfileRequest& request) {
    grpc::ClientContext call;
    Bound(call);
    return rpc::FromGrpc(replica_stub_->ReadProfile(&call, request, &rows_));
  }
  absl::Status AddTags(const v1::ProfileServiceAddTagsRequest& request) {
    grpc::ClientContext call;
    Bound(call);
    return rpc::FromGrpc(stub_->AddTags(&call, request, &added_));
  }
  absl::Status GetProfile(const v1::GetProfileRequest& request) {
    grpc::ClientContext call;
    Bound(call);
    return rpc::FromGrpc(stub_->GetProfile(&call, request, &profile_));
  }

  // How often it is still said that reads other than those for a quorum may be answered.
  std::atomic<int> readable_times_ = 1'000'000;
  ViewInDb db_{absl::Hours(24)};
  replica::Identities identities_{TheNode(), 0, {"p0"}};
  router::Channels channels_;
  ScriptedWriter writer_;
  rpc::ByteBudget calls_{64 << 20}, reads_{1 << 20};
  replica::NodeContext context_;
  ScriptedReader* reader_ = nullptr;
  std::unique_ptr<ProfileReplicaServiceImpl> replica_service_;
  std::unique_ptr<ProfileServiceImpl> service_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<v1::ProfileReplicaService::Stub> replica_stub_;
  std::unique_ptr<v1::ProfileService::Stub> stub_;
  v1::ReadProfileResponse rows_;
  v1::ProfileServiceAddTagsResponse added_;
  v1::GetProfileResponse profile_;
};

TEST_F(ProfileServiceTest, ReadProfileAnswersFromMemoryAndFromDisk) {
  const Row row{.shard = router::ShardOf("c", kShards), .time_ms = 10, .id = 1};
  Row buy = row;
  buy.action = v1::ACTION_BUY;
  buy.id = 2;
  db_.Put({row, buy});
  for (const bool on_disk : {false, true}) {
    if (on_disk) db_.Flush();  // no block of the new file is cached
    ASSERT_EQ(ReadProfile(RequestFor("c")), absl::OkStatus());
    EXPECT_EQ(rows_.by().SerializeAsString(), TheNode().SerializeAsString());
    EXPECT_EQ(rows_.views().tags(), TagOf(row));
    EXPECT_EQ(rows_.views().event_ids(), router::AsBytes(IdOf(1)));
    EXPECT_THAT(rows_.views().time_ms(), testing::ElementsAre(10));
    EXPECT_EQ(rows_.buys().tags(), TagOf(buy));
  }
}

TEST_F(ProfileServiceTest, ReadProfileRefusesWhatIsNotItsOwn) {
  v1::ReadProfileRequest request = RequestFor("c");
  request.set_placement_version(request.placement_version() + 1);
  EXPECT_EQ(ReadProfile(request).code(), absl::StatusCode::kFailedPrecondition);

  request = RequestFor("c");
  request.mutable_to()->set_instance("p1");
  EXPECT_EQ(ReadProfile(request).code(), absl::StatusCode::kFailedPrecondition);
  request.clear_to();
  EXPECT_EQ(ReadProfile(request).code(), absl::StatusCode::kFailedPrecondition);

  request = RequestFor("c");
  request.set_shard((request.shard() + 1) % kShards);
  absl::Status status = ReadProfile(request);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(rpc::FieldOf(status), "cookie");

  request.set_shard(kShards);
  EXPECT_EQ(rpc::FieldOf(ReadProfile(request)), "shard");
  request.set_shard(std::numeric_limits<uint32_t>::max());
  EXPECT_EQ(rpc::FieldOf(ReadProfile(request)), "shard");

  request = RequestFor("c");
  request.set_limit(201);
  EXPECT_EQ(rpc::FieldOf(ReadProfile(request)), "limit");
  EXPECT_EQ(rpc::FieldOf(ReadProfile(RequestFor(""))), "cookie");
  EXPECT_EQ(rpc::FieldOf(ReadProfile(RequestFor(std::string(257, 'c')))), "cookie");
  EXPECT_EQ(ReadProfile(RequestFor(std::string(256, 'c'))), absl::OkStatus());

  context_.holds[RequestFor("c").shard()] = false;
  EXPECT_EQ(rpc::FieldOf(ReadProfile(RequestFor("c"))), "shard");
}

TEST_F(ProfileServiceTest, ReadProfileReportsARowThatCannotBeRead) {
  const replica::ShardId shard = router::ShardOf("c", kShards);
  db_.Put({{.shard = shard, .time_ms = 10, .id = 1}});
  rocksdb::ReadOptions options;
  options.total_order_seek = true;
  const std::unique_ptr<rocksdb::Iterator> it(db_.db().NewIterator(options));
  it->SeekToFirst();
  ASSERT_TRUE(it->Valid());
  ViewInDb::Check(db_.db().Put({}, it->key(), "x"));
  EXPECT_EQ(ReadProfile(RequestFor("c")).code(), absl::StatusCode::kDataLoss);
}

v1::NewTag NewTagOf(const std::string& cookie) {
  v1::NewTag tag;
  tag.mutable_tag()->set_cookie(cookie);
  tag.mutable_tag()->set_device(v1::DEVICE_TV);
  tag.mutable_tag()->set_action(v1::ACTION_VIEW);
  tag.mutable_tag()->mutable_product_info()->mutable_product_id()->set_text("7");
  return tag;
}

TEST_F(ProfileServiceTest, AddTagsWritesEveryTag) {
  v1::ProfileServiceAddTagsRequest request;
  for (int i = 0; i < 5; ++i) *request.add_tags() = NewTagOf(absl::StrCat("c", i));
  ASSERT_EQ(AddTags(request), absl::OkStatus());
  EXPECT_EQ(added_.accepted(), 5u);
  absl::MutexLock lock(&writer_.mutex);
  ASSERT_THAT(writer_.events, SizeIs(5));
  EXPECT_EQ(writer_.events[4]->tag, request.tags(4).tag().SerializeAsString());
}

TEST_F(ProfileServiceTest, AddTagsNamesTheFieldAtFaultAndTheRetryDelay) {
  v1::ProfileServiceAddTagsRequest request;
  for (int i = 0; i < 5; ++i) *request.add_tags() = NewTagOf("c");
  request.mutable_tags(3)->mutable_tag()->clear_cookie();
  absl::Status status = AddTags(request);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(rpc::FieldOf(status), "tags[3].tag.cookie");

  request.mutable_tags(3)->mutable_tag()->set_cookie("c");
  {
    absl::MutexLock lock(&writer_.mutex);
    EXPECT_THAT(writer_.events, SizeIs(0));
    writer_.outcome = absl::ResourceExhaustedError("full");
  }
  status = AddTags(request);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GT(rpc::RetryDelayOf(status), absl::ZeroDuration());
}

TEST_F(ProfileServiceTest, GetProfileHandsTheQueryOnAndParsesTheTags) {
  const std::string view = NewTagOf("c").tag().SerializeAsString();
  {
    absl::MutexLock lock(&reader_->mutex);
    reader_->outcome->views = {view};
  }
  v1::GetProfileRequest request;
  request.set_cookie("c");
  request.set_from_ms(kMin);
  request.set_to_ms(kMax);
  ASSERT_EQ(GetProfile(request), absl::OkStatus());
  EXPECT_EQ(profile_.cookie(), "c");
  ASSERT_EQ(profile_.views_size(), 1);
  EXPECT_EQ(profile_.views(0).SerializeAsString(), view);
  EXPECT_EQ(profile_.buys_size(), 0);
  for (const uint32_t limit : {0u, 7u, 200u, 201u, std::numeric_limits<uint32_t>::max()}) {
    request.set_limit(limit);
    EXPECT_EQ(GetProfile(request), absl::OkStatus());
  }
  absl::MutexLock lock(&reader_->mutex);
  std::vector<uint32_t> limits;
  for (const router::ProfileQuery& query : reader_->queries) {
    EXPECT_EQ(query.cookie, "c");
    EXPECT_EQ(query.from_ms, kMin);
    EXPECT_EQ(query.to_ms, kMax);
    limits.push_back(query.limit);
  }
  EXPECT_THAT(limits, ElementsAre(200, 0, 7, 200, 200, 200));
}

TEST_F(ProfileServiceTest, GetProfileRefusesWhatMakesNoSense) {
  v1::GetProfileRequest request;
  EXPECT_EQ(rpc::FieldOf(GetProfile(request)), "cookie");
  request.set_cookie(std::string(257, 'c'));
  EXPECT_EQ(rpc::FieldOf(GetProfile(request)), "cookie");
  request.set_cookie("c");
  EXPECT_EQ(GetProfile(request), absl::OkStatus()) << "an empty range is empty";
  request.set_from_ms(1);
  EXPECT_EQ(rpc::FieldOf(GetProfile(request)), "to_ms");
  request.set_to_ms(1);
  request.set_consistency(static_cast<v1::Consistency>(9));
  EXPECT_EQ(rpc::FieldOf(GetProfile(request)), "consistency");
  request.set_consistency(v1::CONSISTENCY_QUORUM);
  EXPECT_EQ(GetProfile(request), absl::OkStatus());
  request.set_consistency(v1::CONSISTENCY_ONE);
  EXPECT_EQ(GetProfile(request), absl::OkStatus());
  absl::MutexLock lock(&reader_->mutex);
  ASSERT_GE(reader_->queries.size(), 2u);
  EXPECT_TRUE(reader_->queries[reader_->queries.size() - 2].quorum);
  EXPECT_FALSE(reader_->queries.back().quorum);
}

TEST_F(ProfileServiceTest, ReadProfileIsRefusedWhereTagsMayBeLackingBeforeOrAfterTheRead) {
  for (const int times : {0, 1}) {
    readable_times_ = times;
    EXPECT_EQ(ReadProfile(RequestFor("c")).code(), absl::StatusCode::kUnavailable) << times;
  }
  readable_times_ = 2;
  EXPECT_EQ(ReadProfile(RequestFor("c")), absl::OkStatus());
  v1::ReadProfileRequest request = RequestFor("c");
  request.set_for_quorum(true);
  EXPECT_EQ(ReadProfile(request), absl::OkStatus()) << "others make up for what is lacking";
}

// Of reads, whatever they ask for, no more waits in memory than the budget has.
TEST_F(ProfileServiceTest, ReadsAreRefusedBeyondTheirBudgetAndSayWhenToComeBack) {
  const auto refused = [](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    return rpc::RetryDelayOf(status) > absl::ZeroDuration();
  };
  // gRPC is done with a call a moment after its caller.
  const auto left = [this](size_t others) {
    const absl::Time deadline = absl::Now() + kTimeout;
    while (reads_.taken() > others && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_EQ(reads_.taken(), others);
  };
  v1::GetProfileRequest request;
  request.set_cookie("c");
  const std::string view = NewTagOf("c").tag().SerializeAsString();
  {
    absl::MutexLock lock(&reader_->mutex);
    reader_->outcome->views.assign(200, view);
  }
  db_.Put({{.shard = router::ShardOf("c", kShards), .time_ms = 10, .id = 1}});
  {
    // Nothing is left but for the request.
    const auto others = rpc::BytesTaken::From(reads_, reads_.bytes_max() - 5'000);
    ASSERT_TRUE(others);
    EXPECT_TRUE(refused(GetProfile(request)));
    left(reads_.bytes_max() - 5'000);
    EXPECT_EQ(ReadProfile(RequestFor("c")), absl::OkStatus()) << "one row fits";
  }
  left(0);
  {
    const auto others = rpc::BytesTaken::From(reads_, reads_.bytes_max() - 100);
    ASSERT_TRUE(others);
    EXPECT_TRUE(refused(GetProfile(request)));
    EXPECT_TRUE(refused(ReadProfile(RequestFor("c"))));
  }
  left(0);
  ASSERT_EQ(GetProfile(request), absl::OkStatus());
  EXPECT_EQ(profile_.views_size(), 200);
  // Fields that nobody knows take memory too; this would never fit.
  request.GetReflection()->MutableUnknownFields(&request)->AddLengthDelimited(
      1'000, std::string(reads_.bytes_max(), 'x'));
  EXPECT_FALSE(refused(GetProfile(request)));
  left(0);
}

TEST_F(ProfileServiceTest, GetProfileNeverAnswersInPart) {
  v1::GetProfileRequest request;
  request.set_cookie("c");
  const std::string view = NewTagOf("c").tag().SerializeAsString();
  {
    absl::MutexLock lock(&reader_->mutex);
    reader_->outcome->views = {view, "\xff\xff"};
  }
  EXPECT_EQ(GetProfile(request).code(), absl::StatusCode::kDataLoss);
  {
    absl::MutexLock lock(&reader_->mutex);
    reader_->outcome = absl::UnavailableError("no replica answers");
  }
  const absl::Status status = GetProfile(request);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no replica"));
}

}  // namespace
}  // namespace allezon::profile_svc
