// SPDX-License-Identifier: Apache-2.0
//
// What a node sends to others, and how it answers them.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/sim/node.h"

namespace allezon::sim {

using replica::Actions;

// --- what it sends ---

void SimNode::SendReplicate(const Actions::Replicate& replicate) {
  const auto events = std::make_shared<const std::vector<EventRef>>(replicate.events);
  world_.Note("sends a batch to", index_, static_cast<int>(replicate.peer), -1, -1,
              static_cast<int64_t>(events->size()));
  v1::NodeIdentity to;
  identities_->SetTo(replicate.peer, to);
  CallNode<v1::ReplicateResponse>(
      cluster_, index_, static_cast<int>(replicate.peer), to, replicate.timeout_us, true,
      [from = identities_->own(), events, age = replicate.oldest_age_us, wall = Wall()](
          SimNode& peer, ReplicateReply reply) {
        peer.OnReplicate(from, *events, age, wall, std::move(reply));
      },
      [this, peer = replicate.peer, batch = replicate.batch](
          absl::Status status, const v1::ReplicateResponse& response) {
        if (status.ok()) status = identities_->CheckBy(peer, response.by());
        world_.Note("'s batch ended at", index_, static_cast<int>(peer), -1, -1,
                    static_cast<int64_t>(status.code()));
        Actions actions;
        core_->Replicated(peer, batch, status, response, Clock(), actions);
        Execute(actions);
      });
}

void SimNode::SendCall(const Actions::Call& call) {
  static constexpr const char* kNames[] = {"polls",           "reads digests of", "reads ids of",
                                           "reads events of", "reads expired of", "reads rows of",
                                           "reads newest of"};
  const char* const name = kNames[call.request.index()];
  if (call.request.index() != 0) world_.Note(name, index_, static_cast<int>(call.peer));
  auto request = std::make_shared<replica::PeerRequest>(call.request);
  v1::NodeIdentity to;
  if (auto* poll = std::get_if<v1::PollRequest>(request.get())) {
    identities_->SetPoll(call.peer, *poll);
    to = poll->to();
  } else {
    identities_->SetTo(call.peer, to);
  }
  CallNode<replica::PeerResponse>(
      cluster_, index_, static_cast<int>(call.peer), to, call.timeout_us, false,
      [request = std::shared_ptr<const replica::PeerRequest>(std::move(request)),
       held = ExpectHoldings(call)](SimNode& peer, CallReply reply) {
        if (held != nullptr) *held = peer.Held(std::get<v1::ReadDigestsRequest>(*request));
        peer.OnCall(request, std::move(reply));
      },
      [this, id = call.id, name, peer = call.peer](absl::Status status,
                                                   const replica::PeerResponse& response) {
        if (status.ok()) status = CheckAnswer(peer, response);
        if (!status.ok()) {
          world_.Note(name, index_, static_cast<int>(peer), -1, -1,
                      static_cast<int64_t>(status.code()));
        }
        Actions actions;
        core_->CallEnded(id, status, response, Clock(), actions);
        Execute(actions);
      });
}

// That it is by whom it should be.
absl::Status SimNode::CheckAnswer(uint32_t peer, const replica::PeerResponse& response) {
  if (const auto* poll = std::get_if<v1::PollResponse>(&response)) {
    const absl::Status status = identities_->PollAnswered(peer, *poll);
    if (!identities_->MustEnd().ok()) {
      world_.Violate(
          absl::StrCat("node ", index_, " must end: ", identities_->MustEnd().message()));
    }
    return status;
  }
  return std::visit([&](const auto& message) { return identities_->CheckBy(peer, message.by()); },
                    response);
}

// --- what peers ask of it ---

void SimNode::OnReplicate(const v1::NodeIdentity& by, const std::vector<EventRef>& sent,
                          Time oldest_age, Time sent_wall_us, ReplicateReply reply) {
  const absl::StatusOr<uint32_t> from = identities_->CheckFrom(by);
  if (!from.ok()) return reply(from.status(), {});
  const replica::StampRule rule = core_->RuleOfReplicates(*from, oldest_age, sent_wall_us, Clock());
  SimDisk::Commit commit;
  for (const EventRef& event : sent) {
    commit.events.push_back(WithStamp(event, rule.Apply(event->accepted_s)));
  }
  commit.done = [this, process = process_, from = *from, events = commit.events,
                 reply = std::move(reply)](const absl::Status& status,
                                           const std::vector<bool>& refused) {
    const auto end = [this, from, events, reply, status, refused] {
      EndReplicate(from, events, status, refused, reply);
    };
    // What is committed may be seen a little before it is counted.
    if (world_.random.Chance(0.9)) return Input(process, end);
    world_.After(ReadDelay(), [this, process, end] { Input(process, end); });
  };
  disk_.Begin(std::move(commit));
}

void SimNode::EndReplicate(uint32_t from, const std::vector<EventRef>& events,
                           const absl::Status& status, const std::vector<bool>& refused,
                           const ReplicateReply& reply) {
  if (!status.ok() && refused.empty()) return reply(status, {});
  v1::ReplicateResponse response;
  identities_->SetBy(*response.mutable_by());
  std::vector<ShardId> shards;
  for (size_t i = 0; i < events.size(); ++i) {
    shards.push_back(events[i]->shard);
    if (refused.empty() || !refused[i]) continue;
    v1::WriteFailure& failure = *response.add_failures();
    failure.set_index(static_cast<uint32_t>(i));
    failure.set_code(static_cast<int>(status.code()));
  }
  std::sort(shards.begin(), shards.end());
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  core_->PeerStored(from, shards, response);
  reply(absl::OkStatus(), response);
}

void SimNode::OnCall(std::shared_ptr<const replica::PeerRequest> request, CallReply reply) {
  if (const auto* poll = std::get_if<v1::PollRequest>(request.get())) {
    v1::PollResponse response;
    const auto from = identities_->Polled(*poll, response);
    if (!from.ok()) return reply(from.status(), response);
    if (*from) {
      core_->Polled(**from, Clock(), response);
      core_->HeardFrom(**from, Clock());
    }
    return reply(absl::OkStatus(), response);
  }
  if (const auto* digests = std::get_if<v1::ReadDigestsRequest>(request.get())) {
    auto response = std::make_shared<v1::ReadDigestsResponse>();
    core_->AnswerDigests(*response);
    identities_->SetBy(*response->mutable_by());
    // The digests are read a little later; commits go on meanwhile.
    return world_.After(ReadDelay(), [this, process = process_, request, digests, response,
                                      reply = std::move(reply)] {
      Input(process, [this, request, digests, response, reply] {
        ReadDigests(disk_.store(), *digests, cluster_.knobs.pages, *response);
        reply(absl::OkStatus(), *response);
      });
    });
  }
  world_.After(ReadDelay(), [this, process = process_, request, reply = std::move(reply)] {
    Input(process, [this, request, reply] {
      replica::PeerResponse response = AnswerRead(*request);
      std::visit([this](auto& message) { identities_->SetBy(*message.mutable_by()); }, response);
      reply(absl::OkStatus(), response);
    });
  });
}

replica::PeerResponse SimNode::AnswerRead(const replica::PeerRequest& request) const {
  const Pages& pages = cluster_.knobs.pages;
  const SimStore& store = disk_.store();
  if (const auto* ids = std::get_if<v1::ReadIdsRequest>(&request)) {
    return ReadIds(store, *ids, pages);
  }
  if (const auto* events = std::get_if<v1::ReadEventsRequest>(&request)) {
    return ReadEvents(store, *events, pages);
  }
  if (const auto* expired = std::get_if<v1::ReadExpiredRequest>(&request)) {
    return ReadExpired(store, *expired, pages);
  }
  if (const auto* rows = std::get_if<v1::ReadRowsRequest>(&request)) {
    return ReadRows(store, *rows, pages);
  }
  const auto& newest = std::get<v1::ReadNewestRequest>(request);
  v1::ReadNewestResponse response;
  for (int i = 0; i < newest.shards_size(); ++i) {
    response.add_newest_accepted_s(core_->NewestToTell(
        newest.shards(i), store.NewestAcceptedS(newest.shards(i), newest.minutes(i))));
  }
  return response;
}

Time SimNode::ReadDelay() { return world_.random.Between(1, cluster_.knobs.read_max_us); }

}  // namespace allezon::sim
