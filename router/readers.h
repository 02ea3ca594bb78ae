// SPDX-License-Identifier: Apache-2.0
//
// Reads of the two services: one replica for a profile, one replica of every shard for an
// aggregate, or a read quorum of them. Each call blocks until it is answered in full or fails;
// inside the deadline it tries other replicas: the next one at once where one fails, and beside the
// first where that owes its answer for too long. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "router/placement.h"

namespace allezon::router {

class Channels;

struct ProfileQuery {
  std::string cookie;
  int64_t from_ms = 0;
  int64_t to_ms = 0;
  uint32_t limit = 200;
  bool quorum = false;  // the union of what a read quorum of the replicas holds
};

struct Profile {
  // Serialised allezon.v1.Tag, newest first; in what `answers` keeps.
  std::vector<std::string_view> views;
  std::vector<std::string_view> buys;
  std::shared_ptr<const void> answers;
};

struct AggregateQuery {
  int64_t from_minute = 0;  // minutes since 1970, half open
  int64_t to_minute = 0;
  int action = 0;  // an allezon.v1.Action
  std::optional<std::string> origin;
  std::optional<std::string> brand_id;
  std::optional<std::string> category_id;
  // As of a moment at which a read quorum of each shard's replicas held the same. While tags of the
  // range come in that is rare: then kUnavailable at the deadline.
  bool quorum = false;
};

struct AggregateBucket {
  int64_t minute = 0;
  int64_t count = 0;
  int64_t sum_price = 0;
};

class ProfileReader {
 public:
  virtual ~ProfileReader() = default;
  virtual absl::StatusOr<Profile> Read(const ProfileQuery& query, absl::Time deadline) = 0;
};

class AggregateReader {
 public:
  virtual ~AggregateReader() = default;
  // One bucket for each minute. kFailedPrecondition: retention took a minute of the range, at least
  // in a part.
  virtual absl::StatusOr<std::vector<AggregateBucket>> Query(const AggregateQuery& query,
                                                             absl::Time deadline) = 0;
};

// `channels` must outlive the reader.
std::unique_ptr<ProfileReader> MakeProfileReader(Channels& channels);
std::unique_ptr<AggregateReader> MakeAggregateReader(Channels& channels);

}  // namespace allezon::router
