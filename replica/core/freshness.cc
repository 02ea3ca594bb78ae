// SPDX-License-Identifier: Apache-2.0
#include "replica/core/freshness.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <utility>

namespace allezon::replica {
namespace {

// The n-th largest of `times`; the caller counts from 1.
Instant NthLargest(std::vector<Instant>& times, size_t n) {
  if (times.size() < n) return kNever;
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(n - 1), times.end(),
                   std::greater<>());
  return times[n - 1];
}

}  // namespace

template <typename Visit>
void Freshness::ForEachOther(ShardId shard, Visit visit) const {
  for (const router::Replica& replica : placement_.replicas[shard]) {
    if (replica.instance != options_.self) visit(replica.instance);
  }
}

Freshness::Freshness(const CoreOptions& options, const router::Placement& placement,
                     Instant started)
    : options_(options),
      placement_(placement),
      others_needed_(placement.replication_factor - options.write_quorum),
      settled_(started + options.join_after_us),
      peers_(placement.instances.size()),
      shared_(placement.instances.size()),
      complete_(placement.shards(), kNever),
      syncs_(placement.instances.size()) {
  for (ShardId shard = 0; shard < placement.shards(); ++shard) {
    const std::vector<router::Replica>& replicas = placement.replicas[shard];
    const bool holds = std::any_of(replicas.begin(), replicas.end(), [&](const auto& replica) {
      return replica.instance == options_.self;
    });
    if (!holds) continue;
    ForEachOther(shard, [&](uint32_t other) { shared_[other].push_back(shard); });
  }
}

void Freshness::Polled(uint32_t index, const v1::PollResponse& response, Instant sent,
                       Instant now) {
  Peer& peer = peers_[index];
  peer.reachable = true;
  if (sent < peer.polled) return;  // overtaken by a later one
  if (response.incarnation() != peer.incarnation) {
    peer.was_unjoined.clear();
    peer.was_unjoined.insert(response.unjoined_shards().begin(), response.unjoined_shards().end());
  }
  if (response.incarnation() != peer.incarnation || response.lane_session() != peer.lane_session) {
    peer.incarnation = response.incarnation();
    peer.lane_session = response.lane_session();
    // What it vouched for before was before the session: it stays so.
    peer.session_began = now;
  }
  peer.polled = sent;
  peer.vouched = std::max(peer.vouched, sent - static_cast<Instant>(response.owed_age_us()));
  peer.received.assign(response.received().begin(), response.received().end());
  peer.received.resize(placement_.instances.size());
  peer.unjoined.clear();
  peer.unjoined.insert(response.unjoined_shards().begin(), response.unjoined_shards().end());
  for (const ShardId shard : shared_[index]) Advance(shard);
}

void Freshness::Synced(uint32_t index, ShardId shard, Instant begun, const Known& known,
                       uint64_t incarnation, Received received) {
  // Where it restarted in between, nothing is known of what it lost: the next sync will tell.
  if (incarnation != known.incarnation || incarnation != peers_[index].incarnation) return;
  Sync& sync = syncs_[index][shard];
  if (sync.begun >= begun) return;
  sync = {begun, incarnation, !known.unjoined.contains(shard), std::move(received)};
  Advance(shard);
}

bool Freshness::CountsAsJoined(uint32_t peer, ShardId shard, Instant begun) const {
  const Sync* sync = LastSync(peer, shard);
  return sync != nullptr && sync->begun == begun && sync->joined;
}

void Freshness::ForgetSyncs(ShardId shard) {
  for (auto& syncs : syncs_) syncs.erase(shard);
}

void Freshness::LimitTo(ShardId shard, Instant as_of) {
  for (auto& syncs : syncs_) {
    const auto found = syncs.find(shard);
    if (found == syncs.end() || found->second.begun <= as_of) continue;
    found->second.begun = as_of;
    found->second.received = nullptr;
  }
  complete_[shard] = std::min(complete_[shard], as_of);
  Advance(shard);
}

bool Freshness::IsPulledAgain(ShardId shard) const {
  size_t synced = 0;
  ForEachOther(shard, [&](uint32_t other) {
    const Sync* sync = LastSync(other, shard);
    if (sync != nullptr && sync->joined) ++synced;
  });
  return synced >= others_needed_;
}

const Freshness::Sync* Freshness::LastSync(uint32_t peer, ShardId shard) const {
  const auto found = syncs_[peer].find(shard);
  return found == syncs_[peer].end() ? nullptr : &found->second;
}

Instant Freshness::SyncBegun(uint32_t peer, ShardId shard) const {
  const Sync* sync = LastSync(peer, shard);
  return sync == nullptr ? kNever : sync->begun;
}

bool Freshness::IsSilent(const Peer& peer, Instant now) const {
  return peer.vouched < now - options_.silent_after_us;
}

bool Freshness::TookSince(const Peer& peer, const Sync& sync, uint32_t coordinator) const {
  return peer.incarnation != sync.incarnation || sync.received == nullptr ||
         peer.received[coordinator] != (*sync.received)[coordinator];
}

Instant Freshness::AsOf(ShardId shard, uint32_t coordinator) const {
  const Peer& vouching = peers_[coordinator];
  size_t synced = 0;
  std::vector<Instant> polls;
  std::vector<Instant> syncs;
  ForEachOther(shard, [&](uint32_t other) {
    const Sync* sync = LastSync(other, shard);
    if (sync == nullptr || !sync->joined) return;
    syncs.push_back(sync->begun);
    if (sync->begun >= vouching.session_began) ++synced;
    if (other != coordinator && !TookSince(peers_[other], *sync, coordinator)) {
      polls.push_back(peers_[other].polled);
    }
  });
  const bool heard = vouching.session_began != kNever;
  const Instant own = heard && synced >= others_needed_ ? vouching.vouched : kNever;
  // Where neither is so, as for one that is cut off from this node alone and takes writes all the
  // time, what was pulled tells.
  return std::max({own, NthLargest(polls, others_needed_), NthLargest(syncs, others_needed_)});
}

void Freshness::Advance(ShardId shard) {
  if (others_needed_ == 0) return;  // there is nothing to find out
  Instant earliest = std::numeric_limits<Instant>::max();
  ForEachOther(shard, [&](uint32_t other) { earliest = std::min(earliest, AsOf(shard, other)); });
  complete_[shard] = std::max(complete_[shard], earliest);
}

Instant Freshness::CompleteAsOf(ShardId shard, Instant now) const {
  // Without this replica there is no quorum: it has all that was ever acknowledged.
  return others_needed_ == 0 ? now : complete_[shard];
}

bool Freshness::MissesSilent(uint32_t index, ShardId shard, Instant now) const {
  const Sync* sync = LastSync(index, shard);
  if (sync == nullptr) return false;
  bool misses = false;
  ForEachOther(shard, [&](uint32_t other) {
    if (other == index || !IsSilent(peers_[other], now)) return;
    misses = misses || TookSince(peers_[index], *sync, other);
  });
  return misses;
}

bool Freshness::NeedsSync(uint32_t index, ShardId shard, Instant now) const {
  const Sync* sync = LastSync(index, shard);
  if (sync == nullptr || sync->begun < now - options_.sync_period_us) return true;
  if (sync->incarnation != peers_[index].incarnation) return true;
  // What it acknowledged with the help of this node's last process was not sure yet.
  if (!IsSettled(index, shard, *sync) && now >= settled_) return true;
  // It has got back its data since.
  if (!sync->joined && !peers_[index].unjoined.contains(shard)) return true;
  bool gap = false;
  ForEachOther(shard,
               [&](uint32_t other) { gap = gap || sync->begun < peers_[other].session_began; });
  return gap || MissesSilent(index, shard, now);
}

const Freshness::Sync* Freshness::SyncForJoining(uint32_t peer, ShardId shard) const {
  const Sync* sync = LastSync(peer, shard);
  const bool counts = sync != nullptr && sync->begun >= peers_[peer].session_began &&
                      sync->incarnation == peers_[peer].incarnation &&
                      IsSettled(peer, shard, *sync);
  return counts ? sync : nullptr;
}

bool Freshness::HoldsAll(ShardId shard, bool damaged) const {
  size_t joined = 0;
  size_t synced = 0;
  size_t others = 0;
  ForEachOther(shard, [&](uint32_t other) {
    ++others;
    const Sync* sync = SyncForJoining(other, shard);
    if (sync == nullptr) return;
    ++synced;
    if (sync->joined) ++joined;
  });
  // The disk that was here before may have been one of a quorum, so one more than usual must have
  // been seen. Where all others were seen, there is nothing else to be had: which is no reason to
  // take for lost what somebody who is asked may still have.
  return joined >= others_needed_ + 1 || (synced == others && !damaged);
}

std::vector<uint32_t> Freshness::NotSeenWhole(ShardId shard) const {
  std::vector<uint32_t> peers;
  ForEachOther(shard, [&](uint32_t other) {
    const Sync* sync = SyncForJoining(other, shard);
    if (sync == nullptr || !sync->joined) peers.push_back(other);
  });
  return peers;
}

}  // namespace allezon::replica
