// SPDX-License-Identifier: Apache-2.0
//
// The gateways and their routers: ask for tags, and try again at the next replica within a
// deadline.
#pragma once

#include <memory>
#include <vector>

#include "tests/sim/node.h"

namespace allezon::sim {

class SimClients {
 public:
  explicit SimClients(Cluster& cluster);

  // Writes at random from now on, until Stop.
  void Start();
  void Stop() { writing_ = false; }
  // One write, now, at any replica of a random shard.
  void WriteOne();
  // How far the wrong gateway's clock is ahead of the true time.
  void SetWall(Time ahead);
  // Writes that were not acknowledged by their deadline.
  uint64_t failed() const { return failed_; }
  uint64_t unfinished() const { return unfinished_; }

 private:
  // A tag on its way. Attempts may overlap: hedges, and those that were given up on.
  struct Operation {
    EventRef event;
    Time deadline;
    int attempts = 0;
    bool ended = false;
  };
  using Operations = std::vector<std::shared_ptr<Operation>>;

  void WriteLater();
  void WriteRandom();
  void Repeat();
  std::shared_ptr<Operation> Begin(EventRef event);
  EventRef MakeEvent(uint32_t cookie, bool keyed);
  // Another body for the key of `first`.
  EventRef OtherBody(const EventRef& first);
  EventRef Ask(std::shared_ptr<router::Event> event, uint32_t cookie);
  int64_t DrawTimeMs();
  uint32_t Stamp();
  void Send(int coordinator, const Operations& operations);
  void Answered(const std::shared_ptr<Operation>& operation, const absl::Status& status);
  void TryNext(const std::shared_ptr<Operation>& operation);
  int Preferred(ShardId shard);
  int AnyReplica(ShardId shard);

  Cluster& cluster_;
  World& world_;
  const Knobs& knobs_;
  std::vector<ShardId> shard_of_;                  // by cookie
  std::vector<std::vector<uint32_t>> cookies_of_;  // by node: those of the shards that it holds
  std::vector<EventRef> keyed_;
  Time wall_ahead_ = 0;
  bool writing_ = false;
  uint64_t failed_ = 0;
  uint64_t unfinished_ = 0;
};

}  // namespace allezon::sim
