// SPDX-License-Identifier: Apache-2.0
//
// allezon-gateway: the HTTP face of the platform.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <thread>

#include "absl/flags/flag.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "gateway/api.h"
#include "gateway/http_server.h"
#include "gateway/memory.h"
#include "router/channels.h"
#include "router/placement.h"
#include "router/readers.h"
#include "router/writer.h"
#include "rpc/flags.h"
#include "rpc/grpc_cpus.h"
#include "rpc/limits.h"
#include "rpc/log.h"
#include "rpc/memory.h"
#include "rpc/process.h"
#include "rpc/signals.h"

ABSL_FLAG(std::string, listen, "127.0.0.1:8080", "host:port of the HTTP server");
ABSL_FLAG(std::string, id, "g0", "name of this process in its logs");
ABSL_FLAG(std::string, cluster, std::string(allezon::router::kClusterDefault),
          "name of the cluster, the same for all that belongs to it");
ABSL_FLAG(std::string, profiles, "", "instances of the profile service: p0=host:port,p1=…");
ABSL_FLAG(std::string, aggregates, "", "instances of the aggregate service: a0=host:port,a1=…");
ABSL_FLAG(uint32_t, shards, allezon::router::kShardsDefault,
          "shards of the cluster; fixed when it is made, the same everywhere");
ABSL_FLAG(uint32_t, rf, 3, "replicas of each shard; the same everywhere");
ABSL_FLAG(
    uint32_t, write_quorum, 0,
    "replicas that must have a tag before it is acknowledged; 0: a majority of --rf; the same "
    "everywhere");
ABSL_FLAG(std::string, log_level, "info", "debug, info, warn or error");
ABSL_FLAG(uint32_t, tag_deadline_ms, 5000, "a tag that is not stored by then is answered with 504");
ABSL_FLAG(uint32_t, batch_deadline_ms, 30'000,
          "a batch that is not stored by then is answered with 504");
ABSL_FLAG(uint32_t, query_deadline_ms, 10'000,
          "a query that is not answered by then is answered with 504");
ABSL_FLAG(uint32_t, future_max_s, 24 * 3600,
          "tags further ahead of the clock than this are refused");
ABSL_FLAG(uint32_t, connections_max, 0,
          "HTTP connections at a time; 0: as many as a part of --memory_mib allows, 1024 at most");
ABSL_FLAG(uint32_t, body_mib_max, 0,
          "MiB of large bodies at a time; 0: as many as a part of --memory_mib allows");
ABSL_FLAG(uint32_t, idle_timeout_ms, 75'000, "a connection that is idle for so long is closed");
ABSL_FLAG(uint32_t, request_timeout_ms, 30'000, "a request must have arrived by then");
ABSL_FLAG(uint32_t, drain_delay_ms, 0,
          "after SIGTERM, how long to go on accepting while /readyz says 503");
ABSL_FLAG(uint32_t, drain_grace_ms, 10'000,
          "after SIGTERM and --drain_delay_ms, how long requests may take to end");

namespace allezon::gateway {
namespace {

using std::chrono::milliseconds;

absl::StatusOr<router::Placement> PlacementOf(const std::string& flag, const std::string& list) {
  if (list.empty()) return absl::InvalidArgumentError("--" + flag + " must be given");
  absl::StatusOr<std::vector<router::Instance>> instances = router::ParseInstances(list);
  if (!instances.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", instances.status().message()));
  }
  absl::StatusOr<router::Placement> placement =
      router::MakePlacement(*std::move(instances), absl::GetFlag(FLAGS_shards),
                            absl::GetFlag(FLAGS_rf), absl::GetFlag(FLAGS_write_quorum));
  if (!placement.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", flag, ", --rf, --write_quorum: ", placement.status().message()));
  }
  return placement;
}

// The parts of --memory_mib, where no flag of its own says what one of them has.
absl::StatusOr<GatewayMemory> MemoryOfFlags() {
  const absl::StatusOr<rpc::MemoryTotal> total = rpc::MemoryTotalOfFlags(kGatewayMemoryLeastBytes);
  if (!total.ok()) return total.status();
  rpc::LimitFreedMemory(*total);
  GatewayMemory memory = SplitGatewayMemory(total->bytes);
  if (const uint32_t connections = absl::GetFlag(FLAGS_connections_max)) {
    memory.connections_max = connections;
  }
  if (const uint32_t mib = absl::GetFlag(FLAGS_body_mib_max)) memory.bodies = uint64_t{mib} << 20;
  if (absl::Status s = rpc::ReportMemory(*total, PartsOf(memory)); !s.ok()) return s;
  return memory;
}

ApiOptions ApiOptionsOf(const GatewayMemory& memory) {
  ApiOptions options;
  options.compared_bytes_max = memory.compared;
  // The other half is for tags, whatever queries wait for.
  options.queries_max = std::max<size_t>(memory.connections_max / 2, 1);
  options.intake.shards = absl::GetFlag(FLAGS_shards);
  options.intake.future_max = absl::Seconds(absl::GetFlag(FLAGS_future_max_s));
  options.intake.tag_timeout = absl::Milliseconds(absl::GetFlag(FLAGS_tag_deadline_ms));
  options.intake.batch_timeout = absl::Milliseconds(absl::GetFlag(FLAGS_batch_deadline_ms));
  options.query_timeout = absl::Milliseconds(absl::GetFlag(FLAGS_query_deadline_ms));
  return options;
}

HttpServerOptions HttpOptionsOf(const GatewayMemory& memory) {
  HttpServerOptions options;
  options.listen = absl::GetFlag(FLAGS_listen);
  options.connections_max = memory.connections_max;
  options.body_bytes_total_max = memory.bodies;
  options.answer_bytes_total_max = memory.answers;
  options.idle_timeout = milliseconds(absl::GetFlag(FLAGS_idle_timeout_ms));
  options.body_timeout = milliseconds(absl::GetFlag(FLAGS_request_timeout_ms));
  options.head_timeout = std::min(options.head_timeout, options.body_timeout);
  return options;
}

int Fail(const absl::Status& status) {
  rpc::LogError("cannot start", {{"error", std::string(status.message())}});
  return 1;
}

int Run() {
  const std::string cluster = absl::GetFlag(FLAGS_cluster);
  if (absl::Status s = router::CheckClusterName(cluster); !s.ok()) return Fail(s);
  absl::StatusOr<router::Placement> profiles =
      PlacementOf("profiles", absl::GetFlag(FLAGS_profiles));
  if (!profiles.ok()) return Fail(profiles.status());
  absl::StatusOr<router::Placement> aggregates =
      PlacementOf("aggregates", absl::GetFlag(FLAGS_aggregates));
  if (!aggregates.ok()) return Fail(aggregates.status());

  const absl::StatusOr<GatewayMemory> memory = MemoryOfFlags();
  if (!memory.ok()) return Fail(memory.status());
  rpc::LogInfo("processors", {{"usable", rpc::GrpcCpus()}});
  rpc::LogInfo("descriptors", {{"limit", rpc::RaiseDescriptorLimit()}});

  router::Channels profile_channels(*std::move(profiles), "profile", cluster);
  router::Channels aggregate_channels(*std::move(aggregates), "aggregate", cluster);
  const auto profile_writer = router::MakeWriter(
      "profile", profile_channels, router::LaneOptionsFor(profile_channels.placement()));
  const auto aggregate_writer = router::MakeWriter(
      "aggregate", aggregate_channels, router::LaneOptionsFor(aggregate_channels.placement()));
  const auto profile_reader = router::MakeProfileReader(profile_channels);
  const auto aggregate_reader = router::MakeAggregateReader(aggregate_channels);
  const Backends backends{
      *profile_writer, *aggregate_writer, *profile_reader, *aggregate_reader,
      [&](absl::Time deadline) {
        return router::CheckReady({&profile_channels, &aggregate_channels}, deadline);
      }};
  Api api(backends, ApiOptionsOf(*memory));
  absl::StatusOr<std::unique_ptr<HttpServer>> server =
      HttpServer::Start(api, HttpOptionsOf(*memory));
  if (!server.ok()) return Fail(server.status());
  rpc::LogInfo("serving", {{"listen", absl::GetFlag(FLAGS_listen)}, {"port", (*server)->port()}});

  const int signal = rpc::WaitForTermination();
  rpc::LogInfo("draining", {{"signal", signal}});
  api.SetDraining();
  (*server)->Drain();
  std::this_thread::sleep_for(milliseconds(absl::GetFlag(FLAGS_drain_delay_ms)));
  (*server)->Stop(milliseconds(absl::GetFlag(FLAGS_drain_grace_ms)));
  rpc::LogInfo("stopped");
  return 0;
}

}  // namespace
}  // namespace allezon::gateway

int main(int argc, char** argv) {
  allezon::rpc::PrepareProcess();
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  allezon::rpc::ParseFlags(argc, argv,
                           "allezon-gateway takes user tags and queries over HTTP and JSON.");
  if (!allezon::rpc::InitLog(absl::GetFlag(FLAGS_log_level), absl::GetFlag(FLAGS_id))) {
    std::fprintf(stderr, "allezon-gateway: --log_level is debug, info, warn or error\n");
    return 2;
  }
  return allezon::gateway::Run();
}
