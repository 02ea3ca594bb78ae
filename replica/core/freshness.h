// SPDX-License-Identifier: Apache-2.0
//
// Up to when this node surely holds every acknowledged tag of a shard.
//
// An acknowledged tag is on at least W of a shard's RF replicas, so whoever has seen what RF - W
// others hold has seen every tag that was acknowledged before. That, by itself, would take a sync
// for every moment. So what others vouch for is used in between. For each other replica c of the
// shard, all that c acknowledged up to some time is here if either
//
//   - c vouches: it has answered a poll within a lane session that began before RF - W peers were
//     last synced from. What it acknowledged before the session is on W replicas, one of which was
//     synced from; what it acknowledged since has come by its lane, but for the age of what it
//     still owes; or
//   - the others vouch for c: RF - W of them, c not among them, have taken nothing from c since
//     they were synced from. Whatever c acknowledges needs W - 1 of the RF - 2 others, and so one
//     of these.
//
// The shard is complete up to the earliest of these times, and stays so whatever happens to who
// vouched for it. They are this node's times: a poll counts from when it was sent, a session from
// when it was first heard of. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "allezon/v1/replica.pb.h"
#include "replica/core/types.h"
#include "router/placement.h"

namespace allezon::replica {

// By instance: calls of Replicate that a peer's incarnation had stored at some moment.
using Received = std::shared_ptr<const std::vector<uint64_t>>;

class Freshness {
 public:
  // `placement` must outlive it.
  Freshness(const CoreOptions& options, const router::Placement& placement, Instant started);

  // A peer answered a poll that was sent at `sent`.
  void Polled(uint32_t peer, const v1::PollResponse& response, Instant sent, Instant now);
  // The last poll of the peer failed: it is not to be pulled from until one succeeds.
  void PollFailed(uint32_t peer) { peers_[peer].reachable = false; }
  // What is known of a peer when a sync from it begins: what it is later found to hold may not
  // count for then.
  struct Known {
    uint64_t incarnation = 0;
    absl::flat_hash_set<ShardId> unjoined;
  };
  Known KnownOf(uint32_t peer) const { return {peers_[peer].incarnation, peers_[peer].unjoined}; }
  // All that the peer held of the shard at `begun` is here. `known` is of then or before;
  // `received` is what the peer said of itself, as `incarnation`, not later than that; null where
  // something of what it held by then is not here.
  void Synced(uint32_t peer, ShardId shard, Instant begun, const Known& known, uint64_t incarnation,
              Received received);
  // Whether the sync that began then is the last one with the peer, and counts as one with a
  // replica that had joined.
  bool CountsAsJoined(uint32_t peer, ShardId shard, Instant begun) const;

  // What was pulled of the shard is not all here any more: it is to be pulled anew. What is known
  // of up to when it is complete stays.
  void ForgetSyncs(ShardId shard);
  // What was pulled of the shard after `as_of` may have gone since: all of that is known as of
  // then.
  void LimitTo(ShardId shard, Instant as_of);
  // Whether enough was pulled since then to have what was pulled before.
  bool IsPulledAgain(ShardId shard) const;

  // Up to when all that was acknowledged is here; kNever where nothing is known.
  Instant CompleteAsOf(ShardId shard, Instant now) const;
  // Whether the shard is to be pulled from the peer: since it was last, something happened that
  // may have left a gap.
  bool NeedsSync(uint32_t peer, ShardId shard, Instant now) const;
  // Whether there is a replica of the shard that vouches for nothing recent, and the peer has taken
  // something from it since it was synced from.
  bool MissesSilent(uint32_t peer, ShardId shard, Instant now) const;
  // When the last sync of the shard from the peer began; kNever where there was none.
  Instant SyncBegun(uint32_t peer, ShardId shard) const;
  bool Reachable(uint32_t peer) const { return peers_[peer].reachable; }
  // Whether the peer said last that its disk is not whole yet.
  bool IsUnjoined(uint32_t peer, ShardId shard) const {
    return peers_[peer].unjoined.contains(shard);
  }
  // Enough of the shard was pulled to hold all that any quorum had when this node's disk was new,
  // or, if `damaged`, before it was damaged: then the others must have joined, however many they
  // are, since what was lost here may be lost there as well.
  bool HoldsAll(ShardId shard, bool damaged) const;
  // The other replicas of the shard that were not pulled from for that yet, or had not joined then.
  std::vector<uint32_t> NotSeenWhole(ShardId shard) const;

 private:
  struct Peer {
    bool reachable = false;
    uint64_t incarnation = 0;
    uint64_t lane_session = 0;
    Instant session_began = kNever;  // when this node first heard of it
    Instant vouched = kNever;        // all that it acknowledged up to then is here, or was before
                                     // the session
    Instant polled = kNever;         // when the last answered poll was sent
    std::vector<uint64_t> received;
    absl::flat_hash_set<ShardId> unjoined;
    // Shards of which it was not whole when first heard of: it had coordinated nothing then, so it
    // holds no vote of the process that ran here before. With a quorum of three or more it may
    // become whole and vote for a write that also counts such a vote; so this says nothing there.
    absl::flat_hash_set<ShardId> was_unjoined;
  };
  struct Sync {
    Instant begun = kNever;
    uint64_t incarnation = 0;
    bool joined = false;  // the peer held all that it ever acknowledged
    Received received;
  };

  const Sync* LastSync(uint32_t peer, ShardId shard) const;
  // Whether nothing that the peer held of the shard at the sync can be acknowledged later by a vote
  // of the process that ran here before.
  bool IsSettled(uint32_t peer, ShardId shard, const Sync& sync) const {
    return sync.begun >= settled_ ||
           (options_.write_quorum <= 2 && peers_[peer].was_unjoined.contains(shard));
  }
  // Its last sync, where that counts for what HoldsAll asks; null where it does not.
  const Sync* SyncForJoining(uint32_t peer, ShardId shard) const;
  bool IsSilent(const Peer& peer, Instant now) const;
  // Whether the peer has taken something from `coordinator` since it was synced from.
  bool TookSince(const Peer& peer, const Sync& sync, uint32_t coordinator) const;
  Instant AsOf(ShardId shard, uint32_t coordinator) const;
  // Notes what follows from the last news.
  void Advance(ShardId shard);
  template <typename Visit>
  void ForEachOther(ShardId shard, Visit visit) const;

  const CoreOptions& options_;
  const router::Placement& placement_;
  const uint32_t others_needed_;  // RF - W
  const Instant settled_;         // no vote of the process before this one counts any more
  std::vector<Peer> peers_;       // by instance
  std::vector<std::vector<ShardId>> shared_;  // by instance: shards that it and this node hold
  std::vector<Instant> complete_;             // by shard
  std::vector<absl::flat_hash_map<ShardId, Sync>> syncs_;  // by instance
};

}  // namespace allezon::replica
