// SPDX-License-Identifier: Apache-2.0
//
// What one simulated disk holds: the log, its digests, and both views in their simplest form.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "replica/core/types.h"
#include "router/writer.h"

namespace allezon::sim {

using router::EventId;
using router::EventRef;
using router::ShardId;

// What a simulated tag says. Serialised, it is these 12 bytes.
struct TagContent {
  uint32_t index = 0;  // the oracle's
  uint32_t cookie = 0;
  int32_t price = 0;

  std::string Serialise() const;
  static TagContent Parse(std::string_view tag);
};

inline uint32_t IndexOf(const EventRef& event) { return TagContent::Parse(event->tag).index; }

inline constexpr size_t kProfileTagsMax = 200;

class SimStore : public replica::DigestSource {
 public:
  // The order of log keys.
  struct ById {
    bool operator()(const EventId& a, const EventId& b) const {
      return router::AsBytes(a) < router::AsBytes(b);
    }
  };
  using Events = std::map<EventId, EventRef, ById>;
  struct Minute {
    Events events;
    replica::Digest digest;
    int64_t sum_price = 0;  // the aggregate view
  };
  using Minutes = std::map<int64_t, Minute>;
  // The profile view: the newest of a cookie, newest first.
  struct Newer {
    bool operator()(const EventRef& a, const EventRef& b) const {
      return a->time_ms != b->time_ms ? a->time_ms > b->time_ms
                                      : router::AsBytes(a->id) < router::AsBytes(b->id);
    }
  };
  using Profile = std::set<EventRef, Newer>;

  explicit SimStore(uint32_t shards);

  // Nothing where it is held already.
  void Add(const EventRef& event);
  bool Has(ShardId shard, int64_t minute, std::string_view id) const;
  // By the oracle's index.
  bool Has(uint32_t index) const { return index < held_.size() && held_[index]; }

  const Minutes& minutes(ShardId shard) const { return shards_[shard]; }
  const Profile& profile(uint32_t cookie) const;
  uint32_t shards() const { return static_cast<uint32_t>(shards_.size()); }

  replica::Digest ShardDigest(ShardId shard) const override;
  replica::Digest HourDigest(ShardId shard, int64_t hour) const override;
  replica::Digest MinuteDigest(ShardId shard, int64_t minute) const override;

 private:
  std::vector<Minutes> shards_;
  std::map<uint32_t, Profile> profiles_;
  std::vector<bool> held_;
};

// Answers what a peer reads of the set; at most `page_entries` ids or events at a time.
void ReadDigests(const SimStore& store, const v1::ReadDigestsRequest& request,
                 v1::ReadDigestsResponse& response);
v1::ReadIdsResponse ReadIds(const SimStore& store, const v1::ReadIdsRequest& request,
                            int page_entries);
v1::ReadEventsResponse ReadEvents(const SimStore& store, const v1::ReadEventsRequest& request,
                                  int page_entries);
// The ids of FindMissing that the store lacks.
std::string MissingOf(const SimStore& store, const replica::FindMissing& request);

v1::Event ToProto(const EventRef& event);
EventRef FromProto(const v1::Event& event);

}  // namespace allezon::sim
