// SPDX-License-Identifier: Apache-2.0
#include "replica/node.h"

#include <grpcpp/impl/service_type.h>

#include <algorithm>
#include <cstdio>
#include <optional>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "replica/committer.h"
#include "replica/memory.h"
#include "replica/replica_service.h"
#include "replica/replicator.h"
#include "replica/scrubber.h"
#include "replica/store.h"
#include "replica/store_metrics.h"
#include "rpc/flags.h"
#include "rpc/grpc_cpus.h"
#include "rpc/limits.h"
#include "rpc/log.h"
#include "rpc/memory.h"
#include "rpc/metrics.h"
#include "rpc/process.h"
#include "rpc/server.h"
#include "rpc/signals.h"
#include "rpc/version.h"

ABSL_FLAG(std::string, id, "", "this instance's id, one of --instances");
ABSL_FLAG(std::string, cluster, std::string(allezon::router::kClusterDefault),
          "name of the cluster, the same for all that belongs to it");
ABSL_FLAG(std::string, listen, "", "host:port for gRPC; empty: the address that --instances gives");
ABSL_FLAG(std::string, metrics, "127.0.0.1:0", "host:port that serves GET /metrics; port 0: any");
ABSL_FLAG(std::string, data, "", "the data folder; made if it does not exist");
ABSL_FLAG(std::string, instances, "",
          "all instances of this service, the same everywhere: id=host:port[/zone],…");
ABSL_FLAG(uint32_t, shards, allezon::router::kShardsDefault,
          "number of shards; fixed once a cluster has data, the same everywhere");
ABSL_FLAG(uint32_t, rf, 3, "replicas of each shard; the same everywhere");
ABSL_FLAG(uint32_t, write_quorum, 0,
          "replicas that must have a tag before it is acknowledged, the same everywhere; 0: a "
          "majority of --rf");
ABSL_FLAG(std::string, wal, "sync",
          "sync: a tag is acknowledged once the disk has it; async: once the kernel has it, so "
          "that a power cut may lose "
          "the last moments");
ABSL_FLAG(bool, accept_data_loss, false,
          "what a damaged data folder lost, and no other replica has, is given up; a start that "
          "needs it says so, and later ones must not have it");
ABSL_FLAG(uint32_t, scrub_s, 86'400,
          "seconds in which all that is stored is read once and compared with its checksums; 0: "
          "never");
ABSL_FLAG(uint32_t, retention_s, 86'400,
          "seconds of tag time that are kept, and that a tag stays after it was accepted");
ABSL_FLAG(uint32_t, future_max_s, 86'400,
          "tags further ahead of the clock are refused, in seconds");
ABSL_FLAG(uint32_t, block_cache_mib, 0,
          "MiB for RocksDB's blocks, filters, indexes and memtables; 0: a part of --memory_mib");
ABSL_FLAG(uint32_t, disk_reserve_mib, 256,
          "events are refused while less is free on the disk, which leaves it to retention and "
          "compaction");
ABSL_FLAG(uint32_t, write_buffer_mib, 0,
          "MiB for each memtable of RocksDB; 0: a part of --memory_mib");
ABSL_FLAG(std::string, log_level, "info", "debug, info, warn or error");

namespace allezon::replica {
namespace {

// How long a shutdown waits for calls under way.
constexpr absl::Duration kShutdownGrace = absl::Seconds(5);
constexpr absl::Duration kWatchPeriod = absl::Seconds(1);
// Between the starts of a process that started anew and could not serve.
constexpr absl::Duration kStartPause = absl::Seconds(5);

int Fail(std::string_view what, const absl::Status& status) {
  const std::string message(status.message());
  rpc::LogError("start failed", {{"step", what}, {"detail", message}});
  std::fprintf(stderr, "error: %s\n", message.c_str());
  return 1;
}

// What kept a process from serving at its start: the program's exit code; none where it is to start
// anew. A process that has done so for its disk may meet the same once more, or have no descriptors
// left; nobody need start it by hand for that.
std::optional<int> CannotServe(std::string_view step, const absl::Status& status) {
  if (!rpc::WasStartedAnew() || !absl::IsUnavailable(status)) return Fail(step, status);
  rpc::LogWarn("cannot serve yet, starting anew in a moment",
               {{"step", step}, {"detail", std::string(status.message())}});
  return rpc::WaitForTermination(kStartPause) ? std::optional<int>(0) : std::nullopt;
}

absl::StatusOr<router::Placement> PlacementOfFlags() {
  absl::StatusOr<std::vector<router::Instance>> instances =
      router::ParseInstances(absl::GetFlag(FLAGS_instances));
  if (!instances.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--instances: ", instances.status().message()));
  }
  absl::StatusOr<router::Placement> placement =
      router::MakePlacement(*std::move(instances), absl::GetFlag(FLAGS_shards),
                            absl::GetFlag(FLAGS_rf), absl::GetFlag(FLAGS_write_quorum));
  if (!placement.ok()) return placement.status();
  if (placement->IndexOf(absl::GetFlag(FLAGS_id)) < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--id: '", absl::GetFlag(FLAGS_id), "' is not one of --instances"));
  }
  return placement;
}

absl::StatusOr<StoreOptions> StoreOptionsOfFlags(std::string_view service,
                                                 const router::Placement& placement) {
  StoreOptions options;
  options.path = absl::GetFlag(FLAGS_data);
  if (options.path.empty()) return absl::InvalidArgumentError("--data: name a data folder");
  options.cluster = absl::GetFlag(FLAGS_cluster);
  if (absl::Status s = router::CheckClusterName(options.cluster); !s.ok()) return s;
  options.service = std::string(service);
  options.instance = absl::GetFlag(FLAGS_id);
  options.shards = absl::GetFlag(FLAGS_shards);
  options.replication_factor = placement.replication_factor;
  options.write_quorum = placement.write_quorum;
  const std::string wal = absl::GetFlag(FLAGS_wal);
  if (wal != "sync" && wal != "async") {
    return absl::InvalidArgumentError(absl::StrCat("--wal: '", wal, "' is neither sync nor async"));
  }
  options.sync_wal = wal == "sync";
  options.accept_data_loss = absl::GetFlag(FLAGS_accept_data_loss);
  options.disk_reserve_bytes = uint64_t{absl::GetFlag(FLAGS_disk_reserve_mib)} << 20;
  options.retention = absl::Seconds(absl::GetFlag(FLAGS_retention_s));
  return options;
}

// The parts of --memory_mib, where no flag of its own says what one of them has.
absl::StatusOr<NodeMemory> MemoryOfFlags(const NodeSpec& spec, const router::Placement& placement) {
  const absl::StatusOr<rpc::MemoryTotal> total = rpc::MemoryTotalOfFlags(kNodeMemoryLeastBytes);
  if (!total.ok()) return total.status();
  rpc::LimitFreedMemory(*total);
  NodeMemory memory =
      SplitNodeMemory(total->bytes, spec.has_segments, placement.instances.size() - 1);
  if (const uint32_t mib = absl::GetFlag(FLAGS_block_cache_mib))
    memory.rocksdb = uint64_t{mib} << 20;
  if (const uint32_t mib = absl::GetFlag(FLAGS_write_buffer_mib)) {
    memory.write_buffer = uint64_t{mib} << 20;
    memory.memtables = std::max(memory.memtables, memory.write_buffer);
  }
  if (spec.adjust_memory) spec.adjust_memory(memory);
  if (absl::Status s = rpc::ReportMemory(*total, PartsOf(memory)); !s.ok()) return s;
  return memory;
}

v1::NodeIdentity IdentityOf(const StoreOptions& options, const Store& store) {
  v1::NodeIdentity identity;
  identity.set_cluster(options.cluster);
  identity.set_service(options.service);
  identity.set_instance(options.instance);
  identity.set_disk(store.store_id());
  identity.set_incarnation(store.incarnation());
  identity.set_version(std::string(rpc::Version()));
  return identity;
}

// An incarnation is on disk before it is used.
void RaiseIncarnation(uint64_t incarnation, Identities& identities, Store& store,
                      Committer& committer) {
  const auto raise = [=, &identities, &store] {
    absl::Status status = store.RecordIncarnation(incarnation);
    if (status.ok()) identities.Raise(incarnation);
    rpc::LogWarn("peers know of a later process under this id: this new folder goes above it",
                 {{"incarnation", incarnation}, {"detail", status.ToString()}});
  };
  // Where it is refused or fails it is wanted again.
  committer.Run(raise).IgnoreError();
}

NodeContext MakeContext(router::Channels& channels, const Identities& identities,
                        router::Writer& writer, Replicator& replicator, rpc::ByteBudget& calls,
                        rpc::ByteBudget& reads) {
  NodeContext context;
  context.calls = &calls;
  context.reads = &reads;
  context.identities = &identities;
  context.id = absl::GetFlag(FLAGS_id);
  context.channels = &channels;
  context.writer = &writer;
  context.future_max = absl::Seconds(absl::GetFlag(FLAGS_future_max_s));
  const router::Placement& placement = channels.placement();
  context.self = static_cast<uint32_t>(placement.IndexOf(context.id));
  context.holds = replicator.holds();
  context.check_readable = [&replicator](ShardId shard, bool for_quorum) {
    return replicator.CheckReadable(shard, for_quorum);
  };
  return context;
}

// Everything that lives while the node serves; built up and taken down in one order. The program's
// exit code; none where it is to start anew.
std::optional<int> Serve(const NodeSpec& spec, router::Placement placement,
                         const StoreOptions& store_options, const NodeMemory& memory) {
  rpc::ByteBudget calls(memory.calls), reads(memory.reads);
  const std::unique_ptr<View> view = spec.make_view(store_options.retention, memory);
  const absl::Time start = absl::Now();
  absl::StatusOr<std::unique_ptr<Store>> store = Store::Open(store_options, *view);
  // Damaged, and marked so: what is left of it is opened by a process that knows.
  if (absl::IsAborted(store.status())) return std::nullopt;
  if (!store.ok()) return CannotServe("open the data folder", store.status());
  std::optional<StoreMetrics> store_metrics(std::in_place, **store);
  rpc::LogInfo("data folder open", {{"path", store_options.path},
                                    {"store_id", (*store)->store_id()},
                                    {"events", (*store)->EventCount()},
                                    {"seconds", absl::ToDoubleSeconds(absl::Now() - start)}});
  CommitterOptions committer_options;
  committer_options.gathering.large_events = router::LargeEvents(placement.replication_factor);
  Committer committer(**store, committer_options, [&] { view->Tick((*store)->agreed_now()); });

  router::Channels channels(std::move(placement), spec.service, store_options.cluster);
  std::vector<std::string> ids;
  for (const router::Instance& instance : channels.placement().instances)
    ids.push_back(instance.id);
  Identities identities(IdentityOf(store_options, **store), (*store)->previous_incarnation(),
                        std::move(ids));
  std::unique_ptr<router::Writer> writer =
      router::MakeWriter(spec.service, channels, router::LaneOptionsFor(channels.placement()));
  const auto self = static_cast<uint32_t>(channels.placement().IndexOf(absl::GetFlag(FLAGS_id)));
  Replicator replicator(channels, self, identities, **store, committer, store_options.retention,
                        memory.owed_a_peer);
  const NodeContext context = MakeContext(channels, identities, *writer, replicator, calls, reads);
  ReplicaServiceImpl replica_service(context, identities, replicator, **store);
  const std::vector<std::unique_ptr<grpc::Service>> services = spec.make_services(*view, context);

  rpc::ServerOptions server_options;
  server_options.listen = absl::GetFlag(FLAGS_listen);
  if (server_options.listen.empty()) {
    server_options.listen = context.placement().instances[context.self].address;
  }
  server_options.services.push_back(&replica_service);
  for (const auto& service : services) server_options.services.push_back(service.get());
  server_options.grpc_bytes_max = memory.grpc;
  server_options.health_names = spec.health_names;
  server_options.health_names.emplace_back("allezon.v1.ReplicaService");
  absl::StatusOr<std::unique_ptr<rpc::Server>> server = rpc::Server::Start(server_options);
  if (!server.ok()) return CannotServe("listen", server.status());
  absl::StatusOr<std::unique_ptr<rpc::MetricsServer>> metrics =
      rpc::MetricsServer::Start(absl::GetFlag(FLAGS_metrics));
  if (!metrics.ok()) return CannotServe("serve metrics", metrics.status());

  rpc::LogInfo("listening",
               {{"grpc_port", (*server)->port()}, {"metrics_port", (*metrics)->port()}});
  replicator.Start([&](bool serving) {
    (*server)->SetServing(serving);
    rpc::LogInfo(serving ? "serving" : "not serving until compared with the other replicas");
  });
  std::optional<Scrubber> scrubber(std::in_place, **store,
                                   absl::Seconds(absl::GetFlag(FLAGS_scrub_s)));
  std::optional<int> signal;
  absl::Status replaced;
  while (!signal && replaced.ok() && !(*store)->NeedsReopen() && (*store)->damage().empty()) {
    signal = rpc::WaitForTermination(kWatchPeriod);
    replaced = identities.MustEnd();
    if (const std::optional<uint64_t> incarnation = identities.WantedIncarnation()) {
      RaiseIncarnation(*incarnation, identities, **store, committer);
    }
  }
  if (signal) {
    rpc::LogInfo("shutting down", {{"signal", *signal}});
  } else if (!replaced.ok()) {
    const std::string why(replaced.message());
    rpc::LogError("this process must end", {{"detail", why}});
    std::fprintf(stderr, "error: %s\n", why.c_str());
  } else if (const std::string damage = (*store)->damage(); !damage.empty()) {
    rpc::LogError("starting anew, since the data folder is damaged", {{"detail", damage}});
  } else {
    rpc::LogWarn("starting anew, since a write failed and the disk has room again");
  }
  scrubber.reset();
  (*server)->Shutdown(kShutdownGrace);
  replicator.Stop();
  writer.reset();
  committer.Stop();
  store_metrics.reset();
  (*store)->Close();
  rpc::LogInfo("stopped");
  if (signal) return 0;
  return replaced.ok() ? std::nullopt : std::optional<int>(1);
}

}  // namespace

int RunNode(int argc, char** argv, const NodeSpec& spec) {
  rpc::PrepareProcess();
  rpc::ParseFlags(argc, argv, spec.summary);
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  const std::string process = absl::StrCat(
      absl::string_view(spec.service.data(), spec.service.size()), "/", absl::GetFlag(FLAGS_id));
  if (!rpc::InitLog(absl::GetFlag(FLAGS_log_level), process)) {
    return Fail("flags", absl::InvalidArgumentError(
                             absl::StrCat("--log_level: '", absl::GetFlag(FLAGS_log_level),
                                          "' is not one of debug, info, warn, error")));
  }
  absl::StatusOr<router::Placement> placement = PlacementOfFlags();
  if (!placement.ok()) return Fail("flags", placement.status());
  absl::StatusOr<StoreOptions> store_options = StoreOptionsOfFlags(spec.service, *placement);
  if (!store_options.ok()) return Fail("flags", store_options.status());
  const absl::StatusOr<NodeMemory> memory = MemoryOfFlags(spec, *placement);
  if (!memory.ok()) return Fail("flags", memory.status());
  store_options->block_cache_bytes = memory->rocksdb;
  store_options->memtables_bytes = memory->memtables;
  store_options->digests_bytes = memory->digests;
  store_options->write_buffer_bytes = memory->write_buffer;
  rpc::LogInfo("processors", {{"usable", rpc::GrpcCpus()}});
  rpc::LogInfo("descriptors", {{"limit", rpc::RaiseDescriptorLimit()}});
  const std::optional<int> code = Serve(spec, *std::move(placement), *store_options, *memory);
  return code ? *code : Fail("start anew", rpc::StartAnew(argv));
}

}  // namespace allezon::replica
