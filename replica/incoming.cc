// SPDX-License-Identifier: Apache-2.0
#include "replica/incoming.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "router/tag_rules.h"

namespace allezon::replica {
namespace {

absl::Status CheckEvent(const v1::Event& event, const v1::Tag& tag,
                        const std::vector<bool>& holds) {
  if (event.shard() >= holds.size()) {
    return absl::InvalidArgumentError(absl::StrCat("shard ", event.shard(), " does not exist"));
  }
  if (!holds[event.shard()]) {
    return absl::InvalidArgumentError(
        absl::StrCat("shard ", event.shard(), " is not held by this node"));
  }
  if (event.id().size() != std::tuple_size_v<EventId>) {
    return absl::InvalidArgumentError("an event id has 16 bytes");
  }
  if (event.time_ms() != tag.time_ms()) {
    return absl::InvalidArgumentError("the event's time is not its tag's");
  }
  if (router::ShardOf(tag.cookie(), static_cast<uint32_t>(holds.size())) != event.shard()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the tag's cookie does not belong in shard ", event.shard()));
  }
  // How far ahead of the clock a tag may be was judged where it was accepted.
  return router::CheckTag(tag, absl::Now(), absl::InfiniteDuration());
}

EventRef MakeRef(const v1::Event& from) {
  auto event = std::make_shared<router::Event>();
  std::copy(from.id().begin(), from.id().end(), event->id.begin());
  event->shard = from.shard();
  event->accepted_s = from.accepted_s();
  event->time_ms = from.time_ms();
  event->tag = from.tag();
  return event;
}

LogEntry EntryOf(const router::Event& event, const v1::Tag& parsed) {
  LogEntry entry;
  entry.shard = event.shard;
  entry.minute = router::MinuteOf(event.time_ms);
  entry.time_ms = event.time_ms;
  entry.id = event.id;
  entry.accepted_s = event.accepted_s;
  entry.tag = event.tag;
  entry.parsed = &parsed;
  return entry;
}

}  // namespace

std::shared_ptr<const Incoming> TakeEvents(
    const google::protobuf::RepeatedPtrField<v1::Event>& events, const std::vector<bool>& holds,
    absl::FunctionRef<void(uint32_t position, const absl::Status& why)> refuse) {
  auto taken = std::make_shared<Incoming>();
  taken->events.reserve(events.size());
  taken->entries.reserve(events.size());
  taken->position.reserve(events.size());
  for (int i = 0; i < events.size(); ++i) {
    const v1::Event& event = events[i];
    auto* tag = google::protobuf::Arena::CreateMessage<v1::Tag>(&taken->arena);
    const absl::Status status = tag->ParseFromString(event.tag())
                                    ? CheckEvent(event, *tag, holds)
                                    : absl::InvalidArgumentError("the tag cannot be parsed");
    if (!status.ok()) {
      refuse(i, status);
      continue;
    }
    taken->events.push_back(MakeRef(event));
    taken->entries.push_back(EntryOf(*taken->events.back(), *tag));
    taken->position.push_back(i);
  }
  return taken;
}

}  // namespace allezon::replica
