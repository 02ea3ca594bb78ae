// SPDX-License-Identifier: Apache-2.0
//
// A node's process, the same for both services: flags, store, committer, the inner and outer gRPC
// services, metrics, shutdown. A service's main gives its view and its own gRPC services.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "replica/core/identity.h"
#include "replica/memory.h"
#include "replica/view.h"
#include "router/channels.h"
#include "router/placement.h"
#include "router/writer.h"
#include "rpc/memory.h"

namespace grpc {
class Service;
}

namespace allezon::replica {

// What a service's gRPC handlers may use. Lives as long as they do. Everything in it is
// thread-safe.
struct NodeContext {
  std::string id;                          // this instance's
  uint32_t self = 0;                       // its index in the placement
  const Identities* identities = nullptr;  // who this node is
  std::vector<bool> holds;                 // by shard: whether this instance is one of its replicas
  router::Channels* channels = nullptr;    // of this service; has the placement
  router::Writer* writer = nullptr;        // to the owners of any shard, this node included
  rpc::ByteBudget* calls = nullptr;        // of the events of calls that are not answered
  rpc::ByteBudget* reads = nullptr;        // of reads that wait, and of answers on their way
  absl::Duration future_max;               // tags further ahead of the wall clock are refused
  // OK where this node may answer reads of the shard, `for_quorum`: as one answer of a quorum.
  // kUnavailable says why not. Asked before a read and again after it, since a node that was paused
  // in between may have missed what was acknowledged meanwhile.
  std::function<absl::Status(ShardId shard, bool for_quorum)> check_readable;

  const router::Placement& placement() const { return channels->placement(); }
};

struct NodeSpec {
  std::string_view service;  // "profile" or "aggregate"
  std::string_view summary;  // the first line of --help
  // Whether the view keeps segments in memory, which get a part of it.
  bool has_segments = false;
  // Puts what the service's own flags say in the place of parts; none where it has no such flags.
  std::function<void(NodeMemory& memory)> adjust_memory;
  // Called once flags are parsed. `retention` is that of --retention_s; `memory` the node's parts.
  std::function<std::unique_ptr<View>(absl::Duration retention, const NodeMemory& memory)>
      make_view;
  // The service's own gRPC services, reading from the view that make_view gave.
  std::function<std::vector<std::unique_ptr<grpc::Service>>(View& view, const NodeContext& context)>
      make_services;
  // Names for grpc.health.v1.Health, besides "" and the inner ones.
  std::vector<std::string> health_names;
};

// Runs the process until SIGTERM or SIGINT; returns its exit code. Call from main, before any
// thread is made.
int RunNode(int argc, char** argv, const NodeSpec& spec);

}  // namespace allezon::replica
