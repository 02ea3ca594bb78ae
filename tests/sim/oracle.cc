// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/oracle.h"

#include <algorithm>
#include <bit>
#include <optional>

#include "absl/strings/str_cat.h"
#include "replica/core/agreed_clock.h"
#include "tests/sim/node.h"

namespace allezon::sim {
namespace {

int64_t MinuteOf(const EventRef& event) { return router::MinuteOf(event->time_ms); }

}  // namespace

void Totals::Add(const Totals& other) {
  runs += other.runs;
  asked += other.asked;
  acknowledged += other.acknowledged;
  crashes += other.crashes;
  wipes += other.wipes;
  lanes_dropped += other.lanes_dropped;
  sessions += other.sessions;
  synced_events += other.synced_events;
  expired_events += other.expired_events;
  decisions += other.decisions;
  other_bodies += other.other_bodies;
  syncs_checked += other.syncs_checked;
  queries_full += other.queries_full;
  queries_gone += other.queries_gone;
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

// --- what happens ---

void Oracle::Asked(const EventRef& event) {
  const auto index = static_cast<uint32_t>(tags_.size());
  Tag& tag = tags_.emplace_back();
  tag.event = event;
  tag.first = index;
  tag.asked_us = world_.now();
  if (router::IsKeyed(router::AsBytes(event->id))) {
    const auto [known, is_new] = keys_.try_emplace(event->id, index);
    if (!is_new) {
      tag.first = known->second;
      std::vector<uint32_t>& bodies = tags_[tag.first].bodies;
      if (bodies.empty()) bodies.push_back(tag.first);
      bodies.push_back(index);
      ++totals_.other_bodies;
    }
  }
  tags_[tag.first].requested_us.push_back(world_.now());
  tags_of_[MinuteOf(event)].push_back(index);
  tags_in_[{event->shard, MinuteOf(event)}].push_back(index);
  newest_asked_ms_ = std::max(newest_asked_ms_, event->time_ms);
  ++totals_.asked;
}

void Oracle::AskedAgain(const EventRef& event) {
  tags_[tags_[IndexOf(event)].first].requested_us.push_back(world_.now());
}

template <typename Predicate>
bool Oracle::AnyBody(uint32_t tag, Predicate predicate) const {
  const Tag& first = tags_[tags_[tag].first];
  if (first.bodies.empty()) return predicate(tags_[tag].first);
  return std::any_of(first.bodies.begin(), first.bodies.end(), predicate);
}

bool Oracle::InLog(uint32_t tag, const SimStore& store) const {
  return AnyBody(tag, [&](uint32_t body) { return store.Has(body); });
}

bool Oracle::HasRow(uint32_t tag, const SimStore& store) const {
  return AnyBody(tag, [&](uint32_t body) { return store.HasRow(body); });
}

Time Oracle::StampErrorMax() const {
  return replica::RetentionMarginS(knobs_.core.retention_s) * kSecond;
}

bool Oracle::IsExpired(uint32_t tag, Time accepted_us, const SimStore& store) const {
  if (world_.now() - accepted_us < knobs_.core.retention_s * kSecond) return false;
  return AnyBody(tag, [&](uint32_t body) {
    const EventRef& event = tags_[body].event;
    return store.ExpiredThroughS(event->shard, MinuteOf(event)) != 0;
  });
}

bool Oracle::Holds(const Acknowledgement& acknowledgement, const SimStore& store) const {
  if (!HasRow(acknowledgement.tag, store)) return false;
  return InLog(acknowledgement.tag, store) ||
         IsExpired(acknowledgement.tag, acknowledgement.accepted_us, store);
}

void Oracle::Stored(int node, const EventRef& event, const SimStore& store) {
  const uint32_t index = IndexOf(event);
  if (index < tags_.size()) {
    tags_[index].lowest_s = std::min(tags_[index].lowest_s, event->accepted_s);
  }
  const bool asked = index < tags_.size() && tags_[index].event->id == event->id &&
                     tags_[index].event->shard == event->shard &&
                     tags_[index].event->time_ms == event->time_ms &&
                     tags_[index].event->tag == event->tag;
  if (!asked) {
    return world_.Violate(absl::StrCat("node ", node, " stores a tag that nobody asked for"),
                          event->shard);
  }
  const auto& bodies = tags_[tags_[index].first].bodies;
  const auto held =
      std::count_if(bodies.begin(), bodies.end(), [&](uint32_t body) { return store.Has(body); });
  if (held > 1) {
    world_.Violate(
        absl::StrCat("node ", node, " holds ", held, " tags with the key of tag ", index),
        event->shard, index);
  }
}

void Oracle::Acknowledged(int node, const EventRef& asked, const EventRef& stored, Time taken_us,
                          const Cluster& cluster) {
  const uint32_t index = IndexOf(asked);
  Tag& first = tags_[tags_[index].first];
  const ShardId shard = asked->shard;
  world_.Note("acknowledges", node, -1, shard, index, stored->accepted_s);
  uint32_t on = first.was_on;
  for (const router::Replica& replica : placement_.replicas[shard]) {
    const SimDisk& disk = cluster.nodes[replica.instance]->disk();
    if (disk.joined()[shard] && InLog(index, disk.store())) on |= 1u << replica.instance;
  }
  if (std::popcount(on) < static_cast<int>(knobs_.write_quorum)) {
    world_.Violate(absl::StrCat("node ", node, " acknowledges tag ", index, " of shard ", shard,
                                ", which is on ", std::popcount(on), " joined replicas; W is ",
                                knobs_.write_quorum),
                   shard, index);
  }
  const uint32_t reader = placement_.replicas[shard].front().instance;
  if (tags_[index].asked_us >= expect_readable_since_ &&
      !InLog(index, cluster.nodes[reader]->disk().store())) {
    world_.Violate(absl::StrCat("node ", node, " acknowledges tag ", index, " of shard ", shard,
                                ", which readers do not find at node ", reader),
                   shard, index);
  }
  if (!tags_[index].acknowledged) ++totals_.acknowledged;
  tags_[index].acknowledged = true;
  first.acknowledged_us = world_.now();
  // Which of the clients that still try it was is not known; nor that any does, where the
  // coordinator was stopped.
  Time accepted_us = first.requested_us.front();
  for (const Time requested_us : first.requested_us) {
    if (requested_us > taken_us) break;
    accepted_us = requested_us;
    if (requested_us >= taken_us - knobs_.write_deadline_us) break;
  }
  if (accepted_us > first.accepted_us) {
    first.accepted_us = accepted_us;
    first.accepted_s = stored->accepted_s;
  }
  acknowledged_[shard].push_back({index, world_.now(), accepted_us});
}

void Oracle::Accepted(int node, const EventRef& asked, const EventRef& stored,
                      const SimStore& store) {
  if (InLog(IndexOf(asked), store) && !store.Has(IndexOf(stored))) {
    world_.Violate(absl::StrCat("node ", node, " stores another body of tag ", IndexOf(asked),
                                ", whose key it knows"),
                   asked->shard, IndexOf(asked));
  }
  Tag& first = tags_[tags_[IndexOf(asked)].first];
  first.taken_us = world_.now();
}

void Oracle::Decided(int node, const replica::ExpireRanges& request) {
  for (const v1::ExpiredRange& range : request.ranges) {
    for (int64_t minute = range.from_minute(); minute < range.to_minute(); ++minute) {
      world_.Note("decides to expire", node, -1, range.shard(), -1, minute - kStartMinute);
      ++totals_.decisions;
      if (!tags_in_.contains({range.shard(), minute})) {
        return world_.Violate(absl::StrCat("node ", node, " expires minute ", minute, " of shard ",
                                           range.shard(), ", of which nothing was asked for"),
                              range.shard());
      }
      decisions_[{range.shard(), minute}].push_back(
          {range.through_s(), range.expired_at_s(), world_.now()});
    }
  }
}

void Oracle::Expires(int node, const replica::ExpireRanges& request) {
  for (const v1::ExpiredRange& range : request.ranges) {
    for (int64_t minute = range.from_minute(); minute < range.to_minute(); ++minute) {
      const std::vector<Decision>& decisions = decisions_[{range.shard(), minute}];
      const auto decided = [&](auto field, uint32_t value) {
        return std::any_of(decisions.begin(), decisions.end(),
                           [&](const Decision& decision) { return decision.*field == value; });
      };
      if (decided(&Decision::through_s, range.through_s()) &&
          decided(&Decision::expired_at_s, range.expired_at_s())) {
        continue;
      }
      return world_.Violate(absl::StrCat("node ", node, " records of minute ", minute, " of shard ",
                                         range.shard(), " what nobody decided"),
                            range.shard());
    }
  }
}

void Oracle::Dropped(int node, const EventRef& event, const Cluster& cluster) {
  ++totals_.expired_events;
  const uint32_t index = IndexOf(event);
  const Tag& first = tags_[tags_[index].first];
  const int64_t retention_ms = knobs_.core.retention_s * 1'000;
  if ((MinuteOf(event) + 1) * router::kMinuteMs > newest_asked_ms_ - retention_ms) {
    return world_.Violate(absl::StrCat("node ", node, " expires tag ", index, " of shard ",
                                       event->shard, ", whose minute is not old enough"),
                          event->shard, index);
  }
  if (first.acknowledged_us < 0) return;
  const Time age = world_.now() - first.accepted_us;
  if (age >= knobs_.core.retention_s * kSecond) return;
  // That it was accepted again may not have come here yet; then it has not gone elsewhere.
  if (event->accepted_s < first.accepted_s) {
    held_[node][event->shard] = 0;
    uint32_t on = 0;
    for (const router::Replica& replica : placement_.replicas[event->shard]) {
      const auto other = static_cast<int>(replica.instance);
      const SimDisk& disk = cluster.nodes[replica.instance]->disk();
      if (other != node && disk.joined()[event->shard] && InLog(index, disk.store())) ++on;
    }
    if (on > 0) return;
  }
  world_.Violate(absl::StrCat("node ", node, " expires tag ", index, " of shard ", event->shard,
                              " early: it was accepted ", age, " us ago"),
                 event->shard, index);
}

void Oracle::Restarted(int node) { std::fill(held_[node].begin(), held_[node].end(), 0); }

void Oracle::Wiped(int node, ShardId shard, bool joined, const SimStore& store) {
  Restarted(node);
  if (!joined) return;
  for (const auto& [start, minute] : store.minutes(shard)) {
    for (const auto& [id, event] : minute.events) {
      tags_[tags_[IndexOf(event)].first].was_on |= 1u << node;
    }
  }
}

// --- while it runs ---

Time Oracle::StalenessMax() const {
  // Both clocks may be wrong: that which measures the age of what is owed, and that of the node.
  return kMs + static_cast<Time>(static_cast<double>(knobs_.core.staleness_max_us) *
                                 (1 + 2.5 * knobs_.drift));
}

void Oracle::CheckFresh(int node, ShardId shard, const SimStore& store) {
  ++totals_.checks_served;
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

void Oracle::CheckSynced(int node, int peer, ShardId shard, const Holdings& held,
                         const Cluster& cluster) {
  ++totals_.syncs_checked;
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
  for (const EventRef& event : held.log) {
    if (event->shard != shard || here.Has(IndexOf(event))) continue;
    const EventRef kept = here.Keyed(shard, event->id);
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
    // It was accepted again meanwhile: then it comes as an event does.
    if (InLog(IndexOf(event), there)) continue;
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
