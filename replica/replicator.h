// SPDX-License-Identifier: Apache-2.0
//
// Runs the core on a node: its mutex, its ticks, and what it wants done, by the committer, the
// store and the calls to peers.
//
// Life: constructed, Start, then everything, Stop, then the committer is stopped, then destroyed.
// Thread-safe.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "replica/committer.h"
#include "replica/core/core.h"
#include "replica/core/identity.h"
#include "replica/expiry_plan.h"
#include "replica/incoming.h"
#include "replica/peer_calls.h"
#include "replica/store.h"
#include "rpc/blocking_calls.h"

namespace allezon::replica {

class Replicator {
 public:
  // `whole`: of the write, where it says nothing of single events; else `failures` by event, empty
  // where each is durable on a write quorum.
  using Outcome =
      std::function<void(const absl::Status& whole, const std::vector<absl::Status>& failures)>;
  using Stored = std::function<void(const absl::Status&, const v1::ReplicateResponse&)>;

  // `channels` (with the placement), `identities`, `store` and `committer` must outlive it.
  // `retention` is the store's, in whole seconds; a peer is owed `owed_bytes_max` at most.
  Replicator(router::Channels& channels, uint32_t self, Identities& identities, Store& store,
             Committer& committer, absl::Duration retention, uint64_t owed_bytes_max);
  // Stops.
  ~Replicator();

  // Ticks from now on. `serving_changed` is told, on the ticks' thread, whether this node may
  // answer reads of all its shards, and is reached by its peers: once at first, then whenever that
  // changes.
  void Start(std::function<void(bool serving)> serving_changed);
  // Ends the ticks and the calls to peers; writes that wait for their quorum are answered with
  // kUnavailable. Idempotent.
  void Stop();

  // Coordinates a write: `done` is called once, from any thread, unless an error is returned.
  // kUnavailable: this node cannot coordinate it now. kResourceExhausted: a queue is full.
  absl::Status Write(std::shared_ptr<const Incoming> incoming, absl::Time deadline, Outcome done);
  // How to take the events of a write, and of what a peer sends. Thread-safe.
  Acceptance AcceptanceOfWrites();
  Acceptance AcceptanceOfReplicates(uint32_t coordinator, const v1::ReplicateRequest& request);

  // Stores what a peer coordinates. `done` is called once, from any thread, unless an error is
  // returned.
  absl::Status Store(uint32_t from, std::shared_ptr<const Incoming> incoming, Stored done);

  void Poll(uint32_t from, v1::PollResponse& response);
  absl::Status ReadDigests(const v1::ReadDigestsRequest& request,
                           v1::ReadDigestsResponse& response);
  absl::Status ReadNewest(const v1::ReadNewestRequest& request, v1::ReadNewestResponse& response);
  void SyncNow(absl::Span<const ShardId> shards);

  // See NodeContext::check_readable.
  absl::Status CheckReadable(ShardId shard, bool for_quorum);

  const std::vector<bool>& holds() const { return holds_; }

 private:
  // Feeds the core, then does what it wants, without the lock.
  void Feed(absl::FunctionRef<void(Core&, Instant, Actions&)> input);
  void Perform(Actions actions);
  void Perform(Actions::Storage operation);
  void Answer(const std::vector<WriteOutcome>& outcomes);
  void StoreSynced(StorageId id, const StoreEvents& events);
  void RunOnCommitter(StorageId id, std::function<absl::Status()> work);
  void Ended(StorageId id, const absl::Status& status, std::string missing = "");
  void RunTicks();
  // Whether the peers reach this node; of the ticks' thread.
  bool IsReached(Instant now);
  void NoteComplete(Instant now);
  // Looks, aside, for what retention may expire.
  void LookForExpirable(Instant now);
  // Does the next step of a plan, aside and then on the committer's thread, and so on.
  void ExpireNext(StorageId id, std::shared_ptr<ExpiryPlan> plan);
  void UpdateMetrics(Instant now);
  // Says which shards wait for whom; once they do no more, removes what was set aside.
  void TendDamage(Instant now);

  const router::Placement& placement_;
  const Identities& identities_;
  class Store& store_;
  Committer& committer_;
  std::vector<bool> holds_;
  std::function<void(bool)> serving_changed_;
  absl::Mutex mutex_;
  Core core_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_write_ ABSL_GUARDED_BY(mutex_) = 1;
  absl::flat_hash_map<WriteId, Outcome> waiting_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  Instant next_note_ = 0;            // of the ticks' thread
  Instant next_metrics_ = 0;         // the same
  Instant next_look_ = 0;            // the same
  Instant next_tending_ = 0;         // the same
  bool was_damaged_ = false;         // the same
  bool is_tidy_ = false;             // the same
  bool is_reached_ = false;          // the same
  Instant could_serve_at_ = kNever;  // the same
  std::atomic<bool> is_looking_ = false;
  PeerCalls calls_;
  rpc::BlockingCalls look_ups_;
  rpc::BlockingCalls expiries_;
  std::thread ticks_;  // joined by Stop
};

}  // namespace allezon::replica
