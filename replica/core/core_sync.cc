// SPDX-License-Identifier: Apache-2.0
//
// What the core pulls from which peer, and what it knows by that.
#include <algorithm>
#include <utility>

#include "replica/core/core.h"
#include "replica/core/core_peer.h"

namespace allezon::replica {
namespace {

// Where a peer has only expired something, it is asked for what it expired within so many times the
// retention. What is older and not known here is left to the next sync.
constexpr WallS kExpiredWindow = 2;
// How far pulling may be ahead of its rate: what is little is pulled without a pause.
constexpr Instant kSyncBurstUs = kTickUs;
// After each step pulling rests for as long as the step took, and so leaves half of what a busy
// machine has to what comes in. One that took long for another reason is no reason to rest long.
constexpr Instant kSyncRestMaxUs = kTickUs;

}  // namespace

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
    if (StartSession(*peer, now, actions)) ++running;
  }
}

bool Core::StartSession(Peer& peer, Instant now, Actions& actions) {
  SyncSession::Scope scope;
  scope.shards = ShardsToPull(peer, now);
  if (!scope.shards.empty()) {
    // A silent replica whose writes keep coming in at this peer would have it pulled from all the
    // time.
    const bool again = freshness_.MissesSilent(peer.index, scope.shards.front(), now);
    peer.pause_us = again ? std::clamp(2 * peer.pause_us, options_.sync_pause_min_us,
                                       options_.sync_pause_max_us)
                          : options_.sync_pause_min_us;
    scope.with_rows = WithRows(scope.shards, now);
  } else if (peer.expired_version != peer.expired_adopted && !peer.shared.empty() &&
             now >= peer.expired_asked + options_.poll_period_us) {
    scope.shards = peer.shared;
    scope.only_expired = true;
    if (const auto agreed_us = clock_.NotAfterUs(now)) {
      scope.expired_since_s = static_cast<uint32_t>(
          std::max<WallS>(*agreed_us / 1'000'000 - kExpiredWindow * options_.retention_s, 0));
    }
    peer.expired_adopted = peer.expired_version;
    peer.expired_asked = now;
  } else {
    return false;
  }
  peer.session = std::make_unique<SyncSession>(placement_.version, std::move(scope), digests_);
  peer.known = freshness_.KnownOf(peer.index);
  peer.limits.clear();
  ++counts_.sessions_started;
  Do(peer, peer.session->Begin(now), now, actions);
  return true;
}

void Core::Pulled(Peer& peer, const absl::Status& status, PeerResponse response, Instant now,
                  Actions& actions) {
  if (!status.ok()) return EndSession(peer, true, now);
  absl::StatusOr<SyncSession::Next> next = peer.session->Answered(std::move(response));
  if (!next.ok()) return EndSession(peer, true, now);
  const uint64_t bytes = peer.session->TakeBytes();
  counts_.sync_bytes += bytes;
  RestFrom(peer, now);
  sync_allowed_at_ += static_cast<Instant>(bytes * 1'000'000 / options_.sync_bytes_per_second);
  Continue(peer, *std::move(next), now, actions);
}

void Core::RestFrom(const Peer& peer, Instant now) {
  const Instant took = std::clamp<Instant>(now - peer.step_began, 0, kSyncRestMaxUs);
  sync_allowed_at_ = std::max(sync_allowed_at_, now) + took;
}

void Core::Continue(Peer& peer, SyncSession::Next next, Instant now, Actions& actions) {
  NotePulled(peer);
  // What was pulled already is stored at once; only asking for more has to wait.
  if (std::holds_alternative<PeerRequest>(next) && now + kSyncBurstUs < sync_allowed_at_) {
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
  if (auto* storage = std::get_if<StorageRequest>(&next)) {
    if (auto* adopt = std::get_if<ExpireRanges>(storage)) {
      const absl::Status status = KeepAdoptable(*peer.session, now, *adopt);
      if (!status.ok()) return EndSession(peer, true, now);
      if (adopt->ranges.empty()) return Continue(peer, peer.session->Stored(""), now, actions);
    }
  }
  const uint64_t id = next_id_++;
  peer.step_began = now;
  if (auto* request = std::get_if<PeerRequest>(&next)) {
    calls_[id] = {peer.index, now, CallKind::kSync};
    actions.calls.push_back({peer.index, id, options_.sync_timeout_us, std::move(*request)});
  } else if (auto* storage = std::get_if<StorageRequest>(&next)) {
    session_storage_[id] = peer.index;
    if (const auto* adopt = std::get_if<ExpireRanges>(storage)) NoteAdopting(id, *adopt);
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
  if (expiring_ && id == expiring_->id) {
    NoteExpired();
    if (!status.ok()) next_expiry_ = now + kExpiryRetryUs;
    return;
  }
  const auto found = session_storage_.find(id);
  if (found == session_storage_.end()) return;
  Peer& peer = *peers_[found->second];
  session_storage_.erase(found);
  NoteAdopted(id, now);
  if (!status.ok()) return EndSession(peer, true, now);
  RestFrom(peer, now);
  Continue(peer, peer.session->Stored(std::move(missing)), now, actions);
}

void Core::NotePulled(Peer& peer) {
  SyncSession& session = *peer.session;
  for (const ShardId shard : session.TakePulled()) {
    std::erase(peer.failed, shard);
    if (session.begun() <= adopted_[shard]) continue;
    if (const auto limit = peer.limits.find(shard); limit != peer.limits.end()) {
      if (limit->second <= adopted_[shard]) continue;
      freshness_.Synced(peer.index, shard, limit->second, peer.known, session.incarnation(),
                        nullptr);
      continue;
    }
    freshness_.Synced(peer.index, shard, session.begun(), peer.known, session.incarnation(),
                      session.received());
    if (!on_synced_) continue;
    on_synced_(peer.index, shard, session.begun(),
               freshness_.CountsAsJoined(peer.index, shard, session.begun()));
  }
}

void Core::NoteAdopting(StorageId id, const ExpireRanges& adopt) {
  std::vector<Adoption>& adoptions = adopting_[id];
  for (const v1::ExpiredRange& range : adopt.ranges) {
    if (range.through_s() == 0) continue;
    const WallS decided_s = range.expired_at_s();
    if (adoptions.empty() || adoptions.back().shard != range.shard()) {
      adoptions.push_back({range.shard(), digests_.ExpiredKeyed(range.shard()), decided_s});
    }
    adoptions.back().decided_s = std::min(adoptions.back().decided_s, decided_s);
  }
}

// What a peer has expired may have been accepted again since, at replicas of which this one had not
// heard: its copy went, and the sets are to be compared anew.
void Core::NoteAdopted(StorageId id, Instant now) {
  const auto found = adopting_.find(id);
  if (found == adopting_.end()) return;
  for (const Adoption& adoption : found->second) {
    if (digests_.ExpiredKeyed(adoption.shard) == adoption.expired_keyed) continue;
    // As long as what went before has not been pulled again, it is the older decision that counts.
    const ShardId shard = adoption.shard;
    const bool is_open = adopted_[shard] != kNever && !freshness_.IsPulledAgain(shard);
    adopted_of_s_[shard] =
        is_open ? std::min(adopted_of_s_[shard], adoption.decided_s) : adoption.decided_s;
    adopted_[shard] = now;
    freshness_.ForgetSyncs(shard);
  }
  adopting_.erase(found);
}

// Whatever was accepted before the decision did not go by it. So right after one nothing can be
// lacking that is older than a replica may be behind.
bool Core::HasAllSinceAdopting(ShardId shard, Instant now) const {
  const auto is_recent = [&](WallS decided_s) {
    const WallUs decided_us = decided_s * 1'000'000 - StampSlackUs(options_.retention_s);
    return clock_.NotBeforeUs(now) - decided_us <= options_.staleness_max_us - 2'000'000;
  };
  for (const auto& [id, adoptions] : adopting_) {
    for (const Adoption& adoption : adoptions) {
      if (adoption.shard == shard && !is_recent(adoption.decided_s)) return false;
    }
  }
  return adopted_[shard] == kNever || is_recent(adopted_of_s_[shard]) ||
         freshness_.IsPulledAgain(shard);
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
  if (failed && peer.session->only_expired()) peer.expired_adopted = 0;
  peer.session.reset();
  peer.put_off = {};
}

void Core::JoinWhatIsComplete(Actions& actions) {
  RecordJoined record;
  for (const ShardId shard : shards_) {
    if (joined_[shard] || joining_[shard] || !freshness_.HoldsAll(shard, damaged_[shard])) {
      continue;
    }
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
