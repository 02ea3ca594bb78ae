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
//   - what to pull from which peer (SyncSession);
//   - what retention may expire (ExpiryRound), by a clock that several nodes agree on
//   (AgreedClock).
//
// Single node, not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "allezon/v1/replica.pb.h"
#include "replica/core/agreed_clock.h"
#include "replica/core/expiry_round.h"
#include "replica/core/freshness.h"
#include "replica/core/peer_lane.h"
#include "replica/core/quorum.h"
#include "replica/core/sync_session.h"
#include "replica/core/types.h"
#include "router/placement.h"

namespace allezon::replica {

class Core {
 public:
  // `placement` and `digests` must outlive it.
  Core(const CoreOptions& options, const router::Placement& placement, const DigestSource& digests,
       DiskRecord disk, Instant now);
  ~Core();

  // --- writes that this node coordinates ---

  // Takes a write: the caller then stores the events (Stored follows) while the peers' lanes carry
  // them. kUnavailable, with nothing taken: this node is not yet a full replica of one of the
  // shards, knows that too few others answer, or has just started and knows no clock but its own.
  // kResourceExhausted: too many events wait for their quorum.
  absl::Status Write(WriteId id, absl::Span<const EventRef> events, Instant deadline, Instant now,
                     Actions& actions);
  // The local commit of a write ended.
  void Stored(WriteId id, const absl::Status& status, Instant now, Actions& actions);
  // A call of Actions::replicate ended. `failures` and `unjoined` are the response's, where
  // `status` is OK.
  void Replicated(uint32_t peer, BatchId batch, const absl::Status& status,
                  const v1::ReplicateResponse& response, Instant now, Actions& actions);

  // --- what peers ask of this node ---

  // The stamps of what this node is asked to coordinate, and of what a coordinator took at most
  // `age_us` before it sent it, when its wall clock said `sent_wall_us`; to be applied before Write
  // and before the commit.
  StampRule RuleOfWrites(Instant now) const {
    return clock_.RuleOfWrites(options_.retention_s, now);
  }
  StampRule RuleOfReplicates(uint32_t coordinator, Instant age_us, WallUs sent_wall_us,
                             Instant now) const {
    return clock_.RuleOfReplicates(options_.retention_s, coordinator, age_us, sent_wall_us, now);
  }
  // A peer's events were committed, and are in the digests: call before it is answered. Fills in
  // the response what the peer must know.
  void PeerStored(uint32_t peer, absl::Span<const ShardId> shards, v1::ReplicateResponse& response);
  // Answers a poll.
  void Polled(uint32_t from, Instant now, v1::PollResponse& response) const;
  // A peer has called, so it is back where it was away: it is polled at the next tick.
  void HeardFrom(uint32_t peer, Instant now);
  // Fills the header of a digest response; the caller then reads the digests.
  void AnswerDigests(v1::ReadDigestsResponse& response) const;
  // Of a bucket that this node holds with this newest acceptance, what ReadNewest answers.
  uint32_t NewestToTell(ShardId shard, uint32_t newest_accepted_s) const;

  // --- time, polls, syncs ---

  // Call every kTickUs or so. `wall_us` is this machine's wall clock.
  void Tick(Instant now, WallUs wall_us, Actions& actions);
  // A call of Actions::calls ended; `response` is of the type that the request asks for.
  void CallEnded(CallId id, const absl::Status& status, PeerResponse response, Instant now,
                 Actions& actions);
  // An operation of Actions::storage ended. `missing` is FindMissing's answer.
  void StorageEnded(StorageId id, const absl::Status& status, std::string missing, Instant now,
                    Actions& actions);
  // Pull these shards from every other replica at the next tick.
  void SyncNow(absl::Span<const ShardId> shards);

  // --- retention ---

  // Up to when what was accepted may be expired by now; none where that is not known, or a look for
  // candidates is of no use yet. Buckets are candidates whose newest acceptance is not after it,
  // and whose minute is older than the newest by the retention.
  std::optional<WallS> ExpiryHorizonS(Instant now) const;
  // Begins to expire what may be of the candidates: asks enough other replicas what they accepted
  // last. kExpiryBucketsMax at most; does nothing while a round is under way.
  void Expire(std::vector<ExpiryCandidate> candidates, Instant now, Actions& actions);
  // Up to which acceptance all is surely here, in every shard; none where that is not known now.
  std::optional<WallS> CompleteS(Instant now) const;
  // Not after the true time; none where too few clocks were heard.
  std::optional<WallUs> AgreedNowUs(Instant now) const { return clock_.NotAfterUs(now); }

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
  // Whether what a damaged disk lost of the shard is not back yet; and the other replicas that are
  // waited for, by their ids.
  bool damaged(ShardId shard) const { return damaged_[shard] && !joined_[shard]; }
  std::vector<std::string> AwaitedFor(ShardId shard) const;

  CoreStats stats(Instant now) const;
  // For the simulation: whether nothing is owed, pending or being pulled.
  bool Quiet() const;
  // For the simulation: told of each shard that was pulled whole from a peer. All that the peer
  // held at `begun` is here, and its disk had joined the shard if `joined`.
  using OnSynced = std::function<void(uint32_t peer, ShardId shard, Instant begun, bool joined)>;
  void ObserveSyncs(OnSynced on_synced) { on_synced_ = std::move(on_synced); }

 private:
  struct Peer;

  absl::Status CheckQuorum(ShardId shard) const;
  // What peers refuse this node for, as the end of a sentence.
  std::string Refusals() const;
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
  // Which of the shards are pulled with rows: this disk may lack some that no log has any more.
  absl::flat_hash_set<ShardId> WithRows(absl::Span<const ShardId> shards, Instant now) const;
  bool StartSession(Peer& peer, Instant now, Actions& actions);
  // Leaves what may be adopted now of what the peer has expired. Fails where something may not that
  // a shard cannot be whole without.
  absl::Status KeepAdoptable(const SyncSession& session, Instant now, ExpireRanges& adopt) const;
  // Does what the session wants next, or puts it off while more was pulled than the rate allows.
  void Continue(Peer& peer, SyncSession::Next next, Instant now, Actions& actions);
  // Has pulling rest for what the step of the peer's session cost that has just ended.
  void RestFrom(const Peer& peer, Instant now);
  // Does what was put off, where the rate allows it by now.
  void PullOn(Instant now, Actions& actions);
  void Do(Peer& peer, SyncSession::Next next, Instant now, Actions& actions);
  void NotePulled(Peer& peer);
  void NoteAdopting(StorageId id, const ExpireRanges& adopt);
  void NoteExpired();
  void NoteAdopted(StorageId id, Instant now);
  // Whether what was accepted again is here, but for the last moments, after copies that did not
  // tell so may have been expired by a peer's decision.
  bool HasAllSinceAdopting(ShardId shard, Instant now) const;
  void EndSession(Peer& peer, bool failed, Instant now);
  void JoinWhatIsComplete(Actions& actions);

  // Retention, in core_expiry.cc.
  WallS CompleteOfShardS(ShardId shard, Instant now) const;
  std::vector<uint32_t> PeersToAskAbout(ShardId shard) const;
  void DecideExpiry(Instant now, Actions& actions);
  uint64_t ExpiredVersion() const;

  const CoreOptions options_;
  const router::Placement& placement_;
  const DigestSource& digests_;
  std::vector<ShardId> shards_;  // that this node holds
  std::vector<bool> holds_;
  std::vector<bool> joined_;
  const std::vector<bool> damaged_;           // when this process began
  std::vector<bool> joining_;                 // being recorded on disk
  const WallS noted_complete_s_;              // by an earlier process
  std::vector<std::unique_ptr<Peer>> peers_;  // by instance; null for this one
  AgreedClock clock_;
  WallUs own_wall_us_ = 0;  // at own_wall_at_
  Instant own_wall_at_ = 0;
  std::unique_ptr<ExpiryRound> expiry_;  // null while no round is under way
  Instant next_expiry_ = kNever;
  size_t expiries_failed_ = 0;
  Quorum quorum_;
  Freshness freshness_;
  std::vector<uint64_t> received_;  // by instance
  std::vector<Instant> wanted_;     // by shard: syncs that began before are not enough
  std::vector<ShardId> wanted_next_;
  Instant sync_allowed_at_ = kNever;
  size_t next_peer_ = 0;  // whose turn it is to be pulled from
  uint64_t next_id_ = 1;
  enum class CallKind { kPoll, kSync, kExpiry };
  struct PendingCall {
    uint32_t peer = 0;
    Instant sent = 0;
    CallKind kind = CallKind::kPoll;
  };
  absl::flat_hash_map<CallId, PendingCall> calls_;
  absl::flat_hash_map<StorageId, uint32_t> session_storage_;  // to the session's peer
  // What is being expired by a peer's decision.
  struct Adoption {
    ShardId shard = 0;
    uint64_t expired_keyed = 0;  // DigestSource::ExpiredKeyed before
    WallS decided_s = 0;         // the oldest of the decisions
  };
  absl::flat_hash_map<StorageId, std::vector<Adoption>> adopting_;
  std::vector<Instant> adopted_;     // by shard: syncs that began before do not tell what is here
  std::vector<WallS> adopted_of_s_;  // by shard: when that was decided
  absl::flat_hash_map<StorageId, std::vector<ShardId>> joins_;
  // What this node decided is being expired.
  struct OwnExpiry {
    StorageId id = 0;
    Instant asked = kNever;  // when the round began
    // By shard: DigestSource::ExpiredKeyed before.
    std::vector<std::pair<ShardId, uint64_t>> expired_keyed;
  };
  std::optional<OwnExpiry> expiring_;
  CoreStats counts_;  // those that only grow
  OnSynced on_synced_;
};

}  // namespace allezon::replica
