// SPDX-License-Identifier: Apache-2.0
//
// What retention may expire here: by this node's own decision, and by that of a peer.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "replica/core/core.h"
#include "replica/core/core_peer.h"

namespace allezon::replica {
namespace {

constexpr WallUs kSecondUs = 1'000'000;
// How far the earliest and the latest time that it may be now are apart at most where something is
// decided. A record says when that was, by the latest; others go by it.
constexpr WallUs kClocksApartMaxUs = kSecondUs;

}  // namespace

// --- this node's own decision ---

std::optional<WallS> Core::ExpiryHorizonS(Instant now) const {
  if (expiry_ != nullptr || expiring_ || now < next_expiry_) return std::nullopt;
  const std::optional<WallUs> agreed_us = clock_.NotAfterUs(now);
  if (!agreed_us) return std::nullopt;
  // With two clocks heard of more, one of them is wrong: the third will tell which. Where there are
  // only two, there is nothing to wait for.
  const bool are_apart = clock_.NotBeforeUs(now) - *agreed_us > kClocksApartMaxUs;
  if (are_apart && placement_.instances.size() > 2) return std::nullopt;
  return *agreed_us / kSecondUs - options_.retention_s - RetentionMarginS(options_.retention_s);
}

void Core::Expire(std::vector<ExpiryCandidate> candidates, Instant now, Actions& actions) {
  const std::optional<WallS> horizon_s = ExpiryHorizonS(now);
  if (!horizon_s || candidates.empty()) return;
  // All at once for some time, so that neighbouring minutes make one record.
  const bool is_all = candidates.size() < kExpiryBucketsMax;
  next_expiry_ = now + (is_all ? RetentionMarginS(options_.retention_s) * kSecondUs : 0);
  // Nothing that was accepted by now has a later stamp.
  const WallUs latest_us = clock_.NotBeforeUs(now) + StampSlackUs(options_.retention_s);
  expiry_ = std::make_unique<ExpiryRound>(options_.retention_s, *horizon_s,
                                          latest_us / kSecondUs + 1, now);
  const size_t others = placement_.replication_factor - options_.write_quorum;
  for (const ExpiryCandidate& candidate : candidates) {
    const ShardId shard = candidate.bucket.shard;
    if (WallS{candidate.newest_accepted_s} > *horizon_s) continue;
    const std::vector<uint32_t> peers = PeersToAskAbout(shard);
    if (peers.size() == others && CheckServing(shard, now).ok()) {
      expiry_->Add(candidate, peers);
    } else {
      expiry_->NoteFailure();
    }
  }
  for (auto& [peer, request] : expiry_->Requests(placement_.version)) {
    const CallId id = next_id_++;
    calls_[id] = {peer, now, CallKind::kExpiry};
    actions.calls.push_back({peer, id, kExpiryRoundMaxUs, std::move(request)});
  }
  DecideExpiry(now, actions);
}

std::vector<uint32_t> Core::PeersToAskAbout(ShardId shard) const {
  const size_t needed = placement_.replication_factor - options_.write_quorum;
  const std::vector<router::Replica>& replicas = placement_.replicas[shard];
  std::vector<uint32_t> peers;
  for (size_t i = 0; i < replicas.size() && peers.size() < needed; ++i) {
    // One that was too slow to answer is not asked again and again where there are others.
    const uint32_t peer = replicas[(i + expiries_failed_) % replicas.size()].instance;
    if (peer == options_.self || !freshness_.Reachable(peer) ||
        freshness_.IsUnjoined(peer, shard)) {
      continue;
    }
    peers.push_back(peer);
  }
  return peers;
}

void Core::DecideExpiry(Instant now, Actions& actions) {
  if (!expiry_->is_decided()) return;
  ExpireRanges expire;
  expire.only_whole = true;
  const bool is_too_late = expiry_->is_too_late(now);
  if (!is_too_late) expire.ranges = expiry_->Decide();
  if (is_too_late || expiry_->has_failed()) {
    next_expiry_ = now + kExpiryRetryUs;
    ++expiries_failed_;
  }
  OwnExpiry own;
  own.asked = expiry_->begun();
  expiry_.reset();
  // It may have been stopped meanwhile.
  std::erase_if(expire.ranges, [&](const v1::ExpiredRange& range) {
    return !CheckServing(range.shard(), now).ok();
  });
  if (expire.ranges.empty()) return;
  for (const v1::ExpiredRange& range : expire.ranges) {
    counts_.expired_buckets += static_cast<uint64_t>(range.to_minute() - range.from_minute());
    if (own.expired_keyed.empty() || own.expired_keyed.back().first != range.shard()) {
      own.expired_keyed.emplace_back(range.shard(), digests_.ExpiredKeyed(range.shard()));
    }
  }
  own.id = next_id_++;
  actions.storage.push_back({own.id, StorageRequest(std::move(expire))});
  expiring_ = std::move(own);
}

// What was accepted again after the others were asked may have been here by a copy that has gone
// now. So whatever was pulled since then tells only what was here as of then.
void Core::NoteExpired() {
  for (const auto& [shard, expired_keyed] : expiring_->expired_keyed) {
    if (digests_.ExpiredKeyed(shard) == expired_keyed) continue;
    freshness_.LimitTo(shard, expiring_->asked);
    for (const std::unique_ptr<Peer>& peer : peers_) {
      if (peer == nullptr || peer->session == nullptr) continue;
      if (peer->session->begun() <= expiring_->asked) continue;
      Instant& limit = peer->limits.try_emplace(shard, expiring_->asked).first->second;
      limit = std::min(limit, expiring_->asked);
    }
    if (expiring_->asked <= adopted_[shard]) freshness_.ForgetSyncs(shard);
  }
  expiring_.reset();
}

uint32_t Core::NewestToTell(ShardId shard, uint32_t newest_accepted_s) const {
  return shard < joined_.size() && joined_[shard] ? newest_accepted_s : UINT32_MAX;
}

uint64_t Core::ExpiredVersion() const {
  uint64_t version = 1;  // 0 says that nothing was heard
  for (const ShardId shard : shards_) {
    version = (version ^ digests_.ExpiredHash(shard)) * 0x9e3779b97f4a7c15u;
  }
  return version;
}

// --- a peer's decision ---

// What was accepted up to then is in this node's log or among its rows. An event may be
// acknowledged as long after its stamp as a write takes and the stamp may be behind.
WallS Core::CompleteOfShardS(ShardId shard, Instant now) const {
  if (!joined_[shard]) return 0;
  WallS complete_s = noted_complete_s_;
  const Instant complete = freshness_.CompleteAsOf(shard, now);
  const std::optional<WallUs> agreed_us = clock_.NotAfterUs(now);
  if (complete != kNever && agreed_us) {
    const WallUs wall_us = *agreed_us - (now - complete) - options_.write_timeout_max_us -
                           StampSlackUs(options_.retention_s);
    complete_s = std::max(complete_s, wall_us / kSecondUs - 1);
  }
  return complete_s;
}

std::optional<WallS> Core::CompleteS(Instant now) const {
  if (!clock_.NotAfterUs(now) || !ServesAll(now)) return std::nullopt;
  WallS complete_s = std::numeric_limits<WallS>::max();
  for (const ShardId shard : shards_) {
    complete_s = std::min(complete_s, CompleteOfShardS(shard, now));
  }
  return complete_s;
}

absl::flat_hash_set<ShardId> Core::WithRows(absl::Span<const ShardId> shards, Instant now) const {
  const std::optional<WallUs> agreed_us = clock_.NotAfterUs(now);
  absl::flat_hash_set<ShardId> with_rows;
  for (const ShardId shard : shards) {
    // Peers have expired nothing that was accepted later. The session takes some time.
    const bool was_away =
        agreed_us && CompleteOfShardS(shard, now) < *agreed_us / kSecondUs - options_.retention_s +
                                                        2 * RetentionMarginS(options_.retention_s);
    if (!joined_[shard] || was_away) with_rows.insert(shard);
  }
  return with_rows;
}

absl::Status Core::KeepAdoptable(const SyncSession& session, Instant now,
                                 ExpireRanges& adopt) const {
  const std::optional<WallUs> agreed_us = clock_.NotAfterUs(now);
  absl::Status status;
  std::erase_if(adopt.ranges, [&](const v1::ExpiredRange& range) {
    const ShardId shard = range.shard();
    if (shard >= holds_.size() || !holds_[shard]) return true;
    // Peers tell again and again what was expired lately.
    if (digests_.HasExpired(range)) return true;
    // Whatever is said of its events, that the minutes are gone is so.
    if (range.through_s() == 0) return false;
    const WallS through_s = range.through_s();
    const bool is_old = agreed_us && through_s + options_.retention_s <= *agreed_us / kSecondUs;
    const bool has_all = session.has_rows_of(shard) || CompleteOfShardS(shard, now) >= through_s;
    if (is_old && has_all) return false;
    // Its log does not hold what the peer has expired: without the record it would seem empty.
    if (session.has_rows_of(shard)) {
      status = absl::UnavailableError(absl::StrCat(
          "too few clocks agree that what a peer expired of shard ", shard, " is old enough"));
    } else if (session.is_bringing(shard)) {
      // So long a session that what it was to bring was expired meanwhile, and its rows were not
      // asked for: the next one will.
      status = absl::UnavailableError(
          absl::StrCat("a peer has expired of shard ", shard, " what was to be pulled"));
    }
    return true;
  });
  return status;
}

}  // namespace allezon::replica
