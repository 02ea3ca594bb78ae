// SPDX-License-Identifier: Apache-2.0
#include "rpc/callback_threads.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <memory>

#include "absl/base/call_once.h"

namespace allezon::rpc {
namespace {

struct Call {
  grpc::ClientContext context;
  const grpc::Slice empty;
  grpc::ByteBuffer request = grpc::ByteBuffer(&empty, 1);
  grpc::ByteBuffer response;
};

// A channel's first call takes its reference to the threads. This one reaches nobody.
std::shared_ptr<grpc::Channel> CalledChannel() {
  auto channel = grpc::CreateChannel("", nullptr);
  const auto call = std::make_shared<Call>();
  grpc::GenericStub(channel).UnaryCall(&call->context, "", grpc::StubOptions(), &call->request,
                                       &call->response, [call](const grpc::Status&) {});
  return channel;
}

}  // namespace

void KeepCallbackThreads() {
  static absl::once_flag once;
  // Never destroyed. Atomic, since no compiler drops such a store: a leak checker looks for it.
  static std::atomic<std::shared_ptr<grpc::Channel>*> channel;
  absl::call_once(once, [] {
    channel = std::make_unique<std::shared_ptr<grpc::Channel>>(CalledChannel()).release();
  });
}

}  // namespace allezon::rpc
