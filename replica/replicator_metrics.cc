// SPDX-License-Identifier: Apache-2.0
#include "replica/replicator_metrics.h"

#include "rpc/metrics.h"

namespace allezon::replica {
namespace {

struct Meters {
  prometheus::Gauge& pending = rpc::MakeGauge("allezon_replica_quorum_pending_events",
                                              "Events that wait for their write quorum.");
  prometheus::Gauge& owed =
      rpc::MakeGauge("allezon_replica_owed_events", "Events that peers have not taken yet.");
  prometheus::Gauge& owed_bytes = rpc::MakeGauge(
      "allezon_replica_owed_bytes", "Memory of the events that peers have not taken yet.");
  prometheus::Gauge& drops =
      rpc::MakeGauge("allezon_replica_lanes_dropped",
                     "Times since the start that what a peer was owed was left to a sync.");
  prometheus::Gauge& started =
      rpc::MakeGauge("allezon_sync_sessions_started", "Syncs from a peer since the start.");
  prometheus::Gauge& failed =
      rpc::MakeGauge("allezon_sync_sessions_failed", "Syncs that broke off since the start.");
  prometheus::Gauge& events =
      rpc::MakeGauge("allezon_sync_events", "Events pulled from peers since the start.");
  prometheus::Gauge& bytes =
      rpc::MakeGauge("allezon_sync_bytes", "Bytes pulled from peers since the start.");
  prometheus::Gauge& serving =
      rpc::MakeGauge("allezon_replica_shards_serving", "Shards whose reads are answered here.");
  prometheus::Gauge& unjoined = rpc::MakeGauge(
      "allezon_replica_shards_unjoined",
      "Shards whose data this disk has not got back yet; it does not count for quorums of them.");
  prometheus::Gauge& damaged = rpc::MakeGauge(
      "allezon_replica_shards_damaged",
      "Shards of which a damaged disk lost something that is not back from other replicas yet.");
  prometheus::Gauge& staleness =
      rpc::MakeGauge("allezon_replica_staleness_seconds",
                     "Age of what this node surely has, of the shard that is furthest behind.");
};

Meters& TheMeters() {
  static Meters meters;
  return meters;
}

}  // namespace

void SetReplicatorMetrics(const CoreStats& stats) {
  constexpr double kUsPerSecond = 1e6;
  Meters& meters = TheMeters();
  meters.pending.Set(static_cast<double>(stats.events_pending));
  meters.owed.Set(static_cast<double>(stats.owed_events));
  meters.owed_bytes.Set(static_cast<double>(stats.owed_bytes));
  meters.drops.Set(static_cast<double>(stats.lanes_dropped));
  meters.started.Set(static_cast<double>(stats.sessions_started));
  meters.failed.Set(static_cast<double>(stats.sessions_failed));
  meters.events.Set(static_cast<double>(stats.sync_events));
  meters.bytes.Set(static_cast<double>(stats.sync_bytes));
  meters.serving.Set(stats.shards_serving);
  meters.unjoined.Set(stats.shards_unjoined);
  meters.damaged.Set(stats.shards_damaged);
  meters.staleness.Set(static_cast<double>(stats.staleness_us) / kUsPerSecond);
}

}  // namespace allezon::replica
