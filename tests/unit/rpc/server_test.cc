// SPDX-License-Identifier: Apache-2.0
#include "rpc/server.h"

#include <allezon/v1/profile.grpc.pb.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpc/health/v1/health.grpc.pb.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <netinet/tcp.h>

#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "accept_errors.h"
#include "rpc/metrics.h"
#include "rpc/status.h"
#include "sockets.h"

namespace allezon::rpc {
namespace {

using ::grpc::health::v1::Health;
using ::grpc::health::v1::HealthCheckRequest;
using ::grpc::health::v1::HealthCheckResponse;
using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Seconds(30);

void SetDeadline(grpc::ClientContext& context, absl::Duration in = kLong) {
  context.set_deadline(absl::ToChronoTime(absl::Now() + in));
}

std::shared_ptr<grpc::Channel> ChannelTo(int port) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxReceiveMessageSize(-1);
  return grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port),
                                   grpc::InsecureChannelCredentials(), arguments);
}

// Answers GetProfile as told by Answer, or, for the cookie "held", when the test lets it.
class FakeService final : public v1::ProfileService::CallbackService {
 public:
  grpc::ServerUnaryReactor* GetProfile(grpc::CallbackServerContext* call,
                                       const v1::GetProfileRequest* request,
                                       v1::GetProfileResponse* response) override {
    if (request->cookie() == "held") {
      absl::MutexLock lock(&mutex_);
      held_ = std::make_unique<Held>().release();
      return held_;
    }
    response->set_cookie(request->cookie());
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    absl::MutexLock lock(&mutex_);
    reactor->Finish(ToGrpc(answer_));
    return reactor;
  }

  void WaitUntilHeld() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](FakeService* self) { return self->held_ != nullptr; }, this));
  }
  void Release() {
    absl::MutexLock lock(&mutex_);
    held_->Finish(grpc::Status::OK);
  }

  void Answer(absl::Status answer) {
    absl::MutexLock lock(&mutex_);
    answer_ = std::move(answer);
  }

 private:
  class Held : public grpc::ServerUnaryReactor {
   public:
    void OnCancel() override { Finish(grpc::Status::CANCELLED); }
    void OnDone() override { delete this; }
  };

  absl::Mutex mutex_;
  Held* held_ ABSL_GUARDED_BY(mutex_) = nullptr;
  absl::Status answer_ ABSL_GUARDED_BY(mutex_);
};

class ServerTest : public testing::Test {
 protected:
  ServerTest() {
    options_.listen = "127.0.0.1:0";
    options_.services = {&service_};
    options_.health_names = {"allezon.v1.ProfileService"};
  }

  std::unique_ptr<Server> StartServer() {
    auto server = Server::Start(options_);
    EXPECT_TRUE(server.ok()) << server.status();
    if (!server.ok()) return nullptr;
    EXPECT_GT((*server)->port(), 0);
    channel_ = ChannelTo((*server)->port());
    return *std::move(server);
  }

  grpc::Status Check(const std::string& name, HealthCheckResponse& response) {
    grpc::ClientContext context;
    SetDeadline(context);
    HealthCheckRequest request;
    request.set_service(name);
    return Health::NewStub(channel_)->Check(&context, request, &response);
  }

  HealthCheckResponse::ServingStatus HealthOf(const std::string& name) {
    HealthCheckResponse response;
    const grpc::Status status = Check(name, response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.status();
  }

  grpc::Status GetProfile(const std::string& cookie) {
    grpc::ClientContext context;
    SetDeadline(context);
    v1::GetProfileRequest request;
    request.set_cookie(cookie);
    v1::GetProfileResponse response;
    return v1::ProfileService::NewStub(channel_)->GetProfile(&context, request, &response);
  }

  FakeService service_;
  ServerOptions options_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(ServerTest, HealthIsNotServingUntilSaidSoAndChangesForAllNames) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  for (const char* name : {"", "allezon.v1.ProfileService"}) {
    EXPECT_EQ(HealthOf(name), HealthCheckResponse::NOT_SERVING);
    server->SetServing(true);
    EXPECT_EQ(HealthOf(name), HealthCheckResponse::SERVING);
    server->SetServing(false);
    EXPECT_EQ(HealthOf(name), HealthCheckResponse::NOT_SERVING);
  }
}

TEST_F(ServerTest, TheHealthOfLifeIsServingWhateverTheOthersAre) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  grpc::ClientContext context;
  SetDeadline(context);
  HealthCheckRequest request;
  request.set_service("live");
  const auto watch = Health::NewStub(channel_)->Watch(&context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  for (const bool serving : {false, true, false}) {
    server->SetServing(serving);
    EXPECT_EQ(HealthOf(""),
              serving ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING);
    EXPECT_EQ(HealthOf("live"), HealthCheckResponse::SERVING);
  }
  // Nothing has changed that it was to hear of, and it does not hold up the end.
  server->Shutdown(kLong);
  EXPECT_FALSE(watch->Read(&response));
}

TEST_F(ServerTest, HealthOfAnUnknownServiceIsNotFound) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  HealthCheckResponse response;
  EXPECT_EQ(Check("no.such.Service", response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ServerTest, AWatchSeesEveryChangeAndEndsWithTheServer) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  grpc::ClientContext context;
  SetDeadline(context);
  HealthCheckRequest request;
  const auto stub = Health::NewStub(channel_);
  const auto watch = stub->Watch(&context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  for (int i = 0; i < 100; ++i) {
    server->SetServing(true);
    ASSERT_TRUE(watch->Read(&response));
    EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
    server->SetServing(false);
    ASSERT_TRUE(watch->Read(&response));
    EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  }
  server->SetServing(true);
  ASSERT_TRUE(watch->Read(&response));
  const absl::Time before = absl::Now();
  server->Shutdown(kLong);
  EXPECT_LT(absl::Now() - before, kLong / 2) << "the watch held the shutdown up";
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  EXPECT_FALSE(watch->Read(&response));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ServerTest, AWatchOfAnUnknownServiceSaysSoAndStays) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  grpc::ClientContext context;
  SetDeadline(context);
  HealthCheckRequest request;
  request.set_service("no.such.Service");
  const auto stub = Health::NewStub(channel_);
  const auto watch = stub->Watch(&context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVICE_UNKNOWN);
  server->Shutdown(kLong);
  EXPECT_FALSE(watch->Read(&response));
}

// Watches that come, go and are cancelled while the health changes and the server ends: what this
// would find are lost finishes (a shutdown that hangs) and uses after the end (under sanitizers).
TEST_F(ServerTest, WatchesMayEndAtAnyMoment) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&] {
        const auto stub = Health::NewStub(channel_);
        for (int i = 0; i < 100; ++i) {
          grpc::ClientContext context;
          SetDeadline(context);
          const auto watch = stub->Watch(&context, HealthCheckRequest());
          HealthCheckResponse response;
          for (int k = 0; k < i % 4; ++k) {
            if (!watch->Read(&response)) break;
          }
          context.TryCancel();
          while (watch->Read(&response)) {
          }
          (void)watch->Finish();
        }
      });
    }
    threads.emplace_back([&](std::stop_token stop) {
      for (bool serving = true; !stop.stop_requested(); serving = !serving) {
        server->SetServing(serving);
      }
    });
    for (int t = 0; t < 3; ++t) threads[t].join();
  }
  server->Shutdown(kLong);
}

TEST_F(ServerTest, ErrorsArriveWithTheirDetails) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  const absl::Status answer =
      WithRetryDelay(InvalidField("cookie", "za d\u0142ugie"), absl::Seconds(2));
  service_.Answer(answer);
  const absl::Status status = FromGrpc(GetProfile("c"));
  EXPECT_EQ(status, answer);
  EXPECT_EQ(FieldOf(status), "cookie");
  EXPECT_EQ(RetryDelayOf(status), absl::Seconds(2));
}

// What does not fit costs the call: the client would see RESOURCE_EXHAUSTED, and nothing else.
TEST_F(ServerTest, TheLongestErrorsStillFitTheTrailers) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  const std::string worst(100'000, '\x01');
  service_.Answer(WithRetryDelay(InvalidField(worst, worst), absl::Seconds(2)));
  absl::Status status = FromGrpc(GetProfile("c"));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_FALSE(FieldOf(status).empty());
  EXPECT_EQ(RetryDelayOf(status), absl::Seconds(2));

  service_.Answer(WithRetryDelay(absl::UnavailableError(worst), absl::Seconds(2)));
  status = FromGrpc(GetProfile("c"));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(RetryDelayOf(status), absl::Seconds(2));

  absl::Status foreign = absl::AbortedError("foreign details");
  foreign.SetPayload("type.googleapis.com/some.Other", absl::Cord(worst));
  service_.Answer(foreign);
  EXPECT_EQ(FromGrpc(GetProfile("c")), absl::AbortedError("foreign details"));
}

TEST_F(ServerTest, AMessageOverTheLimitIsRefusedAndOneUnderItIsNot) {
  options_.message_bytes_max = 1 << 20;
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  EXPECT_TRUE(GetProfile(std::string((1 << 20) - 100, 'c')).ok());
  EXPECT_EQ(GetProfile(std::string((1 << 20) + 100, 'c')).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(GetProfile("c").ok());
}

// gRPC would unpack any number of bytes of it.
TEST_F(ServerTest, ACompressedMessageIsRefused) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  for (const grpc_compression_algorithm by : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    grpc::ClientContext context;
    SetDeadline(context);
    context.set_compression_algorithm(by);
    v1::GetProfileRequest request;
    request.set_cookie(std::string(1'000'000, 'c'));
    v1::GetProfileResponse response;
    const grpc::Status status =
        v1::ProfileService::NewStub(channel_)->GetProfile(&context, request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << status.error_message();
  }
  EXPECT_TRUE(GetProfile("c").ok());
}

TEST_F(ServerTest, ATakenPortIsUnavailableAndSaysWhy) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  for (const char* host : {"127.0.0.1", "localhost", "0.0.0.0"}) {
    FakeService service;
    ServerOptions options;
    options.listen = absl::StrCat(host, ":", server->port());
    options.services = {&service};
    const auto second = Server::Start(options);
    EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(second.status().message()), HasSubstr("in use"));
    EXPECT_THAT(std::string(second.status().message()), HasSubstr(options.listen));
  }
  EXPECT_TRUE(GetProfile("c").ok());
}

TEST_F(ServerTest, APortOfAnotherProcessIsNotShared) {
  const OtherProcessListener other;
  ASSERT_GT(other.port(), 0);
  options_.listen = absl::StrCat("127.0.0.1:", other.port());
  EXPECT_EQ(Server::Start(options_).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(ServerTest, OurPortIsNotSharedWithWhoeverComesLater) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  EXPECT_EQ(ListenSharing(server->port()).get(), -1);
}

TEST_F(ServerTest, BrokenAddressesAreRefused) {
  for (const char* address : {"", "127.0.0.1", ":0", "127.0.0.1:x", "unix:/x"}) {
    options_.listen = address;
    EXPECT_EQ(Server::Start(options_).status().code(), absl::StatusCode::kInvalidArgument)
        << address;
  }
  options_.listen = "192.0.2.1:0";
  EXPECT_EQ(Server::Start(options_).status().code(), absl::StatusCode::kUnavailable);
}

// The descriptor, in this process, of the other end of a connection; -1 where there is none.
int OtherEnd(const FileDescriptor& client) {
  sockaddr_in own{}, peer{};
  socklen_t length = sizeof own;
  if (getsockname(client.get(), reinterpret_cast<sockaddr*>(&own), &length) != 0) return -1;
  constexpr int kDescriptorsMax = 1'024;
  for (int fd = 0; fd < kDescriptorsMax; ++fd) {
    sockaddr_in6 any{};
    length = sizeof any;
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&any), &length) != 0) continue;
    std::memcpy(&peer, &any, sizeof peer);  // the port is at the same place for both families
    if (peer.sin_port == own.sin_port) return fd;
  }
  return -1;
}

int OptionOf(int fd, int option) {
  int value = -1;
  socklen_t length = sizeof value;
  return getsockopt(fd, IPPROTO_TCP, option, &value, &length) == 0 ? value : -1;
}

TEST_F(ServerTest, ConnectionsHaveTheOptionsOfGrpcsOwnListener) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  const FileDescriptor client = ConnectTo(server->port());
  // What the server says first.
  char first = 0;
  ASSERT_EQ(recv(client.get(), &first, 1, 0), 1);
  const int fd = OtherEnd(client);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(OptionOf(fd, TCP_NODELAY), 1);
  EXPECT_EQ(OptionOf(fd, TCP_USER_TIMEOUT), 10'000);
  EXPECT_TRUE(fcntl(fd, F_GETFL) & O_NONBLOCK);
  EXPECT_TRUE(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

TEST_F(ServerTest, AnyAddressIsOfBothFamilies) {
  for (const char* address : {"0.0.0.0:0", "[::]:0"}) {
    options_.listen = address;
    const auto server = StartServer();
    ASSERT_NE(server, nullptr);
    EXPECT_GE(ConnectTo(server->port()).get(), 0) << address;
    EXPECT_TRUE(GetProfile("c").ok());
    if (HasIpv6()) {
      EXPECT_GE(ConnectToIpv6(server->port()).get(), 0) << address;
    }
  }
}

TEST_F(ServerTest, WhoConnectsWhileTheTableOfDescriptorsIsFullIsServedOnceItIsNot) {
  if (!kTableMayBeFull) GTEST_SKIP() << "a sanitizer needs descriptors";
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  FileDescriptor client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  {
    const prometheus::Counter& failures =
        MakeCounter("allezon_accept_failures_total", "", {{"listener", "grpc"}});
    const double before = failures.Value();
    const FullTable full;
    const sockaddr_in address = Loopback(server->port());
    ASSERT_EQ(connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
              0);
    while (failures.Value() < before + 3) absl::SleepFor(absl::Milliseconds(1));
  }
  char first = 0;
  EXPECT_EQ(recv(client.get(), &first, 1, 0), 1);
  EXPECT_TRUE(GetProfile("c").ok());
}

TEST_F(ServerTest, ShutdownLetsTheCallUnderWayEndAndTakesNoNewOnes) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  server->SetServing(true);
  grpc::Status held_status;
  std::jthread caller([&] { held_status = GetProfile("held"); });
  service_.WaitUntilHeld();
  absl::Notification ended;
  std::jthread shutter([&] {
    server->Shutdown(kLong);
    ended.Notify();
  });
  // The listening socket is closed at once, while the call is still held.
  while (ConnectTo(server->port()).get() >= 0) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_FALSE(ended.HasBeenNotified());
  service_.Release();
  caller.join();
  EXPECT_TRUE(held_status.ok()) << held_status.error_message();
  EXPECT_TRUE(ended.WaitForNotificationWithTimeout(kLong / 2));
}

TEST_F(ServerTest, ShutdownCancelsWhatIsLeftAfterTheGrace) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  grpc::Status held_status;
  std::jthread caller([&] { held_status = GetProfile("held"); });
  service_.WaitUntilHeld();
  server->Shutdown(absl::Milliseconds(50));
  caller.join();
  EXPECT_FALSE(held_status.ok());
  EXPECT_NE(held_status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(ServerTest, ShutdownMayBeRepeatedAndThePortIsFreeAfterwards) {
  auto server = StartServer();
  ASSERT_NE(server, nullptr);
  ASSERT_TRUE(GetProfile("c").ok());
  options_.listen = absl::StrCat("127.0.0.1:", server->port());
  server->Shutdown(absl::InfiniteDuration());
  server->Shutdown(-absl::Seconds(1));
  server->SetServing(true);
  const auto again = Server::Start(options_);
  EXPECT_TRUE(again.ok()) << again.status();
  server.reset();
}

// One request of the reflection service, made by hand: field 1 is the message in bytes.
std::string Reflect(const std::shared_ptr<grpc::Channel>& channel, const std::string& request) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  SetDeadline(context);
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  const auto step = [&] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  call->StartCall(nullptr);
  EXPECT_TRUE(step());
  const grpc::Slice slice(request);
  call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
  EXPECT_TRUE(step());
  grpc::ByteBuffer answer;
  call->Read(&answer, nullptr);
  EXPECT_TRUE(step());
  grpc::Status status;
  call->Finish(&status, nullptr);
  EXPECT_TRUE(step());
  EXPECT_TRUE(status.ok()) << status.error_message();
  std::vector<grpc::Slice> slices;
  (void)answer.Dump(&slices);
  std::string text;
  for (const grpc::Slice& part : slices) text.append(part.begin(), part.end());
  return text;
}

// field number << 3 | 2 (bytes), length, text.
std::string BytesField(int number, const std::string& text) {
  return absl::StrCat(std::string(1, static_cast<char>(number << 3 | 2)),
                      std::string(1, static_cast<char>(text.size())), text);
}

TEST_F(ServerTest, ReflectionShowsEveryServiceHealthIncluded) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  constexpr int kFileContainingSymbol = 4;
  constexpr int kListServices = 7;
  const std::string services = Reflect(channel_, BytesField(kListServices, "*"));
  EXPECT_THAT(services, HasSubstr("allezon.v1.ProfileService"));
  EXPECT_THAT(services, HasSubstr("grpc.health.v1.Health"));
  EXPECT_THAT(Reflect(channel_, BytesField(kFileContainingSymbol, "grpc.health.v1.Health")),
              HasSubstr("HealthCheckRequest"));
  EXPECT_THAT(Reflect(channel_, BytesField(kFileContainingSymbol, "allezon.v1.ProfileService")),
              HasSubstr("GetProfileRequest"));
}

}  // namespace
}  // namespace allezon::rpc
