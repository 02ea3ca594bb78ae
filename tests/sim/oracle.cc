// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/oracle.h"

#include <algorithm>
#include <bit>
#include <map>

#include "absl/strings/str_cat.h"
#include "tests/sim/node.h"

namespace allezon::sim {

void Totals::Add(const Totals& other) {
  runs += other.runs;
  asked += other.asked;
  acknowledged += other.acknowledged;
  crashes += other.crashes;
  wipes += other.wipes;
  lanes_dropped += other.lanes_dropped;
  sessions += other.sessions;
  synced_events += other.synced_events;
  checks_served += other.checks_served;
  checks_refused += other.checks_refused;
  healed_us += other.healed_us;
  healed_most_us = std::max(healed_most_us, other.healed_most_us);
}

Oracle::Oracle(World& world, const Knobs& knobs, const router::Placement& placement)
    : world_(world),
      knobs_(knobs),
      placement_(placement),
      acknowledged_(knobs.shards),
      held_(static_cast<size_t>(knobs.nodes), std::vector<size_t>(knobs.shards)) {}

void Oracle::Asked(const EventRef& event) {
  tags_.push_back({event});
  ++totals_.asked;
}

void Oracle::Stored(int node, const EventRef& event) {
  const uint32_t index = IndexOf(event);
  const bool asked = index < tags_.size() && tags_[index].event->id == event->id &&
                     tags_[index].event->shard == event->shard &&
                     tags_[index].event->time_ms == event->time_ms &&
                     tags_[index].event->tag == event->tag;
  if (asked) return;
  world_.Violate(absl::StrCat("node ", node, " stores a tag that nobody asked for"), event->shard);
}

void Oracle::Acknowledged(int node, const EventRef& event, const Cluster& cluster) {
  const uint32_t index = IndexOf(event);
  Tag& tag = tags_[index];
  world_.Note("acknowledges", node, -1, event->shard, index);
  uint32_t on = tag.was_on;
  for (const router::Replica& replica : placement_.replicas[event->shard]) {
    const SimDisk& disk = cluster.nodes[replica.instance]->disk();
    if (disk.joined()[event->shard] && disk.store().Has(index)) on |= 1u << replica.instance;
  }
  if (std::popcount(on) < static_cast<int>(knobs_.write_quorum)) {
    world_.Violate(absl::StrCat("node ", node, " acknowledges tag ", index, " of shard ",
                                event->shard, ", which is on ", std::popcount(on),
                                " joined replicas; W is ", knobs_.write_quorum),
                   event->shard, index);
  }
  const uint32_t first = placement_.replicas[event->shard].front().instance;
  if (expect_readable_ && !cluster.nodes[first]->disk().store().Has(index)) {
    world_.Violate(absl::StrCat("node ", node, " acknowledges tag ", index, " of shard ",
                                event->shard, ", which readers do not find at node ", first),
                   event->shard, index);
  }
  if (tag.acknowledged_us >= 0) return;
  tag.acknowledged_us = world_.now();
  acknowledged_[event->shard].push_back(index);
  ++totals_.acknowledged;
}

void Oracle::Restarted(int node) { std::fill(held_[node].begin(), held_[node].end(), 0); }

void Oracle::Wiped(int node, ShardId shard, bool joined, const SimStore& store) {
  Restarted(node);
  if (!joined) return;
  for (const auto& [start, minute] : store.minutes(shard)) {
    for (const auto& [id, event] : minute.events) tags_[IndexOf(event)].was_on |= 1u << node;
  }
}

void Oracle::CheckFresh(int node, ShardId shard, const SimStore& store) {
  ++totals_.checks_served;
  const std::vector<uint32_t>& acknowledged = acknowledged_[shard];
  size_t& held = held_[node][shard];
  while (held < acknowledged.size() && store.Has(acknowledged[held])) ++held;
  if (held == acknowledged.size()) return;
  // Both clocks may be wrong: that which measures the age of what is owed, and that of the node.
  const auto allowed = kMs + static_cast<Time>(static_cast<double>(knobs_.core.staleness_max_us) *
                                               (1 + 2.5 * knobs_.drift));
  const uint32_t missing = acknowledged[held];
  const Time age = world_.now() - tags_[missing].acknowledged_us;
  if (age <= allowed) return;
  world_.Violate(absl::StrCat("node ", node, " serves shard ", shard, " without tag ", missing,
                              ", acknowledged ", age, " us ago; allowed are ", allowed),
                 shard, missing);
}

void Oracle::CheckSettled(const Cluster& cluster) {
  for (ShardId shard = 0; shard < knobs_.shards && !world_.violated(); ++shard) {
    const uint32_t first = placement_.replicas[shard].front().instance;
    const replica::Digest digest = cluster.nodes[first]->disk().store().ShardDigest(shard);
    for (const router::Replica& replica : placement_.replicas[shard]) {
      const auto node = static_cast<int>(replica.instance);
      const SimDisk& disk = cluster.nodes[node]->disk();
      if (!disk.joined()[shard]) {
        world_.Violate(absl::StrCat("node ", node, " never joins shard ", shard), shard);
      }
      if (disk.store().ShardDigest(shard) != digest) {
        world_.Violate(absl::StrCat("nodes ", first, " and ", node, " differ in shard ", shard),
                       shard);
      }
      CheckReplica(node, shard, disk.store());
      CheckViews(node, shard, disk.store());
    }
  }
}

void Oracle::CheckReplica(int node, ShardId shard, const SimStore& store) {
  for (const uint32_t tag : acknowledged_[shard]) {
    if (store.Has(tag)) continue;
    return world_.Violate(
        absl::StrCat("node ", node, " lacks tag ", tag, " of shard ", shard, ", acknowledged at ",
                     tags_[tag].acknowledged_us, " us, for good"),
        shard, tag);
  }
}

void Oracle::CheckViews(int node, ShardId shard, const SimStore& store) {
  struct Fold {
    uint64_t count = 0;
    int64_t sum_price = 0;
  };
  std::map<int64_t, Fold> minutes;
  std::map<uint32_t, std::vector<EventRef>> profiles;
  for (uint32_t tag = 0; tag < tags_.size(); ++tag) {
    const EventRef& event = tags_[tag].event;
    if (event->shard != shard || !store.Has(tag)) continue;
    const TagContent content = TagContent::Parse(event->tag);
    Fold& fold = minutes[router::MinuteOf(event->time_ms)];
    ++fold.count;
    fold.sum_price += content.price;
    profiles[content.cookie].push_back(event);
  }
  bool equal = minutes.size() == store.minutes(shard).size();
  for (const auto& [start, minute] : store.minutes(shard)) {
    const Fold& fold = minutes[start];
    equal = equal && fold.count == minute.digest.count && fold.count == minute.events.size() &&
            fold.sum_price == minute.sum_price;
  }
  for (auto& [cookie, events] : profiles) {
    std::sort(events.begin(), events.end(), SimStore::Newer());
    if (events.size() > kProfileTagsMax) events.resize(kProfileTagsMax);
    const SimStore::Profile& profile = store.profile(cookie);
    equal =
        equal && std::equal(profile.begin(), profile.end(), events.begin(), events.end(),
                            [](const EventRef& a, const EventRef& b) { return a->id == b->id; });
  }
  if (equal) return;
  world_.Violate(absl::StrCat("node ", node, " answers wrongly for shard ", shard), shard);
}

void Oracle::PrintTag(int64_t tag, const Cluster& cluster, std::FILE* out) const {
  const ShardId shard = tags_[static_cast<size_t>(tag)].event->shard;
  for (const router::Replica& replica : placement_.replicas[shard]) {
    const SimNode& node = *cluster.nodes[replica.instance];
    const std::string serving =
        node.up() ? node.core()->CheckServing(shard, node.Clock()).ToString() : "down";
    std::fprintf(out, "  n%u: %s tag %d, disk %s shard %u, %s%s\n", replica.instance,
                 node.disk().store().Has(static_cast<uint32_t>(tag)) ? "has" : "lacks",
                 static_cast<int>(tag), node.disk().joined()[shard] ? "joined" : "not joined to",
                 shard, node.paused() ? "paused, " : "", serving.c_str());
  }
}

}  // namespace allezon::sim
