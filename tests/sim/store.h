// SPDX-License-Identifier: Apache-2.0
//
// What one simulated disk holds, as replica/store.h has it: the log with its digests, the index of
// idempotency keys, what retention expired, and both views in their simplest form.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "replica/core/types.h"
#include "replica/expired_ranges.h"
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
inline int64_t MinuteOf(const EventRef& event) { return router::MinuteOf(event->time_ms); }
// The same event, accepted at another time.
EventRef WithStamp(const EventRef& event, uint32_t accepted_s);
// Of two tags with one idempotency key the one with the smaller hash is kept.
uint64_t ContentHash(std::string_view tag);

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
    uint32_t newest_accepted_s = 0;
  };
  using Minutes = std::map<int64_t, Minute>;
  // The profile view: by cookie, the newest first. Rows outlive the log.
  using Rows = std::map<std::string, EventRef>;

  // Stamps that are older by no more than `raise_slack_s` are not raised.
  SimStore(uint32_t shards, uint32_t raise_slack_s);

  // Stores an event, or what the rules of keys and of retention leave of it: see README.md.
  void Put(const EventRef& event);
  // Removes what retention may, and records it. `dropped` is told of each event that goes.
  void Expire(const replica::ExpireRanges& request,
              const std::function<void(const EventRef&)>& dropped);
  void PutRows(const replica::StoreRows& request);

  // By the oracle's index: whether the log has it, and whether the profile view has.
  bool Has(uint32_t index) const { return index < held_.size() && (held_[index] & kInLog) != 0; }
  bool HasRow(uint32_t index) const { return index < held_.size() && (held_[index] & kAsRow) != 0; }
  // What the log has under this key; null where the key is not known.
  EventRef Keyed(ShardId shard, const EventId& id) const;
  // Whether it is accepted again by that.
  bool IsRaisedBy(const EventRef& held, uint32_t accepted_s) const {
    return accepted_s > held->accepted_s + raise_slack_s_;
  }
  // The event as the log has it; null where it does not.
  EventRef Find(ShardId shard, int64_t minute, const EventId& id) const;

  const Minutes& minutes(ShardId shard) const { return shards_[shard].minutes; }
  const replica::ExpiredRanges& expired(ShardId shard) const { return shards_[shard].expired; }
  replica::ExpiredMark ExpiredOf(ShardId shard, int64_t minute) const {
    return shards_[shard].expired.Find(minute);
  }
  const Rows& rows(ShardId shard) const { return shards_[shard].rows; }
  uint32_t shards() const { return static_cast<uint32_t>(shards_.size()); }

  replica::Digest ShardDigest(ShardId shard) const override;
  replica::Digest HourDigest(ShardId shard, int64_t hour) const override;
  replica::Digest MinuteDigest(ShardId shard, int64_t minute) const override;
  uint32_t NewestAcceptedS(ShardId shard, int64_t minute) const override;
  uint32_t ExpiredThroughS(ShardId shard, int64_t minute) const override;
  bool HasExpired(const v1::ExpiredRange& range) const override;
  uint64_t ExpiredHash(ShardId shard) const override;
  uint64_t ExpiredKeyed(ShardId shard) const override { return shards_[shard].expired_keyed; }

 private:
  static constexpr uint8_t kInLog = 1;
  static constexpr uint8_t kAsRow = 2;
  struct Shard {
    Minutes minutes;
    std::map<EventId, int64_t, ById> keyed;  // to the minute
    replica::ExpiredRanges expired;
    uint64_t expired_keyed = 0;
    Rows rows;
  };

  void Insert(const EventRef& event);
  void Raise(const EventRef& held, uint32_t accepted_s);
  void Replace(const EventRef& held, const EventRef& by);
  // Out of log, digest and keyed index; the row stays.
  void Remove(const EventRef& held);
  void PutRow(const EventRef& event);
  uint8_t& Held(const EventRef& event);

  uint32_t raise_slack_s_;
  std::vector<Shard> shards_;
  std::vector<uint8_t> held_;  // by index
};

// What of an answer to a peer is one page.
struct Pages {
  int hours = 1'000;  // digests of them
  int minutes = 1'000;
  int ids = 1'000;
  int events = 1'000;
  int rows = 1'000;
  int rows_looked_at = 5'000;
  int expired = 1'000;
};

// Answers what a peer reads of the set.
void ReadDigests(const SimStore& store, const v1::ReadDigestsRequest& request, const Pages& pages,
                 v1::ReadDigestsResponse& response);
v1::ReadIdsResponse ReadIds(const SimStore& store, const v1::ReadIdsRequest& request,
                            const Pages& pages);
v1::ReadEventsResponse ReadEvents(const SimStore& store, const v1::ReadEventsRequest& request,
                                  const Pages& pages);
v1::ReadExpiredResponse ReadExpired(const SimStore& store, const v1::ReadExpiredRequest& request,
                                    const Pages& pages);
v1::ReadRowsResponse ReadRows(const SimStore& store, const v1::ReadRowsRequest& request,
                              const Pages& pages);
// The ids of FindMissing that the store lacks, or has with a tag that makes way.
std::string MissingOf(const SimStore& store, const replica::FindMissing& request);

v1::Event ToProto(const EventRef& event);
EventRef FromProto(const v1::Event& event);

}  // namespace allezon::sim
