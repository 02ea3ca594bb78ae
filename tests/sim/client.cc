// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/client.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace allezon::sim {
namespace {

constexpr int64_t kNewestMinute = 27'000'000;  // of 2021
constexpr uint32_t kStartS = kNewestMinute * 60;

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
    operations.push_back(Begin(MakeEvent(cookie, world_.random.Chance(0.3))));
  }
  Send(coordinator, operations);
  if (!world_.random.Chance(knobs_.hedge)) return;
  world_.After(knobs_.attempt_timeout_us / 4, [this, operations] {
    for (const auto& operation : operations) TryNext(operation);
  });
}

void SimClients::WriteOne() {
  const auto cookie = static_cast<uint32_t>(world_.random.Below(shard_of_.size()));
  Send(AnyReplica(shard_of_[cookie]), {Begin(MakeEvent(cookie, false))});
}

// The same key and tag, accepted later.
void SimClients::Repeat() {
  const EventRef& first = keyed_[world_.random.Below(keyed_.size())];
  auto again = std::make_shared<router::Event>(*first);
  again->accepted_s = kStartS + static_cast<uint32_t>(world_.now() / kSecond);
  world_.Note("clients repeat", -1, -1, again->shard, IndexOf(again));
  const int coordinator = AnyReplica(again->shard);
  Send(coordinator, {Begin(std::move(again))});
}

EventRef SimClients::MakeEvent(uint32_t cookie, bool keyed) {
  TagContent content;
  content.index = cluster_.oracle.asked();
  content.cookie = cookie;
  content.price = static_cast<int32_t>(world_.random.Below(100'000));
  auto event = std::make_shared<router::Event>();
  if (keyed) {
    event->id =
        router::KeyedEventId(absl::StrCat("key-", content.index), absl::StrCat("cookie-", cookie));
  } else {
    const uint64_t bits[2] = {world_.random.Next(), world_.random.Next()};
    std::memcpy(event->id.data(), bits, event->id.size());
    event->id[0] = static_cast<char>(event->id[0] & 0x7f);
  }
  event->shard = shard_of_[cookie];
  event->accepted_s = kStartS + static_cast<uint32_t>(world_.now() / kSecond);
  const int64_t minute = kNewestMinute - static_cast<int64_t>(world_.random.Below(knobs_.minutes));
  event->time_ms = minute * router::kMinuteMs + world_.random.Between(0, router::kMinuteMs - 1);
  event->tag = content.Serialise();
  cluster_.oracle.Asked(event);
  world_.Note("clients ask", -1, -1, event->shard, content.index);
  if (keyed) keyed_.push_back(event);
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
      cluster_, -1, coordinator, timeout, false,
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
