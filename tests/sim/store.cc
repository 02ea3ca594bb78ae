// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/store.h"

#include <cstring>
#include <memory>

namespace allezon::sim {
namespace {

constexpr size_t kIdBytes = std::tuple_size_v<EventId>;

EventId ToId(std::string_view bytes) {
  EventId id;
  std::memcpy(id.data(), bytes.data(), id.size());
  return id;
}

int64_t HourOf(int64_t minute) { return (minute - (((minute % 60) + 60) % 60)) / 60; }

void AddDigest(ShardId shard, int64_t start, const replica::Digest& digest,
               v1::ReadDigestsResponse& response) {
  if (digest.count == 0) return;
  v1::SetDigest& added = *response.add_digests();
  added.set_shard(shard);
  added.set_start(start);
  added.set_count(digest.count);
  added.set_sum_low(absl::Uint128Low64(digest.sum));
  added.set_sum_high(absl::Uint128High64(digest.sum));
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

SimStore::SimStore(uint32_t shards) : shards_(shards) {}

void SimStore::Add(const EventRef& event) {
  Minute& minute = shards_[event->shard][router::MinuteOf(event->time_ms)];
  if (!minute.events.emplace(event->id, event).second) return;
  minute.digest.Add(router::AsBytes(event->id), event->tag);
  const TagContent content = TagContent::Parse(event->tag);
  minute.sum_price += content.price;
  Profile& profile = profiles_[content.cookie];
  profile.insert(event);
  if (profile.size() > kProfileTagsMax) profile.erase(std::prev(profile.end()));
  if (held_.size() <= content.index) held_.resize(content.index + 100);
  held_[content.index] = true;
}

bool SimStore::Has(ShardId shard, int64_t minute, std::string_view id) const {
  const auto found = shards_[shard].find(minute);
  return found != shards_[shard].end() && found->second.events.contains(ToId(id));
}

const SimStore::Profile& SimStore::profile(uint32_t cookie) const {
  static const Profile* const empty = new Profile;
  const auto found = profiles_.find(cookie);
  return found == profiles_.end() ? *empty : found->second;
}

replica::Digest SimStore::ShardDigest(ShardId shard) const {
  replica::Digest digest;
  for (const auto& [start, minute] : shards_[shard]) digest.Add(minute.digest);
  return digest;
}

replica::Digest SimStore::HourDigest(ShardId shard, int64_t hour) const {
  replica::Digest digest;
  auto minute = shards_[shard].lower_bound(hour * 60);
  for (; minute != shards_[shard].end() && HourOf(minute->first) == hour; ++minute) {
    digest.Add(minute->second.digest);
  }
  return digest;
}

replica::Digest SimStore::MinuteDigest(ShardId shard, int64_t minute) const {
  const auto found = shards_[shard].find(minute);
  return found == shards_[shard].end() ? replica::Digest() : found->second.digest;
}

void ReadDigests(const SimStore& store, const v1::ReadDigestsRequest& request,
                 v1::ReadDigestsResponse& response) {
  for (const ShardId shard : request.shards()) {
    if (request.level() == v1::DIGEST_LEVEL_SHARD) {
      AddDigest(shard, 0, store.ShardDigest(shard), response);
      continue;
    }
    int64_t last_hour = std::numeric_limits<int64_t>::min();
    for (const auto& [start, minute] : store.minutes(shard)) {
      const int64_t hour = HourOf(start);
      if (request.level() == v1::DIGEST_LEVEL_MINUTE) {
        if (hour == request.hour()) AddDigest(shard, start, minute.digest, response);
      } else if (hour != last_hour) {
        AddDigest(shard, hour, store.HourDigest(shard, hour), response);
        last_hour = hour;
      }
    }
  }
}

v1::ReadIdsResponse ReadIds(const SimStore& store, const v1::ReadIdsRequest& request,
                            int page_entries) {
  v1::ReadIdsResponse response;
  VisitAfter(store, request.shard(), request.minute(), request.after_id(),
             [&](const EventRef& event) {
               if (response.accepted_s_size() == page_entries) {
                 response.set_has_more(true);
                 return false;
               }
               response.mutable_ids()->append(event->id.data(), kIdBytes);
               response.add_accepted_s(event->accepted_s);
               return true;
             });
  return response;
}

v1::ReadEventsResponse ReadEvents(const SimStore& store, const v1::ReadEventsRequest& request,
                                  int page_entries) {
  v1::ReadEventsResponse response;
  if (request.ids().empty()) {
    VisitAfter(store, request.shard(), request.minute(), request.after_id(),
               [&](const EventRef& event) {
                 if (response.events_size() == page_entries) {
                   response.set_has_more(true);
                   return false;
                 }
                 *response.add_events() = ToProto(event);
                 return true;
               });
    return response;
  }
  const auto found = store.minutes(request.shard()).find(request.minute());
  if (found == store.minutes(request.shard()).end()) return response;
  for (size_t at = 0; at + kIdBytes <= request.ids().size(); at += kIdBytes) {
    if (response.events_size() == page_entries) {
      response.set_has_more(true);
      break;
    }
    const auto event = found->second.events.find(ToId(request.ids().substr(at, kIdBytes)));
    if (event != found->second.events.end()) *response.add_events() = ToProto(event->second);
  }
  return response;
}

std::string MissingOf(const SimStore& store, const replica::FindMissing& request) {
  std::string missing;
  for (size_t at = 0; at + kIdBytes <= request.ids.size(); at += kIdBytes) {
    const std::string id = request.ids.substr(at, kIdBytes);
    if (!store.Has(request.shard, request.minute, id)) missing += id;
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
