// SPDX-License-Identifier: Apache-2.0
//
// The replication protocol of one node, as a plain object: it is fed messages, ticks and the ends
// of storage operations, and gives back what to send, to store, to read and to answer. It has no
// thread, socket, clock or disk, so the same inputs give the same outputs: the node runs it behind
// a mutex, the simulation in a loop.
//
// What it decides:
//   - when a write is acknowledged (Quorum);
//   - what each peer is owed, and when that is forgotten (PeerLane);
//   - up to when this node surely holds every acknowledged tag of a shard, hence whether it may
//     answer reads of it (Freshness);
//   - what to pull from which peer (SyncSession).
//
// Single node, not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "allezon/v1/replica.pb.h"
#include "replica/core/freshness.h"
#include "replica/core/peer_lane.h"
#include "replica/core/quorum.h"
#include "replica/core/sync_session.h"
#include "replica/core/types.h"
#include "router/placement.h"

namespace allezon::replica {

class Core {
 public:
  // `placement` and `digests` must outlive it. `joined`, by shard: whether this disk was found to
  // hold all that a replica of the shard under this name ever acknowledged; `needs_rows`: this node
  // was away for longer than logs reach back, so that syncs bring the views' rows too.
  Core(const CoreOptions& options, const router::Placement& placement, const DigestSource& digests,
       std::vector<bool> joined, bool needs_rows, Instant now);
  ~Core();

  // --- writes that this node coordinates ---

  // Takes a write: the caller then stores the events (Stored follows) while the peers' lanes carry
  // them. kUnavailable, with nothing taken: this node is not yet a full replica of one of the
  // shards, or knows that too few others answer. kResourceExhausted: too many events wait for their
  // quorum.
  absl::Status Write(WriteId id, absl::Span<const EventRef> events, Instant deadline, Instant now,
                     Actions& actions);
  // The local commit of a write ended.
  void Stored(WriteId id, const absl::Status& status, Instant now, Actions& actions);
  // A call of Actions::replicate ended. `failures` and `unjoined` are the response's, where
  // `status` is OK.
  void Replicated(uint32_t peer, BatchId batch, const absl::Status& status,
                  const v1::ReplicateResponse& response, Instant now, Actions& actions);

  // --- what peers ask of this node ---

  // A peer's events were committed, and are in the digests: call before it is answered. Fills in
  // the response what the peer must know.
  void PeerStored(uint32_t peer, absl::Span<const ShardId> shards, v1::ReplicateResponse& response);
  // Answers a poll.
  void Polled(uint32_t from, Instant now, v1::PollResponse& response) const;
  // Fills the header of a digest response; the caller then reads the digests.
  void AnswerDigests(v1::ReadDigestsResponse& response) const;

  // --- time, polls, syncs ---

  // Call every kTickUs or so.
  void Tick(Instant now, Actions& actions);
  // A call of Actions::calls ended; `response` is of the type that the request asks for.
  void CallEnded(CallId id, const absl::Status& status, PeerResponse response, Instant now,
                 Actions& actions);
  // An operation of Actions::storage ended. `missing` is FindMissing's answer.
  void StorageEnded(StorageId id, const absl::Status& status, std::string missing, Instant now,
                    Actions& actions);
  // This node was away for longer than logs reach back: syncs bring the views' rows too, until it
  // serves everything again. Call before the first tick that finds it so.
  void NeedRows() { needs_rows_ = true; }
  // Pull these shards from every other replica at the next tick.
  void SyncNow(absl::Span<const ShardId> shards);

  // --- who may serve ---

  // OK, or kUnavailable that says why a read of the shard may miss acknowledged tags here.
  absl::Status CheckServing(ShardId shard, Instant now) const;
  // For reads that are part of a quorum: whether this disk holds what it acknowledged.
  absl::Status CheckJoined(ShardId shard) const;
  // Whether CheckServing holds for every shard of this node.
  bool ServesAll(Instant now) const;
  // The shards that this node holds.
  const std::vector<ShardId>& shards() const { return shards_; }
  bool joined(ShardId shard) const { return joined_[shard]; }

  CoreStats stats(Instant now) const;
  // For the simulation: whether nothing is owed, pending or being pulled.
  bool Quiet() const;

 private:
  struct Peer;

  absl::Status CheckQuorum(ShardId shard) const;
  uint32_t ReaderOf(ShardId shard) const;
  void StopWaitingForTheLate(Instant now, Actions& actions);
  void PumpLanes(Instant now, Actions& actions);
  void SendPolls(Instant now, Actions& actions);

  // Syncs, in core_sync.cc.
  void StartSessions(Instant now, Actions& actions);
  std::vector<ShardId> ShardsToPull(const Peer& peer, Instant now) const;
  // A call of the peer's session ended.
  void Pulled(Peer& peer, const absl::Status& status, PeerResponse response, Instant now,
              Actions& actions);
  // Does what the session wants next, or puts it off while more was pulled than the rate allows.
  void Continue(Peer& peer, SyncSession::Next next, Instant now, Actions& actions);
  // Does what was put off, where the rate allows it by now.
  void PullOn(Instant now, Actions& actions);
  void Do(Peer& peer, SyncSession::Next next, Instant now, Actions& actions);
  void NotePulled(Peer& peer);
  void EndSession(Peer& peer, bool failed, Instant now);
  void JoinWhatIsComplete(Actions& actions);

  const CoreOptions options_;
  const router::Placement& placement_;
  const DigestSource& digests_;
  std::vector<ShardId> shards_;  // that this node holds
  std::vector<bool> holds_;
  std::vector<bool> joined_;
  std::vector<bool> joining_;  // being recorded on disk
  bool needs_rows_;
  std::vector<std::unique_ptr<Peer>> peers_;  // by instance; null where no shard is shared
  Quorum quorum_;
  Freshness freshness_;
  std::vector<uint64_t> received_;  // by instance
  std::vector<Instant> wanted_;     // by shard: syncs that began before are not enough
  std::vector<ShardId> wanted_next_;
  Instant sync_allowed_at_ = kNever;
  size_t next_peer_ = 0;  // whose turn it is to be pulled from
  uint64_t next_id_ = 1;
  struct PendingCall {
    uint32_t peer = 0;
    Instant sent = 0;
    bool is_poll = false;
  };
  absl::flat_hash_map<CallId, PendingCall> calls_;
  absl::flat_hash_map<StorageId, uint32_t> session_storage_;  // to the session's peer
  absl::flat_hash_map<StorageId, std::vector<ShardId>> joins_;
  CoreStats counts_;  // those that only grow
};

}  // namespace allezon::replica
