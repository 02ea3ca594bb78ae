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
#include "tests/sim/disk.h"
#include "tests/sim/knobs.h"
#include "tests/sim/network.h"
#include "tests/sim/oracle.h"
#include "tests/sim/world.h"

namespace allezon::sim {

class SimNode;

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
  using CallReply = std::function<void(const absl::Status&, const replica::PeerResponse&)>;

  SimNode(Cluster& cluster, int index);

  // --- faults ---
  void Start();
  void Crash();
  void Wipe();  // while it is down
  void Pause(Time until);
  void JumpClock(Time by);
  void SyncNow();
  SimDisk& disk() { return disk_; }
  const SimDisk& disk() const { return disk_; }
  void Resume();

  bool up() const { return core_ != nullptr; }
  bool paused() const { return paused_until_ > 0; }
  const replica::Core* core() const { return core_.get(); }
  replica::Instant Clock() const;
  uint64_t process() const { return process_; }

  // --- inputs ---
  // Runs `task` in the process of that number: now, or once it is no longer paused, or, where that
  // process is gone, never.
  void Input(uint64_t process, Task task);
  void OnWrite(const std::vector<EventRef>& events, Time deadline_in, WriteReply reply);
  void OnReplicate(uint32_t from, std::shared_ptr<const std::vector<EventRef>> events,
                   ReplicateReply reply);
  void OnCall(uint32_t from, std::shared_ptr<const replica::PeerRequest> request, CallReply reply);

  // --- checks ---
  // That it may serve only what it holds, and that its bounds hold.
  void Check();

 private:
  struct PendingWrite {
    std::vector<EventRef> events;
    WriteReply reply;
  };

  void Tick(uint64_t process);
  void Execute(const replica::Actions& actions);
  void Answer(const replica::WriteOutcome& outcome);
  void SendReplicate(const replica::Actions::Replicate& replicate);
  void SendCall(const replica::Actions::Call& call);
  void Operate(const replica::Actions::Storage& storage);
  void Store(replica::StorageId id, std::vector<EventRef> events, std::vector<ShardId> joined);
  void EndStorage(replica::StorageId id, const absl::Status& status, std::string missing);
  void EndReplicate(uint32_t from, const std::vector<EventRef>& events, const absl::Status& status,
                    const std::vector<bool>& refused, const ReplicateReply& reply);
  void AnswerRead(const replica::PeerRequest& request, const CallReply& reply);
  void CheckBounds();
  Time ReadDelay();

  Cluster& cluster_;
  World& world_;
  const int index_;
  SimDisk disk_;
  std::unique_ptr<replica::Core> core_;
  uint64_t process_ = 0;  // incarnation
  std::map<replica::WriteId, PendingWrite> writes_;
  size_t events_pending_ = 0;
  replica::WriteId next_write_ = 1;
  Time paused_until_ = 0;
  std::deque<Task> inputs_;  // of a paused process
  // The clock: `clock_` when true time was `clock_set_`, and `rate_` fast.
  replica::Instant clock_ = 0;
  Time clock_set_ = 0;
  double rate_ = 1;
  std::vector<bool> served_;  // by shard, at the last check
};

// A call from one process to another: `handle` runs at the callee, `done` at the caller, once: with
// the reply or, if that does not come in time, kDeadlineExceeded. A process that is not there is
// kUnavailable at once. `caller` -1: the clients.
template <typename Response>
void CallNode(
    Cluster& cluster, int caller, int callee, Time timeout, bool may_repeat,
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
  const auto reply = [&cluster, from, callee, end](const absl::Status& status,
                                                   const Response& response) {
    cluster.network.Send(callee, from, false, [end, status, response] { end(status, response); });
  };
  cluster.network.Send(from, callee, may_repeat, [&cluster, callee, handle, reply] {
    SimNode& node = *cluster.nodes[callee];
    if (!node.up()) return reply(absl::UnavailableError("connection refused"), Response());
    node.Input(node.process(), [&node, handle, reply] { handle(node, reply); });
  });
  cluster.world.After(timeout,
                      [end] { end(absl::DeadlineExceededError("no answer in time"), Response()); });
}

}  // namespace allezon::sim
