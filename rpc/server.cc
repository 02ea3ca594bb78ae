// SPDX-License-Identifier: Apache-2.0
#include "rpc/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "rpc/address.h"
#include "rpc/health.h"

namespace allezon::rpc {
namespace {

// Clients may ping every 10 s, also between calls; half of it leaves room for a ping that comes
// early because the one before was late. Faster ones are sent away with too_many_pings.
constexpr int kClientPingMin_ms = 5'000;
// The server's own pings, which find connections whose client has vanished.
constexpr int kServerPing_ms = 30'000;
constexpr int kServerPingTimeout_ms = 10'000;
// More than a handler should ever be given; also keeps the deadline inside the clock's range.
constexpr absl::Duration kGraceMax = absl::Hours(1);

}  // namespace

struct Server::Impl {
  explicit Impl(const std::vector<std::string>& health_names) : health(health_names) {}

  HealthService health;  // before the server, which calls it to its end
  std::unique_ptr<grpc::Server> server;
  int port = 0;
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options) {
  const absl::StatusOr<HostPort> address = ParseHostPort(options.listen);
  if (!address.ok()) return address.status();
  if (absl::Status status = CheckListenable(*address); !status.ok()) return status;
  // Idempotent; it takes effect on builders made from now on.
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();

  auto impl = std::make_unique<Impl>(options.health_names);
  grpc::ServerBuilder builder;
  // gRPC's own choice is SO_REUSEPORT, with which two processes share a port in silence.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             kClientPingMin_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kServerPing_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kServerPingTimeout_ms);
  builder.SetMaxReceiveMessageSize(options.message_bytes_max);
  builder.SetMaxSendMessageSize(options.message_bytes_max);
  if (options.grpc_bytes_max > 0) {
    grpc::ResourceQuota quota("server");
    quota.Resize(options.grpc_bytes_max);
    builder.SetResourceQuota(quota);
  }
  builder.AddListeningPort(options.listen, grpc::InsecureServerCredentials(), &impl->port);
  for (grpc::Service* service : options.services) builder.RegisterService(service);
  builder.RegisterService(&impl->health);
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr || impl->port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options.listen));
  }
  return absl::WrapUnique(new Server(std::move(impl)));
}

Server::~Server() { Shutdown(absl::ZeroDuration()); }

int Server::port() const { return impl_->port; }

void Server::SetServing(bool serving) { impl_->health.SetServing(serving); }

void Server::Shutdown(absl::Duration grace) {
  impl_->health.Shutdown();
  const absl::Duration bounded = std::clamp(grace, absl::ZeroDuration(), kGraceMax);
  impl_->server->Shutdown(absl::ToChronoTime(absl::Now() + bounded));
  impl_->server->Wait();  // for the caller who comes while another shuts down
}

}  // namespace allezon::rpc
