// SPDX-License-Identifier: Apache-2.0
#include "replica/core/core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "replica/core/core_peer.h"

namespace allezon::replica {
namespace {

// What a peer owes for so many times as long as the fastest one takes makes it late.
constexpr Instant kLateMultiple = 3;
// A write whose deadline is so near does not wait for the one that is read first.
constexpr Instant kReaderMarginUs = 3 * kTickUs;

std::vector<bool> Resized(std::vector<bool> by_shard, size_t shards) {
  by_shard.resize(shards);
  return by_shard;
}

}  // namespace

Core::Core(const CoreOptions& options, const router::Placement& placement,
           const DigestSource& digests, DiskRecord disk, Instant now)
    : options_(options),
      placement_(placement),
      digests_(digests),
      holds_(placement.shards()),
      joined_(Resized(std::move(disk.joined), placement.shards())),
      damaged_(Resized(std::move(disk.damaged), placement.shards())),
      joining_(placement.shards()),
      noted_complete_s_(disk.complete_s),
      peers_(placement.instances.size()),
      clock_(placement.instances.size(), options.self),
      quorum_(options.write_quorum, options.events_pending_max),
      freshness_(options_, placement, now),
      received_(placement.instances.size()),
      wanted_(placement.shards(), kNever),
      adopted_(placement.shards(), kNever),
      adopted_of_s_(placement.shards()) {
  // Those that share no shard are asked what time it is.
  for (uint32_t i = 0; i < peers_.size(); ++i) {
    if (i == options_.self) continue;
    peers_[i] = std::make_unique<Peer>(options_, i);
    peers_[i]->next_poll = now;
  }
  for (ShardId shard = 0; shard < placement.shards(); ++shard) {
    const std::vector<router::Replica>& replicas = placement.replicas[shard];
    if (std::none_of(replicas.begin(), replicas.end(),
                     [&](const auto& replica) { return replica.instance == options_.self; })) {
      continue;
    }
    holds_[shard] = true;
    shards_.push_back(shard);
    for (const router::Replica& replica : replicas) {
      if (replica.instance == options_.self) continue;
      peers_[replica.instance]->shared.push_back(shard);
    }
  }
}

Core::~Core() = default;

// --- writes that this node coordinates ---

absl::Status Core::Write(WriteId id, absl::Span<const EventRef> events, Instant deadline,
                         Instant now, Actions& actions) {
  if (!clock_.IsKnown(now) && (options_.write_quorum > 1 || own_wall_us_ == 0)) {
    return absl::UnavailableError(
        absl::StrCat(placement_.instances[options_.self].id, " does not know the time yet"));
  }
  std::vector<Quorum::Voters> voters;
  voters.reserve(events.size());
  for (const EventRef& event : events) {
    if (!joined_[event->shard]) return CheckJoined(event->shard);
    if (absl::Status status = CheckQuorum(event->shard); !status.ok()) return status;
    voters.push_back({static_cast<uint8_t>(placement_.replicas[event->shard].size() - 1),
                      deadline - now > kReaderMarginUs ? ReaderOf(event->shard) : Quorum::kNobody});
  }
  deadline = std::min(deadline, now + options_.write_timeout_max_us);
  if (absl::Status status = quorum_.Begin(id, voters, deadline); !status.ok()) return status;
  for (uint32_t i = 0; i < events.size(); ++i) {
    for (const router::Replica& replica : placement_.replicas[events[i]->shard]) {
      if (replica.instance == options_.self) continue;
      peers_[replica.instance]->lane.Push({events[i], id, i, now});
    }
  }
  PumpLanes(now, actions);
  return absl::OkStatus();
}

void Core::Stored(WriteId id, const absl::Status& status, Instant now, Actions& actions) {
  // This process may have been stopped for long: what is late is not acknowledged.
  quorum_.Expire(now, actions.outcomes);
  quorum_.Stored(id, status, actions.outcomes);
  PumpLanes(now, actions);
}

void Core::Replicated(uint32_t peer_index, BatchId batch, const absl::Status& status,
                      const v1::ReplicateResponse& response, Instant now, Actions& actions) {
  Peer& peer = *peers_[peer_index];
  quorum_.Expire(now, actions.outcomes);
  const auto count_out = [&](Owed& owed) {
    owed.counted_out = true;
    quorum_.CountOut(owed.write, owed.index, peer_index, status, actions.outcomes);
  };
  std::vector<Owed> taken = peer.lane.Ended(batch, status, now, count_out);
  std::vector<Owed> refused;
  const auto refuses = [&](size_t i) {
    return std::find_if(response.failures().begin(), response.failures().end(),
                        [&](const auto& failure) { return failure.index() == i; });
  };
  for (size_t i = 0; i < taken.size(); ++i) {
    Owed& owed = taken[i];
    const auto refusal = refuses(i);
    const bool counts =
        std::find(response.unjoined_shards().begin(), response.unjoined_shards().end(),
                  owed.event->shard) == response.unjoined_shards().end();
    if (refusal == response.failures().end() && counts) {
      quorum_.Yes(owed.write, owed.index, peer_index, owed.counted_out, actions.outcomes);
    } else if (!owed.counted_out) {
      const std::string why = refusal != response.failures().end()
                                  ? refusal->message()
                                  : std::string("a replica is not whole yet");
      quorum_.CountOut(owed.write, owed.index, peer_index, absl::UnavailableError(why),
                       actions.outcomes);
    }
    if (refusal == response.failures().end()) continue;
    // While its write may still be acknowledged it must stay; then it is left to a sync, of which
    // the peer is told by a new session.
    if (quorum_.IsPending(owed.write)) {
      owed.counted_out = true;
      refused.push_back(std::move(owed));
    } else {
      peer.lane.NewSession();
    }
  }
  peer.lane.PutBack(std::move(refused), now);
  PumpLanes(now, actions);
}

void Core::PumpLanes(Instant now, Actions& actions) {
  for (const std::unique_ptr<Peer>& peer : peers_) {
    if (peer == nullptr) continue;
    peer->lane.EnforceBounds([&](WriteId id) { return quorum_.IsPending(id); });
    peer->lane.Pump(now, actions);
  }
}

// --- what peers ask of this node ---

void Core::PeerStored(uint32_t peer, absl::Span<const ShardId> shards,
                      v1::ReplicateResponse& response) {
  ++received_[peer];
  for (const ShardId shard : shards) {
    if (joined_[shard]) continue;
    const auto& listed = response.unjoined_shards();
    if (std::find(listed.begin(), listed.end(), shard) == listed.end()) {
      response.add_unjoined_shards(shard);
    }
  }
}

void Core::Polled(uint32_t from, Instant now, v1::PollResponse& response) const {
  response.set_incarnation(options_.incarnation);
  if (own_wall_us_ != 0) response.set_wall_us(own_wall_us_ + (now - own_wall_at_));
  response.set_expired_version(ExpiredVersion());
  response.mutable_received()->Add(received_.begin(), received_.end());
  if (from >= peers_.size() || peers_[from] == nullptr) return;
  const Peer& peer = *peers_[from];
  response.set_lane_session(peer.lane.session());
  response.set_owed_age_us(static_cast<uint64_t>(now - peer.lane.OldestQueued(now)));
  for (const ShardId shard : peer.shared) {
    if (!joined_[shard]) response.add_unjoined_shards(shard);
  }
}

void Core::HeardFrom(uint32_t peer, Instant now) {
  if (peer >= peers_.size() || peers_[peer] == nullptr || freshness_.Reachable(peer)) return;
  peers_[peer]->next_poll = std::min(peers_[peer]->next_poll, now);
}

void Core::AnswerDigests(v1::ReadDigestsResponse& response) const {
  response.set_incarnation(options_.incarnation);
  response.mutable_received()->Add(received_.begin(), received_.end());
}

// --- time and polls ---

void Core::Tick(Instant now, WallUs wall_us, Actions& actions) {
  own_wall_us_ = wall_us;
  own_wall_at_ = now;
  clock_.Own(wall_us, now);
  quorum_.Expire(now, actions.outcomes);
  StopWaitingForTheLate(now, actions);
  for (const ShardId shard : std::exchange(wanted_next_, {})) wanted_[shard] = now;
  PumpLanes(now, actions);
  SendPolls(now, actions);
  JoinWhatIsComplete(actions);
  PullOn(now, actions);
  StartSessions(now, actions);
}

void Core::SendPolls(Instant now, Actions& actions) {
  const bool hasty = !ServesAll(now);
  for (const std::unique_ptr<Peer>& peer : peers_) {
    if (peer == nullptr || peer->polling || now < peer->next_poll) continue;
    peer->polling = true;
    const bool idle = peer->shared.empty() && freshness_.Reachable(peer->index);
    peer->next_poll = now + (idle    ? options_.poll_period_idle_us
                             : hasty ? options_.poll_period_hasty_us
                                     : options_.poll_period_us);
    v1::PollRequest request;
    request.set_placement_version(placement_.version);
    const CallId id = next_id_++;
    calls_[id] = {peer->index, now, CallKind::kPoll};
    actions.calls.push_back({peer->index, id, options_.poll_timeout_us, std::move(request)});
  }
}

void Core::CallEnded(CallId id, const absl::Status& status, PeerResponse response, Instant now,
                     Actions& actions) {
  const auto found = calls_.find(id);
  if (found == calls_.end()) return;
  const PendingCall call = found->second;
  calls_.erase(found);
  Peer& peer = *peers_[call.peer];
  if (call.kind == CallKind::kExpiry) {
    const auto* answer = std::get_if<v1::ReadNewestResponse>(&response);
    expiry_->Answered(peer.index, status, answer != nullptr ? *answer : v1::ReadNewestResponse());
    return DecideExpiry(now, actions);
  }
  if (call.kind == CallKind::kPoll) {
    peer.polling = false;
    const auto* answer = std::get_if<v1::PollResponse>(&response);
    if (status.ok() && answer != nullptr) {
      freshness_.Polled(peer.index, *answer, call.sent, now);
      if (answer->wall_us() != 0) clock_.Heard(peer.index, answer->wall_us(), call.sent, now);
      peer.expired_version = answer->expired_version();
      peer.lane.Reached();
      peer.refusal.clear();
    } else {
      freshness_.PollFailed(peer.index);
      peer.refusal = absl::IsFailedPrecondition(status) ? std::string(status.message()) : "";
    }
    return;
  }
  if (peer.session != nullptr) Pulled(peer, status, std::move(response), now, actions);
}

// --- who may serve ---

absl::Status Core::CheckQuorum(ShardId shard) const {
  uint32_t answering = 0;
  for (const router::Replica& replica : placement_.replicas[shard]) {
    const bool fails =
        replica.instance != options_.self && peers_[replica.instance]->lane.IsFailing();
    if (!fails) ++answering;
  }
  if (answering >= options_.write_quorum) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("only ", answering, " replicas of shard ", shard,
                                             " answer, which are fewer than ",
                                             options_.write_quorum));
}

void Core::StopWaitingForTheLate(Instant now, Actions& actions) {
  Instant fastest = 0;
  for (const std::unique_ptr<Peer>& peer : peers_) {
    if (peer == nullptr || peer->lane.pace_us() == 0) continue;
    fastest = fastest == 0 ? peer->lane.pace_us() : std::min(fastest, peer->lane.pace_us());
  }
  const Instant patience =
      std::clamp(kLateMultiple * fastest, options_.late_min_us, options_.late_max_us);
  for (const std::unique_ptr<Peer>& peer : peers_) {
    if (peer == nullptr) continue;
    const bool is_late = now - peer->lane.OldestQueued(now) >= patience;
    // What was asked for since does not wait for it.
    if (is_late && !peer->is_late) quorum_.StopWaitingFor(peer->index, actions.outcomes);
    peer->is_late = is_late;
  }
  quorum_.StopWaitingUntil(now + kReaderMarginUs, actions.outcomes);
}

// The peer that readers of the shard ask first, where that is not this node: of those in the order
// of the placement that are not away.
uint32_t Core::ReaderOf(ShardId shard) const {
  for (const router::Replica& replica : placement_.replicas[shard]) {
    if (replica.instance == options_.self) return Quorum::kNobody;
    const Peer& peer = *peers_[replica.instance];
    if (!peer.is_late && !peer.lane.IsFailing()) return replica.instance;
  }
  return Quorum::kNobody;
}

absl::Status Core::CheckJoined(ShardId shard) const {
  if (joined_[shard]) return absl::OkStatus();
  if (damaged_[shard]) {
    return absl::UnavailableError(absl::StrCat(placement_.instances[options_.self].id,
                                               " has not got back what its damaged disk lost of "
                                               "shard ",
                                               shard, "; it waits for ",
                                               absl::StrJoin(AwaitedFor(shard), ", ")));
  }
  return absl::UnavailableError(
      absl::StrCat(placement_.instances[options_.self].id, " has not got back the data of shard ",
                   shard, " since its disk was new; it is pulling it from the other replicas"));
}

std::vector<std::string> Core::AwaitedFor(ShardId shard) const {
  std::vector<std::string> ids;
  for (const uint32_t peer : freshness_.NotSeenWhole(shard)) {
    ids.push_back(placement_.instances[peer].id);
  }
  return ids;
}

absl::Status Core::CheckServing(ShardId shard, Instant now) const {
  if (absl::Status status = CheckJoined(shard); !status.ok()) return status;
  if (!HasAllSinceAdopting(shard, now)) {
    return absl::UnavailableError(absl::StrCat(placement_.instances[options_.self].id,
                                               " has just expired what a peer did of shard ", shard,
                                               "; it is comparing what was accepted again"));
  }
  const Instant complete = freshness_.CompleteAsOf(shard, now);
  if (complete != kNever && now - complete <= options_.staleness_max_us) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(
      placement_.instances[options_.self].id, " may lack acknowledged tags of shard ", shard,
      complete == kNever ? " since it started"
                         : absl::StrCat(" of the last ", (now - complete) / 1000, " ms"),
      "; it is comparing with the other replicas", Refusals()));
}

std::string Core::Refusals() const {
  std::string text;
  for (const std::unique_ptr<Peer>& peer : peers_) {
    if (peer == nullptr || peer->refusal.empty()) continue;
    absl::StrAppend(&text, "; ", placement_.instances[peer->index].id, " refuses: ", peer->refusal);
  }
  return text;
}

bool Core::ServesAll(Instant now) const {
  return std::all_of(shards_.begin(), shards_.end(),
                     [&](ShardId shard) { return CheckServing(shard, now).ok(); });
}

CoreStats Core::stats(Instant now) const {
  CoreStats stats = counts_;
  stats.events_pending = quorum_.events_pending();
  for (const std::unique_ptr<Peer>& peer : peers_) {
    if (peer == nullptr) continue;
    stats.owed_events += peer->lane.owed_events();
    stats.owed_bytes += peer->lane.owed_bytes();
    stats.owed_events_most = std::max(stats.owed_events_most, peer->lane.owed_events());
    stats.lanes_dropped += peer->lane.drops();
  }
  for (const ShardId shard : shards_) {
    if (!joined_[shard]) ++stats.shards_unjoined;
    if (damaged(shard)) ++stats.shards_damaged;
    if (CheckServing(shard, now).ok()) ++stats.shards_serving;
    const Instant complete = freshness_.CompleteAsOf(shard, now);
    stats.staleness_us =
        std::max(stats.staleness_us, complete == kNever ? kStalenessUnknownUs : now - complete);
  }
  return stats;
}

bool Core::Quiet() const {
  return quorum_.events_pending() == 0 && session_storage_.empty() && joins_.empty() &&
         expiry_ == nullptr && !expiring_ &&
         std::all_of(peers_.begin(), peers_.end(), [](const std::unique_ptr<Peer>& peer) {
           return peer == nullptr || (peer->lane.owed_events() == 0 && peer->session == nullptr);
         });
}

}  // namespace allezon::replica
