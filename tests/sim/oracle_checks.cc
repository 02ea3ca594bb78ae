// SPDX-License-Identifier: Apache-2.0
//
// What is looked at of nodes: while they run, and at the end.
#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "replica/core/agreed_clock.h"
#include "tests/sim/node.h"
#include "tests/sim/oracle.h"

namespace allezon::sim {

// --- while it runs ---

Time Oracle::StalenessMax() const {
  // Both clocks may be wrong: that which measures the age of what is owed, and that of the node.
  return kMs + static_cast<Time>(static_cast<double>(knobs_.core.staleness_max_us) *
                                 (1 + 2.5 * knobs_.drift));
}

void Oracle::CheckFresh(int node, ShardId shard, const SimStore& store) {
  ++totals_.checks_served;
  const auto adopted = adopted_[node].find(shard);
  if (adopted != adopted_[node].end() &&
      adopted->second.pulled_from.size() < knobs_.rf - knobs_.write_quorum) {
    return world_.Violate(absl::StrCat("node ", node, " serves shard ", shard,
                                       ", of which it dropped at ", adopted->second.time_us,
                                       " us, by what was decided at ", adopted->second.decided_us,
                                       " us, what may have been accepted again elsewhere"),
                          shard);
  }
  const std::vector<Acknowledgement>& acknowledged = acknowledged_[shard];
  size_t& held = held_[node][shard];
  while (held < acknowledged.size() && Holds(acknowledged[held], store)) ++held;
  if (held == acknowledged.size()) return;
  const uint32_t missing = acknowledged[held].tag;
  const Time age = world_.now() - acknowledged[held].time_us;
  if (age <= StalenessMax()) return;
  world_.Violate(
      absl::StrCat("node ", node, " serves shard ", shard, " without ",
                   InLog(missing, store) || IsExpired(missing, 0, store) ? "the row of " : "",
                   "tag ", missing, ", acknowledged ", age, " us ago; allowed are ",
                   StalenessMax()),
      shard, missing);
}

void Oracle::CheckSynced(int node, int peer, ShardId shard, const Holdings& held, bool joined,
                         const Cluster& cluster) {
  ++totals_.syncs_checked;
  if (joined && !held.joined[shard]) {
    return world_.Violate(absl::StrCat("node ", node, " has pulled shard ", shard, " from node ",
                                       peer, ", and takes it for joined, which it was not"),
                          shard);
  }
  if (joined) {
    const auto adopted = adopted_[node].find(shard);
    if (adopted != adopted_[node].end()) adopted->second.pulled_from.insert(peer);
  }
  const SimStore& here = cluster.nodes[node]->disk().store();
  const SimStore& there = cluster.nodes[peer]->disk().store();
  const auto violate = [&](const char* what, const EventRef& event) {
    world_.Violate(absl::StrCat("node ", node, " has pulled shard ", shard, " from node ", peer,
                                ", and ", what, IndexOf(event)),
                   shard, IndexOf(event));
  };
  const auto is_owed = [&](const EventRef& event) {
    return tags_[tags_[IndexOf(event)].first].acknowledged_us >= 0;
  };
  const bool is_new = !cluster.nodes[node]->disk().joined()[shard];
  for (const EventRef& event : held.log) {
    if (event->shard != shard) continue;
    const EventRef kept = here.Keyed(shard, event->id);
    // Retention goes by when something of a bucket was accepted last, and will ask this disk.
    if (is_new && kept != nullptr &&
        event->accepted_s > here.NewestAcceptedS(shard, MinuteOf(kept)) +
                                replica::RaiseSlackS(knobs_.core.retention_s)) {
      return violate("was not told when its key was accepted last: tag ", event);
    }
    if (here.Has(IndexOf(event))) continue;
    if (kept != nullptr && ContentHash(kept->tag) < ContentHash(event->tag)) continue;
    // Retention took it meanwhile, here or there; or there another body came instead.
    const auto expired = [&](const SimStore& store) {
      return event->accepted_s <= store.ExpiredThroughS(shard, MinuteOf(event));
    };
    const Tag& first = tags_[tags_[IndexOf(event)].first];
    // Another body came to the peer instead, in a minute that was passed already.
    if (kept == nullptr && !first.bodies.empty() && !there.Has(IndexOf(event)) &&
        InLog(IndexOf(event), there)) {
      continue;
    }
    // Retention has taken it here, while the copy there had got a later stamp on its way.
    if (IsExpired(IndexOf(event), first.accepted_us, here) && HasRow(IndexOf(event), here)) {
      continue;
    }
    // What was not acknowledged may have another stamp at each, and go at one.
    if (!is_owed(event) && here.ExpiredThroughS(shard, MinuteOf(event)) > 0) continue;
    if (!expired(here) && !expired(there)) {
      if (there.Has(IndexOf(event)) || kept == nullptr) return violate("lacks tag ", event);
      continue;
    }
    if (is_owed(event) && !HasRow(IndexOf(event), here)) {
      return violate("lacks the row of tag ", event);
    }
  }
  for (const EventRef& event : held.rows) {
    if (event->shard != shard || HasRow(IndexOf(event), here) || !is_owed(event)) continue;
    return violate("lacks the row of the old tag ", event);
  }
}

void Oracle::CheckQuery(const Cluster& cluster) {
  if (tags_of_.empty()) return;
  for (int i = 0; i < 2; ++i) {
    auto minute = tags_of_.begin();
    std::advance(minute, world_.random.Below(tags_of_.size()));
    CheckMinute(cluster, minute->first);
  }
}

void Oracle::CheckMinute(const Cluster& cluster, int64_t minute) {
  std::vector<const SimStore*> stores;
  uint32_t expired_at_s = 0;
  for (ShardId shard = 0; shard < knobs_.shards; ++shard) {
    std::vector<const SimNode*> serving;
    for (const router::Replica& replica : placement_.replicas[shard]) {
      const SimNode& node = *cluster.nodes[replica.instance];
      if (!node.up() || node.paused()) continue;
      if (node.core()->CheckServing(shard, node.Clock()).ok()) serving.push_back(&node);
    }
    if (serving.empty()) return;
    stores.push_back(&serving[world_.random.Below(serving.size())]->disk().store());
    expired_at_s = std::max(expired_at_s, stores.back()->ExpiredOf(shard, minute).expired_at_s);
  }
  // The rule: nothing was expired, or all that is held was accepted since.
  std::vector<EventRef> answer;
  for (ShardId shard = 0; shard < knobs_.shards; ++shard) {
    const auto found = stores[shard]->minutes(shard).find(minute);
    if (found == stores[shard]->minutes(shard).end()) continue;
    for (const auto& [id, event] : found->second.events) answer.push_back(event);
  }
  const bool full = std::all_of(answer.begin(), answer.end(), [&](const EventRef& event) {
    return event->accepted_s > expired_at_s;
  });
  if (!full || (answer.empty() && expired_at_s > 0)) {
    ++totals_.queries_gone;
    return;
  }
  ++totals_.queries_full;
  if (expired_at_s == 0) return;  // CheckFresh has looked at what is held
  // Of what was expired everything was accepted before all that is answered: by true time, but for
  // what a stamp may be wrong.
  std::optional<Time> gone_at;
  uint32_t gone = 0;
  for (const uint32_t index : tags_of_[minute]) {
    const Tag& tag = tags_[index];
    if (tag.acknowledged_us < 0 || !tag.bodies.empty() || tag.first != index) continue;
    const ShardId shard = tag.event->shard;
    if (stores[shard]->Has(index)) continue;
    for (const Decision& decision : decisions_[{shard, minute}]) {
      if (decision.through_s < std::min(tag.accepted_s, tag.lowest_s)) continue;
      if (!gone_at || decision.time_us > *gone_at) {
        gone_at = decision.time_us;
        gone = index;
      }
      break;
    }
  }
  if (!gone_at) return;
  for (const EventRef& event : answer) {
    const Tag& first = tags_[tags_[IndexOf(event)].first];
    if (first.taken_us < 0 || first.taken_us >= *gone_at - StampErrorMax()) continue;
    return world_.Violate(
        absl::StrCat("a query is answered with tag ", IndexOf(event), ", accepted at ",
                     first.taken_us, " us, and without tag ", gone,
                     " of the same minute, which was expired at ", *gone_at, " us"),
        tags_[gone].event->shard, gone);
  }
}

// --- at the end ---

void Oracle::CheckSettled(const Cluster& cluster) {
  for (ShardId shard = 0; shard < knobs_.shards && !world_.violated(); ++shard) {
    const uint32_t first = placement_.replicas[shard].front().instance;
    const SimStore& store = cluster.nodes[first]->disk().store();
    for (const router::Replica& replica : placement_.replicas[shard]) {
      const auto node = static_cast<int>(replica.instance);
      const SimDisk& disk = cluster.nodes[node]->disk();
      if (!disk.joined()[shard]) {
        world_.Violate(absl::StrCat("node ", node, " never joins shard ", shard), shard);
      }
      if (disk.store().ShardDigest(shard) != store.ShardDigest(shard)) {
        world_.Violate(absl::StrCat("nodes ", first, " and ", node, " differ in shard ", shard),
                       shard);
      }
      CheckReplica(node, shard, disk.store());
      CheckBodies(node, shard, disk.store());
      CheckViews(node, shard, disk.store());
    }
  }
}

void Oracle::CheckReplica(int node, ShardId shard, const SimStore& store) {
  for (const Acknowledgement& acknowledgement : acknowledged_[shard]) {
    if (Holds(acknowledgement, store)) continue;
    return world_.Violate(
        absl::StrCat("node ", node, " lacks ",
                     HasRow(acknowledgement.tag, store) ? "" : "the row of ", "tag ",
                     acknowledgement.tag, " of shard ", shard, ", acknowledged at ",
                     acknowledgement.time_us, " us, for good"),
        shard, acknowledgement.tag);
  }
}

// Of what retention has not taken there is one row for each key.
void Oracle::CheckBodies(int node, ShardId shard, const SimStore& store) {
  std::map<uint32_t, uint32_t> rows;
  for (const auto& [key, event] : store.rows(shard)) {
    if (event->accepted_s <= store.ExpiredThroughS(shard, MinuteOf(event))) continue;
    const uint32_t index = IndexOf(event);
    const auto [other, is_new] = rows.try_emplace(tags_[index].first, index);
    if (is_new) continue;
    return world_.Violate(absl::StrCat("node ", node, " has rows of both tag ", other->second,
                                       " and tag ", index, ", which have one key"),
                          shard, index);
  }
}

void Oracle::CheckViews(int node, ShardId shard, const SimStore& store) {
  struct Fold {
    uint64_t count = 0;
    int64_t sum_price = 0;
  };
  std::map<int64_t, Fold> minutes;
  bool equal = true;
  for (uint32_t tag = 0; tag < tags_.size(); ++tag) {
    const EventRef& event = tags_[tag].event;
    if (event->shard != shard || !store.Has(tag)) continue;
    Fold& fold = minutes[MinuteOf(event)];
    ++fold.count;
    fold.sum_price += TagContent::Parse(event->tag).price;
    if (!store.HasRow(tag)) {
      return world_.Violate(absl::StrCat("node ", node, " has no row of tag ", tag), shard, tag);
    }
  }
  equal = equal && minutes.size() == store.minutes(shard).size();
  for (const auto& [start, minute] : store.minutes(shard)) {
    const Fold& fold = minutes[start];
    equal = equal && fold.count == minute.digest.count && fold.count == minute.events.size() &&
            fold.sum_price == minute.sum_price;
  }
  if (equal) return;
  world_.Violate(absl::StrCat("node ", node, " answers wrongly for shard ", shard), shard);
}

void Oracle::PrintTag(int64_t tag, const Cluster& cluster, std::FILE* out) const {
  const auto index = static_cast<uint32_t>(tag);
  const EventRef& event = tags_[index].event;
  const ShardId shard = event->shard;
  const Tag& first = tags_[tags_[index].first];
  std::fprintf(out, "  tag %u of minute %d, accepted at %us; last acknowledged at %.6f with %us\n",
               index, static_cast<int>(MinuteOf(event) - kStartMinute),
               event->accepted_s - static_cast<uint32_t>(kStartS),
               static_cast<double>(first.acknowledged_us) / 1e6,
               first.accepted_s - static_cast<uint32_t>(kStartS));
  for (const uint32_t body : first.bodies) {
    std::fprintf(out, "  has a body in tag %u of minute %d\n", body,
                 static_cast<int>(MinuteOf(tags_[body].event) - kStartMinute));
  }
  for (const auto& decision : decisions_) {
    if (decision.first != Bucket{shard, MinuteOf(event)}) continue;
    for (const Decision& of : decision.second) {
      std::fprintf(out, "  its minute was expired at %.6f through %us, as of %us\n",
                   static_cast<double>(of.time_us) / 1e6,
                   of.through_s - static_cast<uint32_t>(kStartS),
                   of.expired_at_s - static_cast<uint32_t>(kStartS));
    }
  }
  for (const router::Replica& replica : placement_.replicas[shard]) {
    const SimNode& node = *cluster.nodes[replica.instance];
    const SimStore& store = node.disk().store();
    const EventRef held = store.Find(shard, MinuteOf(event), event->id);
    const std::string serving =
        node.up() ? node.core()->CheckServing(shard, node.Clock()).ToString() : "down";
    const uint32_t through_s = store.ExpiredThroughS(shard, MinuteOf(event));
    std::fprintf(
        out, "  n%u: %s tag %u%s%s%s, expired through %us, disk %s shard %u, %s%s\n",
        replica.instance, store.Has(index) ? "has" : "lacks", index,
        held != nullptr
            ? absl::StrCat(" accepted at ", held->accepted_s - static_cast<uint32_t>(kStartS), "s")
                  .c_str()
            : "",
        store.HasRow(index) ? " with its row" : "", InLog(index, store) ? ", has the key" : "",
        through_s == 0 ? 0 : through_s - static_cast<uint32_t>(kStartS),
        node.disk().joined()[shard] ? "joined" : "not joined to", shard,
        node.paused() ? "paused, " : "", serving.c_str());
  }
}

}  // namespace allezon::sim
