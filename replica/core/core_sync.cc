// SPDX-License-Identifier: Apache-2.0
//
// What the core pulls from which peer, and what it knows by that.
#include <algorithm>
#include <utility>

#include "replica/core/core.h"
#include "replica/core/core_peer.h"

namespace allezon::replica {

void Core::SyncNow(absl::Span<const ShardId> shards) {
  for (const ShardId shard : shards) {
    if (shard < holds_.size() && holds_[shard]) wanted_next_.push_back(shard);
  }
}

std::vector<ShardId> Core::ShardsToPull(const Peer& peer, Instant now) const {
  const auto is_due = [&](ShardId shard) {
    const Instant begun = freshness_.SyncBegun(peer.index, shard);
    const bool rests = begun != kNever && now < begun + peer.pause_us;
    return !rests && (begun < wanted_[shard] || freshness_.NeedsSync(peer.index, shard, now));
  };
  std::vector<ShardId> shards;
  for (const ShardId shard : peer.shared) {
    if (shards.size() == options_.sync_shards_max) break;
    const bool has_failed =
        std::find(peer.failed.begin(), peer.failed.end(), shard) != peer.failed.end();
    if (!has_failed && is_due(shard)) shards.push_back(shard);
  }
  if (!shards.empty()) return shards;
  const auto alone = std::find_if(peer.failed.begin(), peer.failed.end(), is_due);
  if (alone != peer.failed.end()) shards.push_back(*alone);
  return shards;
}

void Core::StartSessions(Instant now, Actions& actions) {
  auto running = static_cast<uint32_t>(
      std::count_if(peers_.begin(), peers_.end(), [](const std::unique_ptr<Peer>& peer) {
        return peer != nullptr && peer->session != nullptr;
      }));
  for (size_t i = 0; i < peers_.size() && running < options_.sync_sessions_max; ++i) {
    Peer* peer = peers_[next_peer_++ % peers_.size()].get();
    if (peer == nullptr || peer->session != nullptr || now < peer->next_session ||
        !freshness_.Reachable(peer->index)) {
      continue;
    }
    std::vector<ShardId> shards = ShardsToPull(*peer, now);
    if (shards.empty()) continue;
    // A silent replica whose writes keep coming in at this peer would have it pulled from all the
    // time.
    const bool again = freshness_.MissesSilent(peer->index, shards.front(), now);
    peer->pause_us = again ? std::clamp(2 * peer->pause_us, options_.sync_pause_min_us,
                                        options_.sync_pause_max_us)
                           : options_.sync_pause_min_us;
    const bool with_rows = needs_rows_ || std::any_of(shards.begin(), shards.end(),
                                                      [&](ShardId s) { return !joined_[s]; });
    peer->session = std::make_unique<SyncSession>(placement_.version, options_.self,
                                                  std::move(shards), with_rows, digests_);
    peer->known = freshness_.KnownOf(peer->index);
    ++running;
    ++counts_.sessions_started;
    Do(*peer, peer->session->Begin(now), now, actions);
  }
}

void Core::Pulled(Peer& peer, const absl::Status& status, PeerResponse response, Instant now,
                  Actions& actions) {
  if (!status.ok()) return EndSession(peer, true, now);
  absl::StatusOr<SyncSession::Next> next = peer.session->Answered(std::move(response), now);
  if (!next.ok()) return EndSession(peer, true, now);
  const uint64_t bytes = peer.session->TakeBytes();
  counts_.sync_bytes += bytes;
  sync_allowed_at_ = std::max(sync_allowed_at_, now) +
                     static_cast<Instant>(bytes * 1'000'000 / options_.sync_bytes_per_second);
  Continue(peer, *std::move(next), now, actions);
}

void Core::Continue(Peer& peer, SyncSession::Next next, Instant now, Actions& actions) {
  NotePulled(peer);
  // What was pulled already is stored at once; only asking for more has to wait.
  if (std::holds_alternative<PeerRequest>(next) && now < sync_allowed_at_) {
    peer.put_off = std::move(next);
    return;
  }
  Do(peer, std::move(next), now, actions);
}

void Core::PullOn(Instant now, Actions& actions) {
  if (now < sync_allowed_at_) return;
  for (const std::unique_ptr<Peer>& peer : peers_) {
    if (peer == nullptr || std::holds_alternative<std::monostate>(peer->put_off)) continue;
    Do(*peer, std::exchange(peer->put_off, {}), now, actions);
  }
}

void Core::Do(Peer& peer, SyncSession::Next next, Instant now, Actions& actions) {
  const uint64_t id = next_id_++;
  if (auto* request = std::get_if<PeerRequest>(&next)) {
    calls_[id] = {peer.index, now, false};
    actions.calls.push_back({peer.index, id, options_.sync_timeout_us, std::move(*request)});
  } else if (auto* storage = std::get_if<StorageRequest>(&next)) {
    session_storage_[id] = peer.index;
    actions.storage.push_back({id, std::move(*storage)});
  } else {
    EndSession(peer, false, now);
  }
}

void Core::StorageEnded(StorageId id, const absl::Status& status, std::string missing, Instant now,
                        Actions& actions) {
  if (const auto join = joins_.find(id); join != joins_.end()) {
    for (const ShardId shard : join->second) {
      joining_[shard] = false;
      if (status.ok()) joined_[shard] = true;
    }
    joins_.erase(join);
    return;
  }
  const auto found = session_storage_.find(id);
  if (found == session_storage_.end()) return;
  Peer& peer = *peers_[found->second];
  session_storage_.erase(found);
  if (!status.ok()) return EndSession(peer, true, now);
  Continue(peer, peer.session->Stored(std::move(missing)), now, actions);
}

void Core::NotePulled(Peer& peer) {
  SyncSession& session = *peer.session;
  for (const ShardId shard : session.TakePulled()) {
    std::erase(peer.failed, shard);
    freshness_.Synced(peer.index, shard, session.begun(), peer.known, session.incarnation(),
                      session.received());
  }
}

void Core::EndSession(Peer& peer, bool failed, Instant now) {
  counts_.sync_events += peer.session->events();
  ++(failed ? counts_.sessions_failed : counts_.sessions_ended);
  if (failed) {
    peer.next_session = now + options_.sync_pause_min_us;
    if (const std::optional<ShardId> shard = peer.session->pulling()) {
      std::erase(peer.failed, *shard);
      peer.failed.push_back(*shard);
    }
  }
  peer.session.reset();
  peer.put_off = {};
}

void Core::JoinWhatIsComplete(Actions& actions) {
  RecordJoined record;
  for (const ShardId shard : shards_) {
    if (joined_[shard] || joining_[shard] || !freshness_.HoldsAll(shard)) continue;
    joining_[shard] = true;
    record.shards.push_back(shard);
  }
  if (record.shards.empty()) return;
  const StorageId id = next_id_++;
  joins_[id] = record.shards;
  Actions::Storage& action = actions.storage.emplace_back();
  action.id = id;
  action.request.emplace<RecordJoined>(std::move(record));
}

}  // namespace allezon::replica
