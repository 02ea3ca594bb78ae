// SPDX-License-Identifier: Apache-2.0
#include "router/channels.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "allezon/v1/replica.grpc.pb.h"
#include "rpc/server.h"

namespace allezon::router {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Of one instance that nobody listens for.
std::unique_ptr<Channels> ToNobody() {
  auto placement = MakePlacement({{"n0", "127.0.0.1:1", ""}}, 1, 1);
  return std::make_unique<Channels>(*std::move(placement));
}

struct Steps {
  absl::Notification ended;
  absl::Notification others_are_gone;
  absl::Notification released;
};

// A call that may be the last holder of its channel.
struct Call {
  explicit Call(Steps& steps) : steps(steps) {}
  ~Call() {
    context.reset();
    steps.released.Notify();
  }
  Steps& steps;
  std::unique_ptr<grpc::ClientContext> context = std::make_unique<grpc::ClientContext>();
  const grpc::Slice empty;
  grpc::ByteBuffer request = grpc::ByteBuffer(&empty, 1);
  grpc::ByteBuffer response;
};

// gRPC ends the threads of its callbacks with the last channel, on the thread that drops it: were
// that one of them, it would wait for itself and go on with what it has freed.
TEST(ChannelsTest, ACallThatOutlivesThemMayDropItsChannelLast) {
  for (int i = 0; i < 3; ++i) {
    Steps steps;
    auto channels = ToNobody();
    auto call = std::make_shared<Call>(steps);
    grpc::GenericStub(channels->To(0))
        .UnaryCall(call->context.get(), "/a/b", grpc::StubOptions(), &call->request,
                   &call->response, [call](const grpc::Status& status) {
                     EXPECT_FALSE(status.ok());
                     call->steps.ended.Notify();
                     call->steps.others_are_gone.WaitForNotification();
                   });
    call.reset();
    steps.ended.WaitForNotification();
    channels.reset();
    steps.others_are_gone.Notify();
    steps.released.WaitForNotification();
  }
}

// Takes calls and never answers, as a process that is stopped.
class Silence final : public grpc::CallbackGenericService {
 private:
  class Reactor final : public grpc::ServerGenericBidiReactor {
    void OnCancel() override { Finish(grpc::Status::CANCELLED); }
    void OnDone() override { delete this; }
  };
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
    return new Reactor;
  }
};

// Is whoever is asked for.
class Anybody final : public v1::ReplicaService::CallbackService {
  grpc::ServerUnaryReactor* SyncNow(grpc::CallbackServerContext* call,
                                    const v1::SyncNowRequest* request,
                                    v1::SyncNowResponse* response) override {
    *response->mutable_by() = request->to();
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

// One instance that serves, and one that hangs.
class ReadinessTest : public testing::Test {
 protected:
  ReadinessTest() {
    rpc::ServerOptions options;
    options.listen = "127.0.0.1:0";
    options.services = {&anybody_};
    auto server = rpc::Server::Start(options);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    server_->SetServing(true);
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &hung_port_);
    builder.RegisterCallbackGenericService(&silence_);
    hung_ = builder.BuildAndStart();
  }
  ~ReadinessTest() override { hung_->Shutdown(std::chrono::system_clock::now()); }

  std::unique_ptr<Channels> Service(std::string_view name, uint32_t replicas) const {
    auto placement = MakePlacement({{"serves", absl::StrCat("127.0.0.1:", server_->port()), ""},
                                    {"hangs", absl::StrCat("127.0.0.1:", hung_port_), ""}},
                                   8, replicas);
    return std::make_unique<Channels>(*std::move(placement), name);
  }

  Anybody anybody_;
  std::unique_ptr<rpc::Server> server_;
  Silence silence_;
  int hung_port_ = 0;
  std::unique_ptr<grpc::Server> hung_;
};

TEST_F(ReadinessTest, WhereOthersHaveItsShardsNobodyWaitsForAnInstanceThatHangs) {
  const auto service = Service("x", 2);
  const absl::Time start = absl::Now();
  const absl::Status ready = CheckReady({service.get()}, start + absl::Seconds(60));
  EXPECT_TRUE(ready.ok()) << ready;
  EXPECT_LT(absl::Now() - start, absl::Seconds(30));
}

TEST_F(ReadinessTest, AServiceThatHangsTakesNoTimeFromAnother) {
  const auto hangs = Service("x", 1);
  const auto serves = Service("y", 2);
  const absl::Status ready =
      CheckReady({hangs.get(), serves.get()}, absl::Now() + absl::Milliseconds(500));
  EXPECT_TRUE(absl::IsUnavailable(ready));
  EXPECT_THAT(ready.message(), HasSubstr("x: "));
  EXPECT_THAT(ready.message(), HasSubstr("not serving: hangs"));
  EXPECT_THAT(ready.message(), Not(HasSubstr("y: "))) << "it is ready";
}

}  // namespace
}  // namespace allezon::router
