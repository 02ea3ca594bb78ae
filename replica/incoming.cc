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

LogEntry EntryOf(const v1::Event& event, const v1::Tag& parsed) {
  LogEntry entry;
  entry.shard = event.shard();
  entry.minute = router::MinuteOf(event.time_ms());
  entry.time_ms = event.time_ms();
  std::copy(event.id().begin(), event.id().end(), entry.id.begin());
  entry.accepted_s = event.accepted_s();
  entry.tag = event.tag();
  entry.parsed = &parsed;
  return entry;
}

std::shared_ptr<Incoming> Borrow(const CallEvents& events, const std::vector<bool>& holds,
                                 Refuse refuse) {
  auto taken = std::make_shared<Incoming>();
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
    taken->entries.push_back(EntryOf(event, *tag));
    taken->position.push_back(i);
  }
  return taken;
}

}  // namespace

std::shared_ptr<const Incoming> BorrowEvents(const CallEvents& events,
                                             const std::vector<bool>& holds, Refuse refuse) {
  return Borrow(events, holds, refuse);
}

std::shared_ptr<const Incoming> TakeEvents(const CallEvents& events, const std::vector<bool>& holds,
                                           Refuse refuse) {
  auto taken = Borrow(events, holds, refuse);
  taken->events.reserve(taken->entries.size());
  for (size_t i = 0; i < taken->entries.size(); ++i) {
    const EventRef& event = taken->events.emplace_back(MakeRef(events[taken->position[i]]));
    taken->entries[i].tag = event->tag;
  }
  return taken;
}

}  // namespace allezon::replica
