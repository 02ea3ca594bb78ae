// SPDX-License-Identifier: Apache-2.0
#include "router/channels.h"

#include <arpa/inet.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "allezon/v1/replica.grpc.pb.h"
#include "rpc/address.h"
#include "rpc/callback_threads.h"
#include "rpc/metrics.h"
#include "rpc/status.h"
#include "rpc/version.h"

namespace allezon::router {
namespace {

constexpr int kMessageBytesMax = 16 << 20;
// A node that comes back is found this soon.
constexpr int kReconnectBackoffMinMs = 50;
constexpr int kReconnectBackoffMaxMs = 1000;
// A connection that takes longer to make is given up: a busy machine needs more than a round trip.
constexpr int kConnectTimeoutMs = 500;
// A silent peer is noticed this soon; servers of allezon permit pings this often.
constexpr int kKeepaliveTimeMs = 10'000;
constexpr int kKeepaliveTimeoutMs = 3'000;

std::shared_ptr<grpc::Channel> Connect(const Instance& instance) {
  grpc::ChannelArguments arguments;
  // Channels with equal arguments share a connection; each instance's is its own.
  arguments.SetString("allezon.instance", instance.id);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // What http_proxy in the environment says is for the world outside.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectBackoffMinMs);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectTimeoutMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectBackoffMaxMs);
  arguments.SetInt(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS,
                   static_cast<int>(absl::ToInt64Milliseconds(kResolvePeriod)));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTimeMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Retries are this router's business, which knows what is safe and where else to go.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  // Each optional filter costs every call some microseconds; deadlines are the one that is wanted.
  arguments.SetInt(GRPC_ARG_MINIMAL_STACK, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_DEADLINE_CHECKS, 1);
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  arguments.SetMaxSendMessageSize(kMessageBytesMax);
  return grpc::CreateCustomChannel(instance.address, grpc::InsecureChannelCredentials(), arguments);
}

bool IsNumeric(const std::string& address) {
  const absl::StatusOr<rpc::HostPort> parsed = rpc::ParseHostPort(address);
  in6_addr ignored;
  return parsed.ok() && (inet_pton(AF_INET, parsed->host.c_str(), &ignored) == 1 ||
                         inet_pton(AF_INET6, parsed->host.c_str(), &ignored) == 1);
}

// What the probes of one check found; it outlives the check where a probe does.
struct Probes {
  size_t ShardsUncovered(const Placement& placement) const ABSL_SHARED_LOCKS_REQUIRED(mutex) {
    return static_cast<size_t>(std::count_if(
        placement.replicas.begin(), placement.replicas.end(),
        [this](const std::vector<Replica>& replicas) ABSL_SHARED_LOCKS_REQUIRED(mutex) {
          return std::none_of(replicas.begin(), replicas.end(),
                              [this](const Replica& replica) ABSL_SHARED_LOCKS_REQUIRED(mutex) {
                                return replica.state != ReplicaState::kInitializing &&
                                       IsReady(replica.instance);
                              });
        }));
  }

  bool IsReady(size_t instance) const ABSL_SHARED_LOCKS_REQUIRED(mutex) {
    return serving[instance] && meant[instance];
  }

  absl::Mutex mutex;
  std::vector<bool> serving ABSL_GUARDED_BY(mutex);  // says SERVING
  std::vector<bool> meant ABSL_GUARDED_BY(mutex);    // is who is meant, by the same placement
  std::vector<std::string> refusals ABSL_GUARDED_BY(mutex);  // why it is not; empty: not known
  size_t left ABSL_GUARDED_BY(mutex) = 0;
};

struct Probe {
  grpc::ClientContext context;
  grpc::ByteBuffer request;
  grpc::ByteBuffer response;
};

// Asks the health service; `done` is called once, from any thread.
void StartProbe(const std::shared_ptr<grpc::Channel>& channel, absl::Time deadline,
                std::function<void(const grpc::Status&, const grpc::ByteBuffer&)> done) {
  auto probe = std::make_shared<Probe>();
  probe->context.set_deadline(absl::ToChronoTime(deadline));
  const grpc::Slice empty;
  probe->request = grpc::ByteBuffer(&empty, 1);
  grpc::GenericStub stub(channel);
  stub.UnaryCall(
      &probe->context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &probe->request,
      &probe->response,
      [probe, done = std::move(done)](const grpc::Status& s) { done(s, probe->response); });
}

// Asks whether it is who is meant, and goes by this placement; `done` is called once, from any
// thread, with kFailedPrecondition where not. A call that does nothing serves: who refuses it would
// refuse all.
void StartIdentify(const std::shared_ptr<grpc::Channel>& channel, const v1::NodeIdentity& to,
                   uint64_t placement_version, absl::Time deadline,
                   std::function<void(const absl::Status&)> done) {
  struct Call {
    grpc::ClientContext context;
    v1::SyncNowRequest request;
    v1::SyncNowResponse response;
  };
  const auto call = std::make_shared<Call>();
  call->context.set_deadline(absl::ToChronoTime(deadline));
  *call->request.mutable_to() = to;
  call->request.set_placement_version(placement_version);
  const auto stub = v1::ReplicaService::NewStub(channel);
  stub->async()->SyncNow(&call->context, &call->request, &call->response,
                         [call, done = std::move(done)](const grpc::Status& status) {
                           done(status.ok() ? CheckAnswerBy(call->response.by(), call->request.to())
                                            : rpc::FromGrpc(status));
                         });
}

// HealthCheckResponse { ServingStatus status = 1; } with SERVING = 1. The service's messages come
// in no Debian library.
bool SaysServing(const grpc::ByteBuffer& response) {
  std::vector<grpc::Slice> slices;
  if (!response.Dump(&slices).ok()) return false;
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes == std::string("\x08\x01", 2);
}

}  // namespace

struct Channels::Impl {
  // Probes the instances whose circuits are open, and looks for those that have moved, until Stop.
  void Watch() {
    absl::Time next_resolve = absl::Now() + kResolvePeriod;
    while (!AwaitStop(kProbeInterval)) {
      if (absl::Now() >= next_resolve) {
        next_resolve = absl::Now() + kResolvePeriod;
        ResolveAnew();
      }
      const absl::Time deadline = absl::Now() + kProbeTimeout;
      for (size_t i = 0; i < circuits.size(); ++i) {
        if (circuits[i]->is_open()) ProbeOne(i, deadline);
      }
      absl::MutexLock lock(&mutex);
      mutex.Await(absl::Condition(
          +[](int* n) { return *n == 0; }, &probing));
    }
  }
  // gRPC by itself asks less and less often for a name that does not resolve, up to every two
  // minutes, and nothing but a new channel has it ask at once.
  void ResolveAnew() {
    for (size_t i = 0; i < instances.size(); ++i) {
      if (!instances[i].has_name) continue;
      const std::shared_ptr<grpc::Channel> channel = ChannelOf(i);
      if (channel->GetState(/*try_to_connect=*/false) != GRPC_CHANNEL_TRANSIENT_FAILURE) continue;
      std::shared_ptr<grpc::Channel> made = Connect(placement.instances[i]);
      absl::MutexLock lock(&mutex);
      channels[i] = std::move(made);
      instances[i].generation.fetch_add(1, std::memory_order_release);
    }
  }
  std::shared_ptr<grpc::Channel> ChannelOf(size_t i) {
    absl::MutexLock lock(&mutex);
    return channels[i];
  }
  void ProbeOne(size_t i, absl::Time deadline) {
    {
      absl::MutexLock lock(&mutex);
      ++probing;
    }
    StartProbe(ChannelOf(i), deadline,
               [this, i](const grpc::Status& status, const grpc::ByteBuffer&) {
                 // Whatever it says of itself, it is there.
                 if (!rpc::IsTransportFailure(status)) circuits[i]->Answered();
                 absl::MutexLock lock(&mutex);
                 --probing;
               });
  }
  bool AwaitStop(absl::Duration timeout) {
    absl::MutexLock lock(&mutex);
    return mutex.AwaitWithTimeout(absl::Condition(&stopping), timeout);
  }
  void Stop() {
    {
      absl::MutexLock lock(&mutex);
      stopping = true;
    }
    if (prober.joinable()) prober.join();
  }

  struct Named {
    bool has_name = false;  // its address is no number, and may lead elsewhere tomorrow
    std::atomic<uint64_t> generation = 0;
  };

  explicit Impl(const Placement& p) : placement(p), instances(p.instances.size()) {}

  const Placement& placement;
  std::string service;
  std::vector<Named> instances;
  std::vector<v1::NodeIdentity> identities;
  std::vector<std::shared_ptr<Circuit>> circuits;
  absl::Mutex mutex;
  std::vector<std::shared_ptr<grpc::Channel>> channels ABSL_GUARDED_BY(mutex);
  bool stopping ABSL_GUARDED_BY(mutex) = false;
  int probing ABSL_GUARDED_BY(mutex) = 0;
  std::thread prober;  // joined by Stop
};

Channels::Channels(Placement placement, std::string_view service, std::string_view cluster)
    : placement_(std::move(placement)), impl_(std::make_unique<Impl>(placement_)) {
  rpc::KeepCallbackThreads();  // abandoned calls outlive this
  impl_->service = service;
  for (size_t i = 0; i < placement_.instances.size(); ++i) {
    const Instance& instance = placement_.instances[i];
    impl_->instances[i].has_name = !IsNumeric(instance.address);
    {
      absl::MutexLock lock(&impl_->mutex);
      impl_->channels.push_back(Connect(instance));
    }
    v1::NodeIdentity& identity = impl_->identities.emplace_back();
    identity.set_cluster(std::string(cluster));
    identity.set_service(impl_->service);
    identity.set_instance(instance.id);
    identity.set_version(std::string(rpc::Version()));
    impl_->circuits.push_back(std::make_shared<Circuit>(
        rpc::MakeGauge("allezon_router_circuit_open",
                       "1 while the instance is the last choice since it gave no sign of life.",
                       {{"service", impl_->service}, {"instance", instance.id}})));
  }
  impl_->prober = std::thread([impl = impl_.get()] { impl->Watch(); });
}

Channels::~Channels() { impl_->Stop(); }

const std::shared_ptr<Circuit>& Channels::CircuitOf(uint32_t instance) const {
  return impl_->circuits[instance];
}

std::shared_ptr<grpc::Channel> Channels::To(uint32_t instance) const {
  return impl_->ChannelOf(instance);
}

uint64_t Channels::GenerationOf(uint32_t instance) const {
  return impl_->instances[instance].generation.load(std::memory_order_acquire);
}

const v1::NodeIdentity& Channels::IdentityOf(uint32_t instance) const {
  return impl_->identities[instance];
}

std::function<absl::Status()> Channels::StartReadyCheck(absl::Time deadline) {
  auto probes = std::make_shared<Probes>();
  const size_t instances = placement_.instances.size();
  {
    absl::MutexLock lock(&probes->mutex);
    probes->serving.resize(instances);
    probes->meant.resize(instances);
    probes->refusals.resize(instances);
    probes->left = 2 * instances;
  }
  for (size_t i = 0; i < instances; ++i) {
    StartProbe(To(static_cast<uint32_t>(i)), deadline,
               [probes, i](const grpc::Status& status, const grpc::ByteBuffer& response) {
                 const bool serving = status.ok() && SaysServing(response);
                 absl::MutexLock lock(&probes->mutex);
                 probes->serving[i] = serving;
                 --probes->left;
               });
    StartIdentify(To(static_cast<uint32_t>(i)), impl_->identities[i], placement_.version, deadline,
                  [probes, i](const absl::Status& status) {
                    absl::MutexLock lock(&probes->mutex);
                    probes->meant[i] = status.ok();
                    if (absl::IsFailedPrecondition(status)) {
                      probes->refusals[i] = std::string(status.message());
                    }
                    --probes->left;
                  });
  }
  return [this, probes = std::move(probes), deadline] {
    const auto done = [&]() ABSL_SHARED_LOCKS_REQUIRED(probes->mutex) {
      return probes->left == 0 || probes->ShardsUncovered(placement_) == 0;
    };
    absl::MutexLock lock(&probes->mutex);
    probes->mutex.AwaitWithDeadline(absl::Condition(&done), deadline);
    const size_t uncovered = probes->ShardsUncovered(placement_);
    if (uncovered == 0) return absl::OkStatus();
    std::string silent;
    for (size_t i = 0; i < probes->serving.size(); ++i) {
      if (probes->IsReady(i)) continue;
      absl::StrAppend(&silent, silent.empty() ? " " : ", ", placement_.instances[i].id);
      const std::string& refusal = probes->refusals[i];
      if (!refusal.empty()) absl::StrAppend(&silent, " (", refusal, ")");
    }
    return absl::UnavailableError(
        absl::StrCat(impl_->service, ": ", uncovered, " of ", placement_.shards(),
                     " shards have no serving replica; not serving:", silent));
  };
}

absl::Status CheckReady(absl::Span<Channels* const> services, absl::Time deadline) {
  std::vector<std::function<absl::Status()>> checks;
  for (Channels* service : services) checks.push_back(service->StartReadyCheck(deadline));
  std::string why;
  for (const auto& check : checks) {
    const absl::Status ready = check();
    if (!ready.ok()) absl::StrAppend(&why, why.empty() ? "" : "; ", ready.message());
  }
  return why.empty() ? absl::OkStatus() : absl::UnavailableError(why);
}

}  // namespace allezon::router
