// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/store.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <utility>

namespace allezon::sim {
namespace {

constexpr size_t kIdBytes = std::tuple_size_v<EventId>;

EventId ToId(std::string_view bytes) {
  EventId id;
  std::memcpy(id.data(), bytes.data(), id.size());
  return id;
}

int64_t HourOf(int64_t minute) { return (minute - (((minute % 60) + 60) % 60)) / 60; }

bool IsKeyed(const EventRef& event) { return router::IsKeyed(router::AsBytes(event->id)); }

void AppendBigEndian(uint64_t value, int bytes, std::string& key) {
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) {
    key.push_back(static_cast<char>(value >> shift & 0xff));
  }
}

// cookie | inverted time | id
std::string RowKey(const EventRef& event) {
  std::string key;
  AppendBigEndian(TagContent::Parse(event->tag).cookie, 4, key);
  AppendBigEndian(~static_cast<uint64_t>(event->time_ms), 8, key);
  key.append(router::AsBytes(event->id));
  return key;
}

v1::SetDigest* AddDigest(ShardId shard, int64_t start, const replica::Digest& digest,
                         v1::ReadDigestsResponse& response) {
  if (digest.count == 0) return nullptr;
  v1::SetDigest& added = *response.add_digests();
  added.set_shard(shard);
  added.set_start(start);
  added.set_count(digest.count);
  added.set_sum_low(absl::Uint128Low64(digest.sum));
  added.set_sum_high(absl::Uint128High64(digest.sum));
  return &added;
}

// The minute's events after the id; none where it is not there.
template <typename Visit>
void VisitAfter(const SimStore& store, ShardId shard, int64_t minute, std::string_view after,
                Visit visit) {
  const auto found = store.minutes(shard).find(minute);
  if (found == store.minutes(shard).end()) return;
  const SimStore::Events& events = found->second.events;
  auto event = after.empty() ? events.begin() : events.upper_bound(ToId(after));
  while (event != events.end() && visit(event->second)) ++event;
}

}  // namespace

std::string TagContent::Serialise() const {
  std::string bytes(sizeof(TagContent), 0);
  std::memcpy(bytes.data(), this, sizeof(TagContent));
  return bytes;
}

TagContent TagContent::Parse(std::string_view tag) {
  TagContent content;
  std::memcpy(&content, tag.data(), sizeof(content));
  return content;
}

EventRef WithStamp(const EventRef& event, uint32_t accepted_s) {
  if (event->accepted_s == accepted_s) return event;
  auto stamped = std::make_shared<router::Event>(*event);
  stamped->accepted_s = accepted_s;
  return stamped;
}

uint64_t ContentHash(std::string_view tag) {
  replica::Digest digest;
  digest.Add("", tag);
  return absl::Uint128Low64(digest.sum);
}

SimStore::SimStore(uint32_t shards, uint32_t raise_slack_s)
    : raise_slack_s_(raise_slack_s), shards_(shards) {}

uint8_t& SimStore::Held(const EventRef& event) {
  const uint32_t index = IndexOf(event);
  if (held_.size() <= index) held_.resize(index + 100);
  return held_[index];
}

void SimStore::Put(const EventRef& event) {
  const EventRef held = IsKeyed(event) ? Keyed(event->shard, event->id)
                                       : Find(event->shard, MinuteOf(event), event->id);
  if (held != nullptr && !IsKeyed(event)) return;
  if (held != nullptr && held->tag == event->tag && held->time_ms == event->time_ms) {
    return Raise(held, event->accepted_s);
  }
  // What retention expired does not come back by a late copy, but its row may not have come yet.
  const bool is_late = event->accepted_s <= ExpiredThroughS(event->shard, MinuteOf(event));
  if (held == nullptr) {
    if (!is_late) Insert(event);
    return PutRow(event);
  }
  if (is_late) return;
  // Whichever is kept, the key was accepted again.
  const uint32_t accepted_s = std::max(held->accepted_s, event->accepted_s);
  if (ContentHash(event->tag) < ContentHash(held->tag)) {
    Replace(held, WithStamp(event, accepted_s));
  } else {
    Raise(held, accepted_s);
  }
}

void SimStore::Insert(const EventRef& event) {
  Shard& shard = shards_[event->shard];
  const int64_t start = MinuteOf(event);
  Minute& minute = shard.minutes[start];
  minute.events[event->id] = event;
  minute.digest.Add(router::AsBytes(event->id), event->tag);
  minute.sum_price += TagContent::Parse(event->tag).price;
  minute.newest_accepted_s = std::max(minute.newest_accepted_s, event->accepted_s);
  if (IsKeyed(event)) shard.keyed[event->id] = start;
  Held(event) |= kInLog;
}

void SimStore::Raise(const EventRef& held, uint32_t accepted_s) {
  if (!IsRaisedBy(held, accepted_s)) return;
  const EventRef raised = WithStamp(held, accepted_s);
  Minute& minute = shards_[held->shard].minutes[MinuteOf(held)];
  minute.newest_accepted_s = std::max(minute.newest_accepted_s, accepted_s);
  minute.events[held->id] = raised;
  PutRow(raised);
}

void SimStore::Replace(const EventRef& held, const EventRef& by) {
  const EventRef old = held;  // it may be the log's own
  Remove(old);
  shards_[old->shard].rows.erase(RowKey(old));
  Held(old) &= static_cast<uint8_t>(~kAsRow);
  Insert(by);
  PutRow(by);
}

void SimStore::Remove(const EventRef& held) {
  Shard& shard = shards_[held->shard];
  const auto found = shard.minutes.find(MinuteOf(held));
  Minute& minute = found->second;
  minute.digest.Remove(router::AsBytes(held->id), held->tag);
  minute.sum_price -= TagContent::Parse(held->tag).price;
  if (IsKeyed(held)) shard.keyed.erase(held->id);
  Held(held) &= static_cast<uint8_t>(~kInLog);
  minute.events.erase(held->id);
  if (minute.events.empty()) shard.minutes.erase(found);
}

void SimStore::PutRow(const EventRef& event) {
  EventRef& row = shards_[event->shard].rows[RowKey(event)];
  // An old copy changes nothing. Two bodies of one key may share a row.
  if (row != nullptr && (Has(IndexOf(row)) || row->accepted_s >= event->accepted_s) &&
      !Has(IndexOf(event))) {
    return;
  }
  if (row != nullptr) Held(row) &= static_cast<uint8_t>(~kAsRow);
  row = event;
  Held(event) |= kAsRow;
}

void SimStore::PutRows(const replica::StoreRows& request) {
  for (const v1::ViewRow& row : request.rows) {
    v1::Event event;
    if (event.ParseFromString(row.value())) PutRow(FromProto(event));
  }
}

void SimStore::Expire(const replica::ExpireRanges& request,
                      const std::function<void(const EventRef&)>& dropped) {
  for (const v1::ExpiredRange& range : request.ranges) {
    Shard& shard = shards_[range.shard()];
    const replica::ExpiredMark mark{range.through_s(), range.removed_through_s(),
                                    range.expired_at_s()};
    std::vector<int64_t> left_out;
    std::vector<EventRef> gone;
    for (auto at = shard.minutes.lower_bound(range.from_minute());
         at != shard.minutes.end() && at->first < range.to_minute(); ++at) {
      Minute& minute = at->second;
      if (request.only_whole && minute.newest_accepted_s > range.through_s()) {
        left_out.push_back(at->first);
        continue;
      }
      uint32_t newest = 0;
      for (const auto& [id, event] : minute.events) {
        if (event->accepted_s <= range.through_s()) {
          gone.push_back(event);
        } else {
          newest = std::max(newest, event->accepted_s);
        }
      }
      minute.newest_accepted_s = newest;
    }
    int64_t from = range.from_minute();
    for (const int64_t minute : left_out) {
      shard.expired.Join(from, minute, mark);
      from = minute + 1;
    }
    shard.expired.Join(from, range.to_minute(), mark);
    for (const EventRef& event : gone) {
      if (router::IsKeyed(router::AsBytes(event->id))) ++shard.expired_keyed;
      Remove(event);
      dropped(event);
    }
  }
}

EventRef SimStore::Keyed(ShardId shard, const EventId& id) const {
  const auto found = shards_[shard].keyed.find(id);
  return found == shards_[shard].keyed.end() ? nullptr : Find(shard, found->second, id);
}

EventRef SimStore::Find(ShardId shard, int64_t minute, const EventId& id) const {
  const auto found = shards_[shard].minutes.find(minute);
  if (found == shards_[shard].minutes.end()) return nullptr;
  const auto event = found->second.events.find(id);
  return event == found->second.events.end() ? nullptr : event->second;
}

replica::Digest SimStore::ShardDigest(ShardId shard) const {
  replica::Digest digest;
  for (const auto& [start, minute] : shards_[shard].minutes) digest.Add(minute.digest);
  return digest;
}

replica::Digest SimStore::HourDigest(ShardId shard, int64_t hour) const {
  replica::Digest digest;
  const Minutes& minutes = shards_[shard].minutes;
  auto minute = minutes.lower_bound(hour * 60);
  for (; minute != minutes.end() && HourOf(minute->first) == hour; ++minute) {
    digest.Add(minute->second.digest);
  }
  return digest;
}

replica::Digest SimStore::MinuteDigest(ShardId shard, int64_t minute) const {
  const auto found = shards_[shard].minutes.find(minute);
  return found == shards_[shard].minutes.end() ? replica::Digest() : found->second.digest;
}

uint32_t SimStore::NewestAcceptedS(ShardId shard, int64_t minute) const {
  const auto found = shards_[shard].minutes.find(minute);
  return found == shards_[shard].minutes.end() ? 0 : found->second.newest_accepted_s;
}

uint32_t SimStore::ExpiredThroughS(ShardId shard, int64_t minute) const {
  return ExpiredOf(shard, minute).through_s;
}

bool SimStore::HasExpired(const v1::ExpiredRange& range) const {
  return shards_[range.shard()].expired.Has(
      range.from_minute(), range.to_minute(),
      {range.through_s(), range.removed_through_s(), range.expired_at_s()});
}

uint64_t SimStore::ExpiredHash(ShardId shard) const { return shards_[shard].expired.hash(); }

void ReadDigests(const SimStore& store, const v1::ReadDigestsRequest& request, const Pages& pages,
                 v1::ReadDigestsResponse& response) {
  if (request.level() == v1::DIGEST_LEVEL_SHARD) {
    for (const ShardId shard : request.shards()) {
      AddDigest(shard, 0, store.ShardDigest(shard), response);
      response.add_expired_hashes(store.ExpiredHash(shard));
    }
    return;
  }
  const bool of_hours = request.level() == v1::DIGEST_LEVEL_HOUR;
  const std::set<int64_t> hours(request.hours().begin(), request.hours().end());
  // Sessions ask about one shard at a time.
  const ShardId shard = request.shards(0);
  std::optional<int64_t> after;
  if (request.has_after()) after = request.after().start();
  for (const auto& [start, minute] : store.minutes(shard)) {
    const int64_t hour = HourOf(start);
    if (after && (of_hours ? hour : start) <= *after) continue;
    if (!of_hours && !hours.contains(hour)) continue;
    if (response.digests_size() == (of_hours ? pages.hours : pages.minutes)) {
      return response.set_has_more(true);
    }
    const replica::Digest digest = of_hours ? store.HourDigest(shard, hour) : minute.digest;
    after = of_hours ? hour : start;
    v1::SetDigest* const added = AddDigest(shard, *after, digest, response);
    if (!of_hours && added != nullptr) added->set_newest_accepted_s(minute.newest_accepted_s);
  }
}

v1::ReadIdsResponse ReadIds(const SimStore& store, const v1::ReadIdsRequest& request,
                            const Pages& pages) {
  v1::ReadIdsResponse response;
  VisitAfter(store, request.shard(), request.minute(), request.after_id(),
             [&](const EventRef& event) {
               if (response.accepted_s_size() == pages.ids) {
                 response.set_has_more(true);
                 return false;
               }
               response.mutable_ids()->append(event->id.data(), kIdBytes);
               response.add_accepted_s(event->accepted_s);
               if (IsKeyed(event)) response.add_keyed_hashes(ContentHash(event->tag));
               return true;
             });
  return response;
}

v1::ReadEventsResponse ReadEvents(const SimStore& store, const v1::ReadEventsRequest& request,
                                  const Pages& pages) {
  v1::ReadEventsResponse response;
  if (request.ids().empty()) {
    std::string_view after = request.after_id();
    std::vector<int64_t> minutes = {request.minute()};
    minutes.insert(minutes.end(), request.more_minutes().begin(), request.more_minutes().end());
    for (const int64_t minute : minutes) {
      VisitAfter(store, request.shard(), minute, std::exchange(after, {}),
                 [&](const EventRef& event) {
                   if (response.events_size() == pages.events) {
                     response.set_has_more(true);
                     return false;
                   }
                   *response.add_events() = ToProto(event);
                   return true;
                 });
    }
    return response;
  }
  for (size_t at = 0; at + kIdBytes <= request.ids().size(); at += kIdBytes) {
    if (response.events_size() == pages.events) {
      response.set_has_more(true);
      break;
    }
    const EventRef event =
        store.Find(request.shard(), request.minute(), ToId(request.ids().substr(at, kIdBytes)));
    if (event != nullptr) *response.add_events() = ToProto(event);
  }
  return response;
}

v1::ReadExpiredResponse ReadExpired(const SimStore& store, const v1::ReadExpiredRequest& request,
                                    const Pages& pages) {
  v1::ReadExpiredResponse response;
  std::vector<ShardId> shards(request.shards().begin(), request.shards().end());
  std::sort(shards.begin(), shards.end());
  for (const ShardId shard : shards) {
    std::optional<int64_t> beyond;
    if (request.has_after()) {
      if (shard < request.after().shard()) continue;
      if (shard == request.after().shard()) beyond = request.after().to_minute();
    }
    const replica::ExpiredRanges& records = store.expired(shard);
    for (auto at = records.Beyond(beyond); at != records.ranges().end(); ++at) {
      const auto& [from, record] = *at;
      if (record.mark.expired_at_s < request.since_s()) continue;
      if (response.ranges_size() == pages.expired) {
        response.set_has_more(true);
        return response;
      }
      v1::ExpiredRange& range = *response.add_ranges();
      range.set_shard(shard);
      range.set_from_minute(from);
      range.set_to_minute(record.to);
      range.set_through_s(record.mark.through_s);
      range.set_removed_through_s(record.mark.removed_through_s);
      range.set_expired_at_s(record.mark.expired_at_s);
    }
  }
  return response;
}

v1::ReadRowsResponse ReadRows(const SimStore& store, const v1::ReadRowsRequest& request,
                              const Pages& pages) {
  v1::ReadRowsResponse response;
  const SimStore::Rows& rows = store.rows(request.shard());
  int looked_at = 0;
  for (auto row = rows.upper_bound(request.after_key()); row != rows.end(); ++row) {
    if (response.rows_size() == pages.rows || looked_at == pages.rows_looked_at) {
      response.set_last_key(std::prev(row)->first);
      break;
    }
    ++looked_at;
    // The others come with their events.
    const EventRef& event = row->second;
    const replica::ExpiredMark mark = store.ExpiredOf(event->shard, MinuteOf(event));
    if (event->accepted_s > mark.removed_through_s) continue;
    v1::ViewRow& added = *response.add_rows();
    added.set_key(row->first);
    added.set_value(ToProto(event).SerializeAsString());
  }
  return response;
}

std::string MissingOf(const SimStore& store, const replica::FindMissing& request) {
  std::string missing;
  const uint32_t through_s = store.ExpiredThroughS(request.shard, request.minute);
  size_t keyed = 0;
  for (size_t i = 0; i < request.ids.size() / kIdBytes; ++i) {
    const std::string id = request.ids.substr(i * kIdBytes, kIdBytes);
    const uint64_t hash = router::IsKeyed(id) ? request.keyed_hashes[keyed++] : 0;
    if (request.accepted_s[i] <= through_s) continue;
    const EventRef held = router::IsKeyed(id) ? store.Keyed(request.shard, ToId(id))
                                              : store.Find(request.shard, request.minute, ToId(id));
    const bool is_here =
        held != nullptr && !(router::IsKeyed(id) && ContentHash(held->tag) > hash) &&
        !(request.raised && router::IsKeyed(id) && store.IsRaisedBy(held, request.accepted_s[i]));
    if (!is_here) missing += id;
  }
  return missing;
}

v1::Event ToProto(const EventRef& event) {
  v1::Event proto;
  proto.set_shard(event->shard);
  proto.set_id(event->id.data(), event->id.size());
  proto.set_accepted_s(event->accepted_s);
  proto.set_time_ms(event->time_ms);
  proto.set_tag(event->tag);
  return proto;
}

EventRef FromProto(const v1::Event& proto) {
  auto event = std::make_shared<router::Event>();
  event->shard = proto.shard();
  event->id = ToId(proto.id());
  event->accepted_s = proto.accepted_s();
  event->time_ms = proto.time_ms();
  event->tag = proto.tag();
  return event;
}

}  // namespace allezon::sim
