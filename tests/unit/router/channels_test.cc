// SPDX-License-Identifier: Apache-2.0
#include "router/channels.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "absl/synchronization/notification.h"

namespace allezon::router {
namespace {

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

}  // namespace
}  // namespace allezon::router
