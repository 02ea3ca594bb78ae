// SPDX-License-Identifier: Apache-2.0
//
// One process around the real core: what replica/node.cc does with threads, gRPC and RocksDB, done
// with the simulated network and disk.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "replica/core/core.h"
#include "replica/core/identity.h"
#include "tests/sim/disk.h"
#include "tests/sim/knobs.h"
#include "tests/sim/network.h"
#include "tests/sim/oracle.h"
#include "tests/sim/world.h"

namespace allezon::sim {

class SimNode;

// What calls are for that know no more of a node than its name.
v1::NodeIdentity NameOf(const router::Placement& placement, int node);

// What all nodes of a run share.
struct Cluster {
  World& world;
  const Knobs& knobs;
  const router::Placement& placement;
  Network& network;
  Oracle& oracle;
  std::vector<std::unique_ptr<SimNode>> nodes;
};

class SimNode {
 public:
  // By event: OK, or why it failed. Or, with one status only, of the whole write.
  using WriteReply = std::function<void(const absl::Status&, const std::vector<absl::Status>&)>;
  using ReplicateReply = std::function<void(const absl::Status&, const v1::ReplicateResponse&)>;
  using Actions = replica::Actions;
  using CallReply = std::function<void(const absl::Status&, const replica::PeerResponse&)>;

  SimNode(Cluster& cluster, int index);

  // --- faults ---
  void Start();
  void Crash();
  void Wipe();    // while it is down
  void Damage();  // the same
  void Pause(Time until);
  void JumpClock(Time by);
  // How far the wall clock is ahead of the true time.
  void SetWall(Time ahead);
  void SyncNow();
  SimDisk& disk() { return disk_; }
  const SimDisk& disk() const { return disk_; }
  void Resume();

  bool up() const { return core_ != nullptr; }
  bool paused() const { return paused_until_ > 0; }
  const replica::Core* core() const { return core_.get(); }
  replica::Instant Clock() const;
  replica::WallUs Wall() const { return TrueWallUs(world_.now()) + wall_ahead_; }
  uint64_t process() const { return process_; }
  const replica::Identities& identities() const { return *identities_; }

  // --- inputs ---
  // Runs `task` in the process of that number: now, or once it is no longer paused, or, where that
  // process is gone, never.
  void Input(uint64_t process, Task task);
  void OnWrite(const std::vector<EventRef>& events, Time deadline_in, WriteReply reply);
  void OnReplicate(const v1::NodeIdentity& from, const std::vector<EventRef>& events,
                   Time oldest_age, Time sent_wall_us, ReplicateReply reply);
  void OnCall(std::shared_ptr<const replica::PeerRequest> request, CallReply reply);

  // --- checks ---
  // That it may serve only what it holds, and that its bounds hold.
  void Check();

 private:
  struct PendingWrite {
    std::vector<EventRef> asked;
    std::vector<EventRef> events;  // what is stored for them
    Time begun = 0;
    replica::Instant deadline = 0;
    WriteReply reply;
  };

  // To the oracle: what was on the disk keeps its vote.
  void TellOfLoss();
  void Tick(uint64_t process);
  void Execute(const Actions& actions);
  void Answer(const replica::WriteOutcome& outcome);
  void SendReplicate(const Actions::Replicate& replicate);
  void SendCall(const Actions::Call& call);
  void Operate(const Actions::Storage& storage);
  // Where the call begins a session: what the peer holds when it arrives, filled in then.
  std::shared_ptr<Holdings> ExpectHoldings(const Actions::Call& call);
  Holdings Held(const v1::ReadDigestsRequest& asked) const;
  void CheckSynced(uint32_t peer, ShardId shard, replica::Instant begun, bool joined);
  // What retention may expire by what is here.
  std::vector<replica::ExpiryCandidate> Candidates(replica::WallS horizon_s) const;
  void Maintain(Actions& actions);
  void EndStorage(replica::StorageId id, const absl::Status& status, std::string missing);
  void EndReplicate(uint32_t from, const std::vector<EventRef>& events, const absl::Status& status,
                    const std::vector<bool>& refused, const ReplicateReply& reply);
  replica::PeerResponse AnswerRead(const replica::PeerRequest& request) const;
  absl::Status CheckAnswer(uint32_t peer, const replica::PeerResponse& response);
  void CheckBounds();
  Time ReadDelay();

  Cluster& cluster_;
  World& world_;
  const int index_;
  SimDisk disk_;
  std::unique_ptr<replica::Core> core_;
  std::unique_ptr<replica::Identities> identities_;
  uint64_t disk_incarnation_ = 0;  // of the process that had the disk last; 0: it is new
  int disks_ = 1;                  // that were here so far
  uint64_t process_ = 0;           // incarnation
  std::map<replica::WriteId, PendingWrite> writes_;
  size_t events_pending_ = 0;
  replica::WriteId next_write_ = 1;
  Time paused_until_ = 0;
  std::deque<Task> inputs_;  // of a paused process
  // The clock: `clock_` when true time was `clock_set_`, and `rate_` fast.
  replica::Instant clock_ = 0;
  Time clock_set_ = 0;
  double rate_ = 1;
  Time wall_ahead_ = 0;
  Time maintained_ = 0;
  // What peers held when they were first asked in a session, by peer and by when that was sent.
  std::map<uint32_t, std::map<replica::Instant, std::shared_ptr<Holdings>>> peers_held_;
  std::vector<bool> served_;  // by shard, at the last check
};

// A call from one process to another: `handle` runs at the callee, `done` at the caller, once: with
// the reply or, if that does not come in time, kDeadlineExceeded. A process that is not there is
// kUnavailable at once, and one that is not `to` refuses. `caller` -1: the clients.
template <typename Response>
void CallNode(
    Cluster& cluster, int caller, int callee, const v1::NodeIdentity& to, Time timeout,
    bool may_repeat,
    std::function<void(SimNode&, std::function<void(const absl::Status&, const Response&)>)> handle,
    std::function<void(const absl::Status&, const Response&)> done) {
  const int from = caller < 0 ? cluster.knobs.nodes : caller;
  const uint64_t process = caller < 0 ? 0 : cluster.nodes[caller]->process();
  const auto ended = std::make_shared<bool>(false);
  const auto end = [&cluster, caller, process, ended, done = std::move(done)](
                       const absl::Status& status, const Response& response) {
    const auto task = [ended, done, status, response] {
      if (!std::exchange(*ended, true)) done(status, response);
    };
    if (*ended) return;
    if (caller < 0) {
      task();
    } else {
      cluster.nodes[caller]->Input(process, task);
    }
  };
  // It goes to whoever is at the address, and so does the answer come back.
  const int there = cluster.network.Destination(callee);
  const auto reply = [&cluster, from, there, end](const absl::Status& status,
                                                  const Response& response) {
    cluster.network.Send(there, from, false, [end, status, response] { end(status, response); });
  };
  cluster.network.Send(from, there, may_repeat, [&cluster, to, there, handle, reply] {
    SimNode& node = *cluster.nodes[there];
    if (!node.up()) return reply(absl::UnavailableError("connection refused"), Response());
    node.Input(node.process(), [&node, to, handle, reply] {
      const absl::Status is_meant = node.identities().CheckTo(to);
      if (is_meant.ok()) return handle(node, reply);
      reply(is_meant, Response());
    });
  });
  cluster.world.After(timeout,
                      [end] { end(absl::DeadlineExceededError("no answer in time"), Response()); });
}

}  // namespace allezon::sim
