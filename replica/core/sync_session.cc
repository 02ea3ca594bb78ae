// SPDX-License-Identifier: Apache-2.0
#include "replica/core/sync_session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace allezon::replica {
namespace {

constexpr size_t kIdBytes = 16;
// Where a peer has this many times the events of a minute, they are pulled without asking for ids.
constexpr uint64_t kWholeMinuteRatio = 2;

bool SameSet(const v1::SetDigest& theirs, const Digest& own) {
  return theirs.count() == own.count && theirs.sum_low() == absl::Uint128Low64(own.sum) &&
         theirs.sum_high() == absl::Uint128High64(own.sum);
}

}  // namespace

SyncSession::SyncSession(uint64_t placement_version, Scope scope, const DigestSource& digests)
    : placement_version_(placement_version), scope_(std::move(scope)), digests_(digests) {}

SyncSession::Next SyncSession::Begin(Instant now) {
  if (!scope_.only_expired) return AskShards(now);
  expired_of_ = scope_.shards;
  return AskExpired();
}

absl::StatusOr<SyncSession::Next> SyncSession::Answered(PeerResponse response) {
  bytes_ += std::visit([](const auto& message) { return message.ByteSizeLong(); }, response);
  const auto mismatch = [] { return absl::InternalError("a peer's answer is of another kind"); };
  switch (step_) {
    case Step::kExpired:
      if (auto* expired = std::get_if<v1::ReadExpiredResponse>(&response)) {
        return TookExpired(*expired);
      }
      return mismatch();
    case Step::kShards:
    case Step::kHours:
    case Step::kMinutes:
    case Step::kConfirm:
      if (auto* digests = std::get_if<v1::ReadDigestsResponse>(&response)) {
        return TookDigests(*digests);
      }
      return mismatch();
    case Step::kIds:
      if (auto* ids = std::get_if<v1::ReadIdsResponse>(&response)) return TookIds(*ids);
      return mismatch();
    case Step::kEventsById:
    case Step::kAllEvents:
      if (auto* events = std::get_if<v1::ReadEventsResponse>(&response)) {
        return TookEvents(*events);
      }
      return mismatch();
    case Step::kRows:
      if (auto* rows = std::get_if<v1::ReadRowsResponse>(&response)) return TookRows(*rows);
      return mismatch();
  }
  return mismatch();
}

SyncSession::Next SyncSession::Stored(std::string missing) {
  switch (step_) {
    case Step::kExpired:
      return has_more_ ? AskExpired() : AskConfirm();
    case Step::kIds:
      missing_ = std::move(missing);
      if (missing_.empty()) return has_more_ids_ ? AskIds() : NextMinute();
      return AskEvents();
    case Step::kEventsById:
      if (!missing_.empty()) return AskEvents();
      after_ = ids_end_;
      return has_more_ids_ ? AskIds() : NextMinute();
    case Step::kAllEvents:
      return has_more_ ? AskEvents() : NextMinute();
    case Step::kRows:
      return has_more_ ? AskRows() : LookAgain();
    default:
      return {};
  }
}

std::vector<ShardId> SyncSession::TakePulled() { return std::exchange(pulled_, {}); }

bool SyncSession::is_bringing(ShardId shard) const {
  return std::find(shards_.begin(), shards_.end(), shard) != shards_.end() ||
         std::find(unconfirmed_.begin(), unconfirmed_.end(), shard) != unconfirmed_.end();
}

uint64_t SyncSession::TakeBytes() { return std::exchange(bytes_, 0); }

// --- what retention expired ---

SyncSession::Next SyncSession::AskExpired() {
  step_ = Step::kExpired;
  v1::ReadExpiredRequest request;
  request.set_placement_version(placement_version_);
  request.mutable_shards()->Add(expired_of_.begin(), expired_of_.end());
  if (expired_after_) *request.mutable_after() = *expired_after_;
  request.set_since_s(scope_.expired_since_s);
  return PeerRequest(std::move(request));
}

absl::StatusOr<SyncSession::Next> SyncSession::TookExpired(v1::ReadExpiredResponse& response) {
  has_more_ = response.has_more();
  if (response.ranges().empty()) {
    if (has_more_) return absl::InternalError("what a peer expired does not go on");
    return AskConfirm();
  }
  expired_after_ = *response.ranges().rbegin();
  ExpireRanges adopt;
  adopt.ranges.assign(response.ranges().begin(), response.ranges().end());
  return StorageRequest(std::move(adopt));
}

SyncSession::Next SyncSession::AskConfirm() {
  if (unconfirmed_.empty()) return {};
  return AskDigests(Step::kConfirm, DigestsOf(v1::DIGEST_LEVEL_SHARD, {}));
}

// --- digests ---

absl::Status SyncSession::Page::Took(const v1::ReadDigestsResponse& response) {
  has_more = response.has_more();
  const auto& digests = response.digests();
  const bool goes_on = digests.empty() ? !has_more : !after || digests.begin()->start() > *after;
  if (!goes_on) return absl::InternalError("a peer's digests do not go on");
  if (!digests.empty()) after = digests.rbegin()->start();
  return absl::OkStatus();
}

v1::ReadDigestsRequest SyncSession::DigestsOf(v1::DigestLevel level,
                                              absl::Span<const ShardId> shards) const {
  v1::ReadDigestsRequest request;
  request.set_placement_version(placement_version_);
  request.set_level(level);
  request.mutable_shards()->Add(shards.begin(), shards.end());
  return request;
}

SyncSession::Next SyncSession::AskDigests(Step step, v1::ReadDigestsRequest request) {
  step_ = step;
  const std::optional<int64_t> after = step == Step::kHours     ? hour_page_.after
                                       : step == Step::kMinutes ? minute_page_.after
                                                                : std::nullopt;
  if (after) {
    request.mutable_after()->set_shard(shards_.front());
    request.mutable_after()->set_start(*after);
  }
  return PeerRequest(std::move(request));
}

SyncSession::Next SyncSession::AskShards(Instant now) {
  begun_ = now;
  return AskDigests(Step::kShards, DigestsOf(v1::DIGEST_LEVEL_SHARD, scope_.shards));
}

SyncSession::Next SyncSession::AskHours() {
  return AskDigests(Step::kHours, DigestsOf(v1::DIGEST_LEVEL_HOUR, {shards_.front()}));
}

SyncSession::Next SyncSession::AskMinutes() {
  v1::ReadDigestsRequest request = DigestsOf(v1::DIGEST_LEVEL_MINUTE, {shards_.front()});
  request.mutable_hours()->Add(asked_hours_.begin(), asked_hours_.end());
  return AskDigests(Step::kMinutes, std::move(request));
}

absl::StatusOr<SyncSession::Next> SyncSession::TookDigests(
    const v1::ReadDigestsResponse& response) {
  if (step_ != Step::kShards && response.incarnation() != incarnation_) {
    return absl::AbortedError("the peer restarted");
  }
  if (step_ == Step::kConfirm) {
    pulled_.insert(pulled_.end(), unconfirmed_.begin(), unconfirmed_.end());
    return Next();
  }
  if (step_ == Step::kShards) return TookShardDigests(response);
  return step_ == Step::kHours ? TookHourDigests(response) : TookMinuteDigests(response);
}

absl::StatusOr<SyncSession::Next> SyncSession::TookShardDigests(
    const v1::ReadDigestsResponse& response) {
  if (response.expired_hashes_size() != static_cast<int>(scope_.shards.size())) {
    return absl::InternalError("a peer does not say what it has expired");
  }
  incarnation_ = response.incarnation();
  received_ = std::make_shared<std::vector<uint64_t>>(response.received().begin(),
                                                      response.received().end());
  absl::flat_hash_set<ShardId> differ;
  for (const v1::SetDigest& theirs : response.digests()) {
    if (!SameSet(theirs, digests_.ShardDigest(theirs.shard()))) differ.insert(theirs.shard());
  }
  for (size_t i = 0; i < scope_.shards.size(); ++i) {
    const ShardId shard = scope_.shards[i];
    const bool with_rows = scope_.with_rows.contains(shard);
    if (with_rows || response.expired_hashes(static_cast<int>(i)) != digests_.ExpiredHash(shard)) {
      expired_of_.push_back(shard);
    }
    // Equal sets are done with, but for the rows.
    if (with_rows || differ.contains(shard)) {
      shards_.push_back(shard);
    } else {
      pulled_.push_back(shard);
    }
  }
  return NextShard();
}

absl::StatusOr<SyncSession::Next> SyncSession::TookHourDigests(
    const v1::ReadDigestsResponse& response) {
  if (absl::Status status = hour_page_.Took(response); !status.ok()) return status;
  for (const v1::SetDigest& theirs : response.digests()) {
    if (looks_for_raised() ||
        !SameSet(theirs, digests_.HourDigest(shards_.front(), theirs.start()))) {
      hours_.push_back(theirs.start());
    }
  }
  return NextHours();
}

absl::StatusOr<SyncSession::Next> SyncSession::TookMinuteDigests(
    const v1::ReadDigestsResponse& response) {
  if (absl::Status status = minute_page_.Took(response); !status.ok()) return status;
  const ShardId shard = shards_.front();
  for (const v1::SetDigest& theirs : response.digests()) {
    const Digest own = digests_.MinuteDigest(shard, theirs.start());
    // Equal sets may differ in when they were accepted last, which a disk that was new or away must
    // be told of: retention asks for it.
    const bool same = SameSet(theirs, own);
    if (same && !(looks_for_raised() &&
                  theirs.newest_accepted_s() > digests_.NewestAcceptedS(shard, theirs.start()))) {
      continue;
    }
    // What the peer has not expired yet is not missing here.
    const uint32_t expired_through_s = digests_.ExpiredThroughS(shard, theirs.start());
    if (theirs.newest_accepted_s() <= expired_through_s) continue;
    const bool whole =
        !same && expired_through_s == 0 && theirs.count() > kWholeMinuteRatio * own.count;
    minutes_.push_back({theirs.start(), whole});
  }
  return AskInMinute();
}

// --- ids and events ---

SyncSession::Next SyncSession::AskIds() {
  step_ = Step::kIds;
  v1::ReadIdsRequest request;
  request.set_placement_version(placement_version_);
  request.set_shard(shards_.front());
  request.set_minute(minutes_.front().minute);
  request.set_after_id(after_);
  return PeerRequest(std::move(request));
}

SyncSession::Next SyncSession::TookIds(v1::ReadIdsResponse& response) {
  if (response.ids().size() < kIdBytes) return NextMinute();
  has_more_ids_ = response.has_more();
  ids_end_ = response.ids().substr(response.ids().size() - kIdBytes);
  after_ = ids_end_;
  FindMissing find;
  find.shard = shards_.front();
  find.minute = minutes_.front().minute;
  find.ids = std::move(*response.mutable_ids());
  find.accepted_s.assign(response.accepted_s().begin(), response.accepted_s().end());
  find.raised = has_rows_of(find.shard);
  find.keyed_hashes.assign(response.keyed_hashes().begin(), response.keyed_hashes().end());
  return StorageRequest(std::move(find));
}

SyncSession::Next SyncSession::AskEvents() {
  v1::ReadEventsRequest request;
  request.set_placement_version(placement_version_);
  request.set_shard(shards_.front());
  request.set_minute(minutes_.front().minute);
  if (minutes_.front().whole) {
    step_ = Step::kAllEvents;
    request.set_after_id(after_);
    // Whoever sends tags from many minutes has few in each, which are not asked for one by one.
    for (size_t i = 1; i < minutes_.size() && minutes_[i].whole && i <= kMoreMinutesMax; ++i) {
      request.add_more_minutes(minutes_[i].minute);
    }
    asked_minutes_ = 1 + static_cast<size_t>(request.more_minutes_size());
  } else {
    step_ = Step::kEventsById;
    request.set_ids(missing_);
  }
  return PeerRequest(std::move(request));
}

// Leaves the minute to go on in, or the last one, as the first.
absl::Status SyncSession::TookWholeMinutes(const v1::ReadEventsResponse& response) {
  if (!has_more_) {
    minutes_.erase(minutes_.begin(), minutes_.begin() + static_cast<ptrdiff_t>(asked_minutes_) - 1);
    return absl::OkStatus();
  }
  const v1::Event& last = *response.events().rbegin();
  const int64_t minute = router::MinuteOf(last.time_ms());
  for (; asked_minutes_ > 1 && minutes_.front().minute < minute; --asked_minutes_) {
    minutes_.pop_front();
  }
  if (minutes_.front().minute != minute) {
    return absl::InternalError("a peer's event is of a minute that was not asked for");
  }
  after_ = last.id();
  return absl::OkStatus();
}

absl::StatusOr<SyncSession::Next> SyncSession::TookEvents(v1::ReadEventsResponse& response) {
  has_more_ = response.has_more() && !response.events().empty();
  if (step_ == Step::kEventsById) {
    // Those up to the last one were looked at; what is not there any more was taken by retention.
    size_t looked_at = missing_.size();
    if (has_more_) {
      const size_t last = missing_.rfind(response.events().rbegin()->id());
      if (last != std::string::npos) looked_at = last + kIdBytes;
    }
    missing_.erase(0, looked_at);
  } else if (absl::Status status = TookWholeMinutes(response); !status.ok()) {
    return status;
  }
  if (response.events().empty()) return Stored("");
  events_ += response.events().size();
  StoreEvents store;
  store.events.reserve(response.events().size());
  for (v1::Event& event : *response.mutable_events()) store.events.push_back(std::move(event));
  return StorageRequest(std::move(store));
}

SyncSession::Next SyncSession::AskInMinute() {
  after_.clear();
  missing_.clear();
  if (minutes_.empty()) return NextHours();
  return minutes_.front().whole ? AskEvents() : AskIds();
}

SyncSession::Next SyncSession::NextMinute() {
  minutes_.pop_front();
  return AskInMinute();
}

SyncSession::Next SyncSession::NextHours() {
  if (minute_page_.has_more) return AskMinutes();
  minute_page_ = {};
  asked_hours_.clear();
  while (!hours_.empty() && asked_hours_.size() < kDigestHoursMax) {
    asked_hours_.push_back(hours_.front());
    hours_.pop_front();
  }
  if (!asked_hours_.empty()) return AskMinutes();
  if (hour_page_.has_more) return AskHours();
  if (looks_again_) return EndShard();
  return has_rows_of(shards_.front()) ? AskRows() : LookAgain();
}

// --- rows, and the end of a shard ---

SyncSession::Next SyncSession::AskRows() {
  step_ = Step::kRows;
  v1::ReadRowsRequest request;
  request.set_placement_version(placement_version_);
  request.set_shard(shards_.front());
  request.set_after_key(after_);
  return PeerRequest(std::move(request));
}

absl::StatusOr<SyncSession::Next> SyncSession::TookRows(v1::ReadRowsResponse& response) {
  has_more_ = !response.last_key().empty();
  if (has_more_ && response.last_key() <= after_) {
    return absl::InternalError("a peer's rows do not go on");
  }
  after_ = std::move(*response.mutable_last_key());
  if (response.rows().empty()) return has_more_ ? AskRows() : LookAgain();
  StoreRows store;
  store.shard = shards_.front();
  store.rows.reserve(response.rows().size());
  for (v1::ViewRow& row : *response.mutable_rows()) store.rows.push_back(std::move(row));
  return StorageRequest(std::move(store));
}

// While the log was looked at, the event of a key may have made way for one of an earlier minute,
// which was looked at already. And what had expired may have been accepted again, whose row was
// left out then, as that of an event. What differs now has them.
SyncSession::Next SyncSession::LookAgain() {
  looks_again_ = true;
  after_.clear();
  hour_page_ = {};
  return AskHours();
}

SyncSession::Next SyncSession::EndShard() {
  unconfirmed_.push_back(shards_.front());
  shards_.pop_front();
  return NextShard();
}

SyncSession::Next SyncSession::NextShard() {
  looks_again_ = false;
  after_.clear();
  hour_page_ = {};
  if (shards_.empty()) return expired_of_.empty() ? AskConfirm() : AskExpired();
  return AskHours();
}

}  // namespace allezon::replica
