// SPDX-License-Identifier: Apache-2.0
//
// What the store tells peers, in pages, of hours and minutes: how many there are, whoever sends
// tags decides.
#include <algorithm>

#include "absl/container/btree_set.h"
#include "absl/strings/str_cat.h"
#include "replica/store.h"

namespace allezon::replica {
namespace {

// Of hours or minutes, in one answer; replica.proto promises it.
constexpr size_t kDigestsMax = 2'000;
constexpr int kExpiredMax = 10'000;
// Looked at at once, for which commits wait.
constexpr size_t kRangesAtOnceMax = 1'000;

size_t RoomIn(const v1::ReadDigestsResponse& response) {
  return kDigestsMax - static_cast<size_t>(response.digests_size());
}

}  // namespace

absl::Status Store::AppendMinutes(ShardId shard, const absl::btree_set<int64_t>& hours,
                                  std::optional<int64_t> after,
                                  v1::ReadDigestsResponse& response) const {
  auto hour = after ? hours.lower_bound(HourOf(*after)) : hours.begin();
  for (; hour != hours.end() && RoomIn(response) > 0; ++hour) {
    absl::Status status =
        digests_.AppendMinutes(shard, *hour, after, RoomIn(response), *response.mutable_digests());
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Store::ReadDigests(const v1::ReadDigestsRequest& request,
                                v1::ReadDigestsResponse& response) const {
  response.clear_digests();
  response.clear_expired_hashes();
  response.clear_has_more();
  if (request.level() != v1::DIGEST_LEVEL_SHARD && request.level() != v1::DIGEST_LEVEL_HOUR &&
      request.level() != v1::DIGEST_LEVEL_MINUTE) {
    return absl::InvalidArgumentError("digests are by shard, hour or minute");
  }
  if (request.hours_size() > kDigestHoursMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("digests of minutes are of at most ", kDigestHoursMax, " hours"));
  }
  const absl::btree_set<ShardId> shards(request.shards().begin(), request.shards().end());
  for (const ShardId shard : shards) {
    if (absl::Status status = CheckRange(shard, {}); !status.ok()) return status;
  }
  if (request.level() == v1::DIGEST_LEVEL_SHARD) {
    absl::MutexLock lock(&mutex_);
    for (const ShardId shard : shards) digests_.AppendShard(shard, *response.mutable_digests());
    for (const ShardId shard : request.shards()) {
      response.add_expired_hashes(expired_[shard].hash());
    }
    return absl::OkStatus();
  }
  const absl::btree_set<int64_t> hours(request.hours().begin(), request.hours().end());
  for (const ShardId shard : shards) {
    if (request.has_after() && shard < request.after().shard()) continue;
    std::optional<int64_t> after;
    if (request.has_after() && shard == request.after().shard()) after = request.after().start();
    absl::Status status =
        request.level() == v1::DIGEST_LEVEL_HOUR
            ? digests_.AppendHours(shard, after, RoomIn(response), *response.mutable_digests())
            : AppendMinutes(shard, hours, after, response);
    if (!status.ok()) return status;
  }
  response.set_has_more(RoomIn(response) == 0);
  return absl::OkStatus();
}

bool Store::AppendExpired(ShardId shard, std::optional<int64_t> beyond, uint32_t since_s,
                          v1::ReadExpiredResponse& response) const {
  while (true) {
    absl::MutexLock lock(&mutex_);
    const ExpiredRanges::Map& ranges = expired_[shard].ranges();
    auto at = expired_[shard].Beyond(beyond);
    for (size_t looked_at = 0; looked_at < kRangesAtOnceMax; ++looked_at, ++at) {
      if (at == ranges.end()) return true;
      const auto& [from, range] = *at;
      beyond = range.to;
      if (range.mark.expired_at_s < since_s) continue;
      if (response.ranges_size() == kExpiredMax) return false;
      v1::ExpiredRange& told = *response.add_ranges();
      told.set_shard(shard);
      told.set_from_minute(from);
      told.set_to_minute(range.to);
      told.set_through_s(range.mark.through_s);
      told.set_removed_through_s(range.mark.removed_through_s);
      told.set_expired_at_s(range.mark.expired_at_s);
    }
  }
}

absl::Status Store::ReadExpired(const v1::ReadExpiredRequest& request,
                                v1::ReadExpiredResponse& response) const {
  response.Clear();
  const absl::btree_set<ShardId> shards(request.shards().begin(), request.shards().end());
  for (const ShardId shard : shards) {
    if (absl::Status status = CheckRange(shard, {}); !status.ok()) return status;
  }
  for (const ShardId shard : shards) {
    if (request.has_after() && shard < request.after().shard()) continue;
    std::optional<int64_t> beyond;
    if (request.has_after() && shard == request.after().shard()) {
      beyond = request.after().to_minute();
    }
    if (!AppendExpired(shard, beyond, request.since_s(), response)) {
      response.set_has_more(true);
      break;
    }
  }
  return absl::OkStatus();
}

}  // namespace allezon::replica
