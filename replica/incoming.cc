// SPDX-License-Identifier: Apache-2.0
#include "replica/incoming.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "router/tag_rules.h"

namespace allezon::replica {
namespace {

// What an event of a call takes beside its tag: messages, parsed fields, entry, bookkeeping. And
// its tag: as it came, parsed, and for peers.
constexpr size_t kEventBytes = 800;
constexpr size_t kTagCopies = 3;

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

EventRef MakeRef(const v1::Event& from, uint32_t accepted_s) {
  auto event = std::make_shared<router::Event>();
  std::copy(from.id().begin(), from.id().end(), event->id.begin());
  event->shard = from.shard();
  event->accepted_s = accepted_s;
  event->time_ms = from.time_ms();
  event->tag = from.tag();
  return event;
}

EventId IdOf(const v1::Event& event) {
  EventId id;
  std::copy(event.id().begin(), event.id().end(), id.begin());
  return id;
}

LogEntry EntryOf(const v1::Event& event, const v1::Tag& parsed) {
  LogEntry entry;
  entry.shard = event.shard();
  entry.minute = router::MinuteOf(event.time_ms());
  entry.time_ms = event.time_ms();
  entry.id = IdOf(event);
  entry.accepted_s = event.accepted_s();
  entry.tag = event.tag();
  entry.parsed = &parsed;
  return entry;
}

// The event that is taken for `event`: itself, or what is known by its key already.
absl::StatusOr<const v1::Event*> WhatIsKnown(const v1::Event& event, const Acceptance& acceptance,
                                             google::protobuf::Arena& arena) {
  if (!acceptance.find_by_key || !router::IsKeyed(event.id())) return &event;
  absl::StatusOr<EventRef> known = acceptance.find_by_key(event.shard(), IdOf(event));
  if (!known.ok()) return known.status();
  if (*known == nullptr) return &event;
  auto* stored = google::protobuf::Arena::CreateMessage<v1::Event>(&arena);
  stored->set_shard(event.shard());
  stored->set_id(event.id());
  stored->set_accepted_s(event.accepted_s());
  stored->set_time_ms((*known)->time_ms);
  stored->set_tag((*known)->tag);
  return stored;
}

// Parses and checks an event into `taken`; `position` is that of the event in the call.
absl::Status TakeOne(const v1::Event& event, uint32_t position, const std::vector<bool>& holds,
                     const Acceptance& acceptance, Incoming& taken) {
  auto* tag = google::protobuf::Arena::CreateMessage<v1::Tag>(&taken.arena);
  if (!tag->ParseFromString(event.tag())) {
    return absl::InvalidArgumentError("the tag cannot be parsed");
  }
  if (absl::Status status = CheckEvent(event, *tag, holds); !status.ok()) return status;
  const absl::StatusOr<const v1::Event*> known = WhatIsKnown(event, acceptance, taken.arena);
  if (!known.ok()) return known.status();
  if (*known != &event && !tag->ParseFromString((*known)->tag())) {
    return absl::DataLossError("a stored tag cannot be parsed");
  }
  LogEntry& entry = taken.entries.emplace_back(EntryOf(**known, *tag));
  entry.accepted_s = acceptance.stamps.Apply(entry.accepted_s);
  taken.taken.push_back(*known);
  taken.position.push_back(position);
  return absl::OkStatus();
}

std::shared_ptr<Incoming> Borrow(const CallEvents& events, const std::vector<bool>& holds,
                                 const Acceptance& acceptance, rpc::BytesTaken bytes,
                                 Refuse refuse) {
  auto taken = std::make_shared<Incoming>();
  taken->bytes = std::move(bytes);
  taken->entries.reserve(events.size());
  taken->taken.reserve(events.size());
  taken->position.reserve(events.size());
  for (int i = 0; i < events.size(); ++i) {
    const absl::Status status = TakeOne(events[i], i, holds, acceptance, *taken);
    if (!status.ok()) refuse(i, status);
  }
  return taken;
}

}  // namespace

size_t BytesOf(const CallEvents& events) {
  size_t bytes = 0;
  for (const v1::Event& event : events) bytes += kEventBytes + kTagCopies * event.tag().size();
  return bytes;
}

std::shared_ptr<const Incoming> BorrowEvents(const CallEvents& events,
                                             const std::vector<bool>& holds,
                                             const Acceptance& acceptance, rpc::BytesTaken bytes,
                                             Refuse refuse) {
  return Borrow(events, holds, acceptance, std::move(bytes), refuse);
}

std::shared_ptr<const Incoming> TakeEvents(const CallEvents& events, const std::vector<bool>& holds,
                                           const Acceptance& acceptance, rpc::BytesTaken bytes,
                                           Refuse refuse) {
  auto taken = Borrow(events, holds, acceptance, std::move(bytes), refuse);
  taken->events.reserve(taken->entries.size());
  for (size_t i = 0; i < taken->entries.size(); ++i) {
    LogEntry& entry = taken->entries[i];
    const EventRef& event = taken->events.emplace_back(MakeRef(*taken->taken[i], entry.accepted_s));
    entry.tag = event->tag;
  }
  return taken;
}

}  // namespace allezon::replica
