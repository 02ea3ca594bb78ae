// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/oracle.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"
#include "replica/core/agreed_clock.h"
#include "tests/sim/node.h"

namespace allezon::sim {

void Totals::Add(const Totals& other) {
  runs += other.runs;
  asked += other.asked;
  acknowledged += other.acknowledged;
  crashes += other.crashes;
  wipes += other.wipes;
  damages += other.damages;
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
      adopted_(static_cast<size_t>(knobs.nodes)),
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
  adopting_.clear();
  for (const v1::ExpiredRange& range : request.ranges) {
    for (int64_t minute = range.from_minute(); minute < range.to_minute(); ++minute) {
      const std::vector<Decision>& decisions = decisions_[{range.shard(), minute}];
      const auto decided = [&](auto field, uint32_t value) {
        return std::find_if(decisions.begin(), decisions.end(),
                            [&](const Decision& decision) { return decision.*field == value; });
      };
      const auto decision = decided(&Decision::expired_at_s, range.expired_at_s());
      if (decision != decisions.end() &&
          decided(&Decision::through_s, range.through_s()) != decisions.end()) {
        if (request.only_whole) continue;  // its own
        Time& oldest = adopting_.try_emplace(range.shard(), decision->time_us).first->second;
        oldest = std::min(oldest, decision->time_us);
        continue;
      }
      return world_.Violate(absl::StrCat("node ", node, " records of minute ", minute, " of shard ",
                                         range.shard(), " what nobody decided"),
                            range.shard());
    }
  }
}

bool Oracle::IsLongAgo(Time decided_us) const {
  return world_.now() - decided_us > knobs_.core.staleness_max_us + 5 * kSecond;
}

void Oracle::Dropped(int node, const EventRef& event, const Cluster& cluster) {
  ++totals_.expired_events;
  const auto adopting = adopting_.find(event->shard);
  if (adopting != adopting_.end() && router::IsKeyed(router::AsBytes(event->id)) &&
      IsLongAgo(adopting->second)) {
    adopted_[node][event->shard] = {world_.now(), adopting->second, {}};
  }
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

void Oracle::Restarted(int node) {
  std::fill(held_[node].begin(), held_[node].end(), 0);
  adopted_[node].clear();
}

void Oracle::Wiped(int node, ShardId shard, bool joined, const SimStore& store) {
  Restarted(node);
  if (!joined) return;
  for (const auto& [start, minute] : store.minutes(shard)) {
    for (const auto& [id, event] : minute.events) {
      tags_[tags_[IndexOf(event)].first].was_on |= 1u << node;
    }
  }
}

}  // namespace allezon::sim
