// SPDX-License-Identifier: Apache-2.0
//
// allezon-bench-nothing-node: in the place of a node of either service, answers every write with OK
// at once and stores nothing. What a gateway does before it shows the cost of the gateway itself.
#include <cstdio>
#include <memory>
#include <string>

#include "absl/flags/flag.h"
#include "absl/status/statusor.h"
#include "allezon/v1/aggregate.grpc.pb.h"
#include "allezon/v1/profile.grpc.pb.h"
#include "allezon/v1/replica.grpc.pb.h"
#include "rpc/flags.h"
#include "rpc/server.h"
#include "rpc/signals.h"

ABSL_FLAG(std::string, listen, "127.0.0.1:0", "host:port for gRPC");

namespace allezon::bench {
namespace {

grpc::ServerUnaryReactor* Ok(grpc::CallbackServerContext* call) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

class Replica final : public v1::ReplicaService::CallbackService {
  grpc::ServerUnaryReactor* Write(grpc::CallbackServerContext* call,
                                  const v1::WriteRequest* request,
                                  v1::WriteResponse* response) override {
    *response->mutable_by() = request->to();  // whoever is asked for
    return Ok(call);
  }
  grpc::ServerUnaryReactor* SyncNow(grpc::CallbackServerContext* call,
                                    const v1::SyncNowRequest* request,
                                    v1::SyncNowResponse* response) override {
    *response->mutable_by() = request->to();
    return Ok(call);
  }
};

class Profile final : public v1::ProfileService::CallbackService {
  grpc::ServerUnaryReactor* AddTags(grpc::CallbackServerContext* call,
                                    const v1::ProfileServiceAddTagsRequest*,
                                    v1::ProfileServiceAddTagsResponse*) override {
    return Ok(call);
  }
};

int Serve() {
  Replica replica;
  Profile profile;
  rpc::ServerOptions options;
  options.listen = absl::GetFlag(FLAGS_listen);
  options.services = {&replica, &profile};
  absl::StatusOr<std::unique_ptr<rpc::Server>> server = rpc::Server::Start(options);
  if (!server.ok()) {
    std::fprintf(stderr, "%s\n", std::string(server.status().message()).c_str());
    return 1;
  }
  (*server)->SetServing(true);
  rpc::WaitForTermination();
  (*server)->Shutdown(absl::Seconds(1));
  return 0;
}

}  // namespace
}  // namespace allezon::bench

int main(int argc, char** argv) {
  allezon::rpc::ParseFlags(argc, argv,
                           "allezon-bench-nothing-node answers writes with OK and does nothing.");
  allezon::rpc::BlockTerminationSignals();
  return allezon::bench::Serve();
}
