// SPDX-License-Identifier: Apache-2.0
//
// Who holds what: the instances of one service and the replica sets of its shards.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "router/shard.h"

namespace allezon::router {

enum class ReplicaState : uint8_t {
  kInitializing,  // takes writes, does not count for the quorum, answers no reads
  kAvailable,
  kLeaving,  // still holds everything, is to be replaced
};

struct Instance {
  std::string id;       // a short name, unique in the service
  std::string address;  // host:port of its gRPC server
  std::string zone;     // replicas of a shard avoid sharing a zone; empty: a zone of its own

  friend bool operator==(const Instance&, const Instance&) = default;
};

// A replica of a shard; `instance` is an index into Placement::instances.
struct Replica {
  uint32_t instance = 0;
  ReplicaState state = ReplicaState::kAvailable;

  friend bool operator==(const Replica&, const Replica&) = default;
};

// An immutable snapshot. Two processes with the same version agree on everything in it.
struct Placement {
  uint64_t version = 0;
  uint32_t replication_factor = 1;
  uint32_t write_quorum = 1;        // replicas that must have a tag before it is acknowledged
  std::vector<Instance> instances;  // sorted by id
  std::vector<std::vector<Replica>> replicas;  // by shard, the one that is read first at the front

  // Answers of a read that see whatever any write quorum has.
  uint32_t read_quorum() const { return replication_factor - write_quorum + 1; }
  uint32_t shards() const { return static_cast<uint32_t>(replicas.size()); }
  // Index into `instances`, or -1.
  int IndexOf(std::string_view id) const;
};

// "p0=127.0.0.1:7001,p1=127.0.0.1:7002/zone-b": id=host:port, a zone after a slash.
// kInvalidArgument names the part at fault; ids and addresses must not repeat.
absl::StatusOr<std::vector<Instance>> ParseInstances(std::string_view list);

// Consistent hashing with bounded loads: for each shard every instance has a weight (a hash of
// both), and the shard goes to the heaviest `replication_factor` instances, zones apart, that are
// not yet at the bound of kLoadSlack times the mean. A pure function: the same on every machine, in
// whatever order the instances are given. Adding or removing one of n moves about 1/n of the
// replicas. The version is a hash of the arguments. `write_quorum` 0: a majority of the replicas.
// kInvalidArgument where there are fewer instances than replicas, or fewer replicas than the
// quorum.
inline constexpr double kLoadSlack = 1.1;
absl::StatusOr<Placement> MakePlacement(std::vector<Instance> instances, uint32_t shards,
                                        uint32_t replication_factor, uint32_t write_quorum = 0);

}  // namespace allezon::router
