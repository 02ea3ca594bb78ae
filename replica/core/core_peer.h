// SPDX-License-Identifier: Apache-2.0
//
// What the core knows of one peer. Internal to the core.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "replica/core/core.h"

namespace allezon::replica {

// Before buckets are looked at again about which enough others could not be asked, or which could
// not be expired.
inline constexpr Instant kExpiryRetryUs = 1'000'000;

struct Core::Peer {
  Peer(const CoreOptions& options, uint32_t i) : index(i), lane(options, i) {}

  const uint32_t index;
  std::vector<ShardId> shared;  // shards that both hold
  PeerLane lane;
  bool is_late = false;  // as of the last tick
  bool polling = false;
  Instant next_poll = kNever;
  std::string refusal;  // what it answered to the last poll where it did not take it for its peer's
  std::unique_ptr<SyncSession> session;
  Freshness::Known known;  // when the session began
  // By shard, where this node's own decisions took copies away since the session began: as of when
  // it tells what is here.
  absl::flat_hash_map<ShardId, Instant> limits;
  Instant step_began = kNever;   // of the session, the one that is under way
  SyncSession::Next put_off;     // what the session wants next, once the rate allows it
  uint64_t expired_version = 0;  // what it has expired, at the last poll
  uint64_t expired_adopted = 0;  // and when that was asked for last
  Instant expired_asked = kNever;
  // Whose pull failed, the longest ago first: each is pulled alone, once no other is to be.
  std::vector<ShardId> failed;
  Instant next_session = kNever;
  Instant pause_us = 0;  // between sessions about one shard
};

}  // namespace allezon::replica
