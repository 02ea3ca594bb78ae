// SPDX-License-Identifier: Apache-2.0
//
// What the core knows of one peer. Internal to the core.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "replica/core/core.h"

namespace allezon::replica {

struct Core::Peer {
  Peer(const CoreOptions& options, uint32_t i) : index(i), lane(options, i) {}

  const uint32_t index;
  std::vector<ShardId> shared;  // shards that both hold
  PeerLane lane;
  bool is_late = false;  // as of the last tick
  bool polling = false;
  Instant next_poll = kNever;
  std::unique_ptr<SyncSession> session;
  Freshness::Known known;     // when the session began
  SyncSession::Next put_off;  // what the session wants next, once the rate allows it
  // Whose pull failed, the longest ago first: each is pulled alone, once no other is to be.
  std::vector<ShardId> failed;
  Instant next_session = kNever;
  Instant pause_us = 0;  // between sessions about one shard
};

}  // namespace allezon::replica
