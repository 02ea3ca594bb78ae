// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/client.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace allezon::sim {
namespace {

// Where retention is short, the time of tags runs fast.
constexpr Time kMinuteEvery = 2 * kSecond;

struct WriteAnswer {
  std::vector<absl::Status> statuses;  // by event
};

}  // namespace

SimClients::SimClients(Cluster& cluster)
    : cluster_(cluster),
      world_(cluster.world),
      knobs_(cluster.knobs),
      cookies_of_(static_cast<size_t>(cluster.knobs.nodes)) {
  for (int cookie = 0; cookie < knobs_.cookies; ++cookie) {
    shard_of_.push_back(router::ShardOf(absl::StrCat("cookie-", cookie), knobs_.shards));
    for (const router::Replica& replica : cluster.placement.replicas[shard_of_.back()]) {
      cookies_of_[replica.instance].push_back(static_cast<uint32_t>(cookie));
    }
  }
}

void SimClients::Start() {
  writing_ = true;
  WriteLater();
}

void SimClients::WriteLater() {
  world_.After(world_.random.Between(0, 2 * knobs_.write_every_us), [this] {
    if (!writing_) return;
    if (!keyed_.empty() && world_.random.Chance(knobs_.repeat)) {
      Repeat();
    } else {
      WriteRandom();
    }
    WriteLater();
  });
}

int SimClients::Preferred(ShardId shard) {
  if (world_.random.Chance(knobs_.wrong_coordinator)) return AnyReplica(shard);
  return static_cast<int>(cluster_.placement.replicas[shard].front().instance);
}

int SimClients::AnyReplica(ShardId shard) {
  const auto& replicas = cluster_.placement.replicas[shard];
  return static_cast<int>(replicas[world_.random.Below(replicas.size())].instance);
}

void SimClients::WriteRandom() {
  const int coordinator = Preferred(shard_of_[world_.random.Below(shard_of_.size())]);
  const std::vector<uint32_t>& cookies = cookies_of_[coordinator];
  Operations operations;
  for (auto left = world_.random.Between(1, knobs_.group_events_max); left > 0; --left) {
    const uint32_t cookie = cookies[world_.random.Below(cookies.size())];
    operations.push_back(Begin(MakeEvent(cookie, world_.random.Chance(knobs_.keyed))));
  }
  Send(coordinator, operations);
  for (const auto& operation : operations) {
    if (!router::IsKeyed(router::AsBytes(operation->event->id)) ||
        !world_.random.Chance(knobs_.race)) {
      continue;
    }
    const EventRef rival = OtherBody(operation->event);
    Send(AnyReplica(rival->shard), {Begin(rival)});
  }
  if (!world_.random.Chance(knobs_.hedge)) return;
  world_.After(knobs_.attempt_timeout_us / 4, [this, operations] {
    for (const auto& operation : operations) TryNext(operation);
  });
}

void SimClients::WriteOne() {
  const auto cookie = static_cast<uint32_t>(world_.random.Below(shard_of_.size()));
  Send(AnyReplica(shard_of_[cookie]), {Begin(MakeEvent(cookie, false))});
}

// The same key, long after, with the same tag or with another one.
void SimClients::Repeat() {
  const EventRef& first = keyed_[world_.random.Below(keyed_.size())];
  const EventRef again =
      world_.random.Chance(knobs_.other_body) ? OtherBody(first) : WithStamp(first, Stamp());
  cluster_.oracle.AskedAgain(again);
  world_.Note("clients repeat", -1, -1, again->shard, IndexOf(again));
  Send(AnyReplica(again->shard), {Begin(again)});
}

void SimClients::SetWall(Time ahead) {
  world_.Note(ahead < 0 ? "a gateway's clock is behind" : "a gateway's clock is ahead", -1, -1, -1,
              -1, std::abs(ahead));
  wall_ahead_ = ahead;
}

uint32_t SimClients::Stamp() {
  const Time skew = world_.random.Between(-knobs_.wall_skew_us, knobs_.wall_skew_us);
  const Time ahead = knobs_.wrong_gateway && world_.random.Chance(0.5) ? wall_ahead_ : skew;
  return static_cast<uint32_t>((TrueWallUs(world_.now()) + ahead) / kSecond);
}

int64_t SimClients::DrawTimeMs() {
  int64_t newest = kStartMinute;
  if (knobs_.expires) newest += world_.now() / kMinuteEvery;
  int64_t minute = newest - static_cast<int64_t>(world_.random.Below(knobs_.minutes));
  if (world_.random.Chance(knobs_.late)) {
    minute = newest - world_.random.Between(1, knobs_.late_minutes);
  } else if (world_.random.Chance(knobs_.ahead)) {
    minute = newest + world_.random.Between(1, 10);
  }
  return minute * router::kMinuteMs + world_.random.Between(0, router::kMinuteMs - 1);
}

EventRef SimClients::MakeEvent(uint32_t cookie, bool keyed) {
  auto event = std::make_shared<router::Event>();
  if (keyed) {
    event->id = router::KeyedEventId(absl::StrCat("key-", cluster_.oracle.asked()),
                                     absl::StrCat("cookie-", cookie));
  } else {
    const uint64_t bits[2] = {world_.random.Next(), world_.random.Next()};
    std::memcpy(event->id.data(), bits, event->id.size());
    event->id[0] = static_cast<char>(event->id[0] & 0x7f);
  }
  event->shard = shard_of_[cookie];
  event->time_ms = DrawTimeMs();
  EventRef asked = Ask(std::move(event), cookie);
  if (keyed) keyed_.push_back(asked);
  return asked;
}

EventRef SimClients::OtherBody(const EventRef& first) {
  auto event = std::make_shared<router::Event>(*first);
  if (world_.random.Chance(0.6)) event->time_ms = DrawTimeMs();
  EventRef asked = Ask(std::move(event), TagContent::Parse(first->tag).cookie);
  keyed_.push_back(asked);
  return asked;
}

EventRef SimClients::Ask(std::shared_ptr<router::Event> event, uint32_t cookie) {
  TagContent content;
  content.index = cluster_.oracle.asked();
  content.cookie = cookie;
  content.price = static_cast<int32_t>(world_.random.Below(100'000));
  event->tag = content.Serialise();
  event->accepted_s = Stamp();
  cluster_.oracle.Asked(event);
  world_.Note("clients ask", -1, -1, event->shard, content.index, event->accepted_s);
  return event;
}

std::shared_ptr<SimClients::Operation> SimClients::Begin(EventRef event) {
  ++unfinished_;
  auto operation = std::make_shared<Operation>();
  operation->event = std::move(event);
  operation->deadline = world_.now() + knobs_.write_deadline_us;
  return operation;
}

void SimClients::Send(int coordinator, const Operations& operations) {
  const Time left = operations.front()->deadline - world_.now();
  const Time timeout = std::min(left, knobs_.attempt_timeout_us);
  std::vector<EventRef> events;
  for (const auto& operation : operations) {
    ++operation->attempts;
    events.push_back(operation->event);
  }
  // The coordinator may go on for longer than this attempt is waited for.
  const Time deadline_in = world_.random.Chance(0.5) ? timeout : left;
  CallNode<WriteAnswer>(
      cluster_, -1, coordinator, NameOf(cluster_.placement, coordinator), timeout, false,
      [events, deadline_in](SimNode& node, auto reply) {
        node.OnWrite(
            events, deadline_in,
            [reply](const absl::Status& status, const std::vector<absl::Status>& by_event) {
              reply(status, WriteAnswer{by_event});
            });
      },
      [this, operations](const absl::Status& status, const WriteAnswer& answer) {
        for (size_t i = 0; i < operations.size(); ++i) {
          Answered(operations[i], status.ok() ? answer.statuses[i] : status);
        }
      });
}

void SimClients::Answered(const std::shared_ptr<Operation>& operation, const absl::Status& status) {
  if (operation->ended) return;
  if (status.ok()) {
    operation->ended = true;
    --unfinished_;
    if (cluster_.oracle.acknowledged(IndexOf(operation->event))) return;
    return world_.Violate("a client was told of a tag that was not acknowledged",
                          operation->event->shard, IndexOf(operation->event));
  }
  world_.After(world_.random.Between(5, 100) * kMs, [this, operation] { TryNext(operation); });
}

void SimClients::TryNext(const std::shared_ptr<Operation>& operation) {
  if (operation->ended) return;
  if (world_.now() >= operation->deadline) {
    operation->ended = true;
    --unfinished_;
    ++failed_;
    return;
  }
  const auto& replicas = cluster_.placement.replicas[operation->event->shard];
  Send(static_cast<int>(replicas[operation->attempts % replicas.size()].instance), {operation});
}

}  // namespace allezon::sim
