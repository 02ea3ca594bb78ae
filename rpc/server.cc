// SPDX-License-Identifier: Apache-2.0
#include "rpc/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/base/call_once.h"
#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "rpc/acceptor.h"
#include "rpc/address.h"
#include "rpc/health.h"
#include "rpc/listener.h"

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

using ExternalAcceptor = grpc::experimental::ExternalConnectionAcceptor;
using Builder = grpc::ServerBuilder::experimental_type;

// For gRPC 0.0.0.0 is all addresses of IPv6 too, where the machine has some; so it stays here.
absl::StatusOr<std::vector<Listener>> ListenOnAll(const std::string& address) {
  const absl::StatusOr<HostPort> parsed = ParseHostPort(address);
  if (parsed.ok() && parsed->host == "0.0.0.0") {
    absl::StatusOr<std::vector<Listener>> both = Listen(absl::StrCat("[::]:", parsed->port));
    if (both.ok()) return both;
  }
  return Listen(address);
}

void Take(int fd, ExternalAcceptor& grpc_acceptor) {
  // As on the sockets of gRPC's own listener with a keepalive: what was sent and is not confirmed
  // for so long ends the connection.
  const int timeout_ms = kServerPingTimeout_ms;
  setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
  ExternalAcceptor::NewConnectionParameters connection;
  connection.fd = fd;
  grpc_acceptor.HandleNewConnection(&connection);
}

}  // namespace

struct Server::Impl {
  explicit Impl(const std::vector<std::string>& health_names) : health(health_names) {}

  HealthService health;  // before the server, which calls it to its end
  std::unique_ptr<ExternalAcceptor> grpc_acceptor;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<Acceptor> acceptor;
  absl::once_flag closed;  // the port
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options) {
  absl::StatusOr<std::vector<Listener>> listeners = ListenOnAll(options.listen);
  if (!listeners.ok()) return listeners.status();
  // Idempotent; it takes effect on builders made from now on.
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();

  auto impl = std::make_unique<Impl>(options.health_names);
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             kClientPingMin_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kServerPing_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kServerPingTimeout_ms);
  builder.SetMaxReceiveMessageSize(options.message_bytes_max);
  builder.SetMaxSendMessageSize(options.message_bytes_max);
  // Of a compressed message gRPC checks the size before it unpacks it, and not after.
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  if (options.grpc_bytes_max > 0) {
    grpc::ResourceQuota quota("server");
    quota.Resize(options.grpc_bytes_max);
    builder.SetResourceQuota(quota);
  }
  impl->grpc_acceptor = builder.experimental().AddExternalConnectionAcceptor(
      Builder::ExternalConnectionType::FROM_FD, grpc::InsecureServerCredentials());
  for (grpc::Service* service : options.services) builder.RegisterService(service);
  builder.RegisterService(&impl->health);
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr) {
    return absl::UnavailableError(absl::StrCat("cannot serve on ", options.listen));
  }
  Acceptor::Options accepting;
  accepting.name = "grpc";
  accepting.take = [&grpc_acceptor = *impl->grpc_acceptor](int fd) { Take(fd, grpc_acceptor); };
  absl::StatusOr<std::unique_ptr<Acceptor>> acceptor =
      Acceptor::Start(*std::move(listeners), std::move(accepting));
  if (!acceptor.ok()) return acceptor.status();
  impl->acceptor = *std::move(acceptor);
  return absl::WrapUnique(new Server(std::move(impl)));
}

Server::~Server() { Shutdown(absl::ZeroDuration()); }

int Server::port() const { return impl_->acceptor->port(); }

void Server::SetServing(bool serving) { impl_->health.SetServing(serving); }

void Server::Shutdown(absl::Duration grace) {
  impl_->health.Shutdown();
  // First: what a server gets that has shut down it neither serves nor closes.
  absl::call_once(impl_->closed, [this] { impl_->acceptor->Stop(); });
  const absl::Duration bounded = std::clamp(grace, absl::ZeroDuration(), kGraceMax);
  impl_->server->Shutdown(absl::ToChronoTime(absl::Now() + bounded));
  impl_->server->Wait();  // for the caller who comes while another shuts down
}

}  // namespace allezon::rpc
