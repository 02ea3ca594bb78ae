// SPDX-License-Identifier: Apache-2.0
#include "router/placement.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace allezon::router {
namespace {

// The weight of an instance for a shard; a function of names only, so that every machine agrees.
uint64_t Weight(ShardId shard, std::string_view instance_id) {
  const std::string text =
      absl::StrCat(shard, "/", absl::string_view(instance_id.data(), instance_id.size()));
  return XXH3_64bits(text.data(), text.size());
}

uint64_t VersionOf(const Placement& placement) {
  std::string text = absl::StrCat("2|", placement.shards(), "|", placement.replication_factor, "|",
                                  placement.write_quorum);
  for (const Instance& instance : placement.instances) {
    absl::StrAppend(&text, "|", instance.id, "=", instance.address, "/", instance.zone);
  }
  return XXH3_64bits(text.data(), text.size());
}

bool IsNameCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '_' || c == '.';
}

bool IsName(std::string_view text) {
  return !text.empty() && text.size() <= 64 &&
         std::all_of(text.begin(), text.end(), IsNameCharacter);
}

absl::StatusOr<Instance> ParseInstance(absl::string_view part) {
  const auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("'", part, "' ", why));
  };
  const std::vector<std::string> sides = absl::StrSplit(part, absl::MaxSplits('=', 1));
  if (sides.size() != 2) return refuse("is not id=host:port[/zone]");
  Instance instance;
  instance.id = sides[0];
  if (!IsName(instance.id))
    return refuse("has an id that is not 1 to 64 letters, digits, '-', '_' or '.'");
  const std::vector<std::string> place = absl::StrSplit(sides[1], absl::MaxSplits('/', 1));
  instance.address = place[0];
  if (place.size() == 2) {
    instance.zone = place[1];
    if (!IsName(instance.zone)) return refuse("has a zone that is no name");
  }
  const size_t colon = instance.address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(instance.address.substr(colon + 1), &port) || port < 1 || port > 65535) {
    return refuse("has no address of the form host:port");
  }
  return instance;
}

// Picks the replicas of one shard: the heaviest instances that are under the bound, zones apart;
// where that leaves too few, first the zones give way, then the bound.
std::vector<Replica> Pick(ShardId shard, const std::vector<Instance>& instances, uint32_t rf,
                          size_t bound, std::vector<size_t>& loads) {
  std::vector<std::pair<uint64_t, uint32_t>> ranked;
  ranked.reserve(instances.size());
  for (uint32_t i = 0; i < instances.size(); ++i) {
    ranked.emplace_back(Weight(shard, instances[i].id), i);
  }
  std::sort(ranked.rbegin(), ranked.rend());
  std::vector<Replica> picked;
  std::vector<bool> taken(instances.size());
  std::set<std::string> zones;
  const auto pass = [&](bool heed_zones, bool heed_bound) {
    for (const auto& [weight, i] : ranked) {
      if (picked.size() == rf) return;
      if (taken[i] || (heed_bound && loads[i] >= bound)) continue;
      const std::string& zone = instances[i].zone;
      if (heed_zones && !zone.empty() && zones.contains(zone)) continue;
      taken[i] = true;
      zones.insert(zone);
      ++loads[i];
      picked.push_back({i, ReplicaState::kAvailable});
    }
  };
  pass(true, true);
  pass(true, false);  // replicas apart matter more than an even load
  pass(false, true);
  pass(false, false);
  return picked;
}

}  // namespace

int Placement::IndexOf(std::string_view id) const {
  for (size_t i = 0; i < instances.size(); ++i) {
    if (instances[i].id == id) return static_cast<int>(i);
  }
  return -1;
}

absl::StatusOr<std::vector<Instance>> ParseInstances(std::string_view list) {
  std::vector<Instance> instances;
  std::set<std::string> ids;
  std::set<std::string> addresses;
  for (const absl::string_view part :
       absl::StrSplit(absl::string_view(list.data(), list.size()), ',')) {
    absl::StatusOr<Instance> instance = ParseInstance(part);
    if (!instance.ok()) return instance.status();
    if (!ids.insert(instance->id).second) {
      return absl::InvalidArgumentError(absl::StrCat("the id '", instance->id, "' is given twice"));
    }
    if (!addresses.insert(instance->address).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("the address '", instance->address, "' is given twice"));
    }
    instances.push_back(*std::move(instance));
  }
  return instances;
}

absl::StatusOr<Placement> MakePlacement(std::vector<Instance> instances, uint32_t shards,
                                        uint32_t replication_factor, uint32_t write_quorum) {
  if (shards < 1 || shards > kShardsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(shards, " shards: 1 to ", kShardsMax, " are possible"));
  }
  if (replication_factor < 1) {
    return absl::InvalidArgumentError("a replication factor of 0 would store nothing");
  }
  if (instances.size() < replication_factor) {
    return absl::InvalidArgumentError(absl::StrCat("a replication factor of ", replication_factor,
                                                   " needs as many instances; there are ",
                                                   instances.size()));
  }
  if (write_quorum > replication_factor) {
    return absl::InvalidArgumentError(absl::StrCat("a write quorum of ", write_quorum,
                                                   " needs as many replicas; there are ",
                                                   replication_factor));
  }
  std::sort(instances.begin(), instances.end(),
            [](const Instance& a, const Instance& b) { return a.id < b.id; });
  Placement placement;
  placement.replication_factor = replication_factor;
  placement.write_quorum = write_quorum != 0 ? write_quorum : replication_factor / 2 + 1;
  const double mean =
      static_cast<double>(shards) * replication_factor / static_cast<double>(instances.size());
  const auto bound = static_cast<size_t>(std::ceil(mean * kLoadSlack));
  std::vector<size_t> loads(instances.size());
  for (ShardId shard = 0; shard < shards; ++shard) {
    placement.replicas.push_back(Pick(shard, instances, replication_factor, bound, loads));
  }
  placement.instances = std::move(instances);
  placement.version = VersionOf(placement);
  return placement;
}

}  // namespace allezon::router
