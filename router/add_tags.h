// SPDX-License-Identifier: Apache-2.0
//
// The job of AddTags, which both services have: NewTags become events, are written, and one
// completion tells how it went. Holds no grpcpp header.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "allezon/v1/tag.pb.h"
#include "router/writer.h"

namespace allezon::router {

// Tags that one call may bring.
inline constexpr int kAddTagsMax = 10'000;
// A call without a deadline, or with one beyond, gets this one.
inline constexpr absl::Duration kAddTagsTimeoutMax = absl::Seconds(30);

using NewTags = google::protobuf::RepeatedPtrField<v1::NewTag>;

// Checks every tag, then makes the events of all of them, accepted `now`. kInvalidArgument names
// the first field at fault ("tags[3].tag.cookie"). Tags further than `future_max` ahead of `now`
// are refused. Thread-safe.
absl::StatusOr<std::vector<EventRef>> MakeEvents(const NewTags& tags, uint32_t shards,
                                                 absl::Time now, absl::Duration future_max);

// Writes all events and calls `done` once, from any thread, possibly before this returns, when
// each of them has an outcome. OK: all are durable on a write quorum. Else the outcome that
// promises least of those that there were: kDeadlineExceeded before kUnavailable and
// kResourceExhausted (which get a retry delay), and before all of them what no retry can save;
// other events may be stored all the same. Never kInvalidArgument, which would say that nothing
// was stored: what the nodes refuse although it was checked here is kInternal. No events: OK at
// once. Never blocks. `writer` must live until `done` was called.
void WriteEvents(Writer& writer, std::vector<EventRef> events, absl::Time deadline,
                 std::function<void(const absl::Status&)> done);

// MakeEvents and WriteEvents in one. `deadline` is the caller's.
void AddTags(Writer& writer, const NewTags& tags, uint32_t shards, absl::Duration future_max,
             absl::Time deadline, std::function<void(const absl::Status&)> done);

}  // namespace allezon::router
