// SPDX-License-Identifier: Apache-2.0
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "allezon/v1/profile_replica.grpc.pb.h"
#include "router/ballot.h"
#include "router/channels.h"
#include "router/read_calls.h"
#include "router/readers.h"
#include "router/shard.h"
#include "router/stored_tags.h"
#include "router/stubs.h"
#include "rpc/status.h"

namespace allezon::router {
namespace {

// No attempt waits longer for an answer.
constexpr absl::Duration kAttemptMax = absl::Seconds(1);
// A read is overdue after a multiple of what reads take lately, within these bounds.
constexpr absl::Duration kOverdueMin = absl::Milliseconds(40);
constexpr absl::Duration kOverdueMax = absl::Seconds(1);
constexpr absl::Duration kRetryDelay = absl::Seconds(1);

using Calls = ReadCalls<v1::ReadProfileRequest, v1::ReadProfileResponse>;

using Rows = std::vector<StoredTag>;

// What all answers hold of each action.
struct Lists {
  Rows views;
  Rows buys;
};

// Which tag an id stands for. Replicas may differ for a moment where an idempotency key came with
// different tags, also of different times and actions: then it is the one that all of them keep in
// the end.
using Winners = absl::flat_hash_map<std::string_view, std::string_view>;

void Note(const Rows& rows, Winners& winners) {
  for (const StoredTag& row : rows) {
    const auto [winner, is_first] = winners.try_emplace(row.event_id, row.tag);
    if (is_first || winner->second == row.tag) continue;
    if (std::pair(ContentHash(row.tag), row.tag) <
        std::pair(ContentHash(winner->second), winner->second)) {
      winner->second = row.tag;
    }
  }
}

// Leaves each id's winner, once, in the order of one answer.
void KeepWinners(Winners& winners, Rows& rows) {
  std::stable_sort(rows.begin(), rows.end(), [](const StoredTag& a, const StoredTag& b) {
    if (a.time_ms != b.time_ms) return a.time_ms > b.time_ms;
    return a.event_id < b.event_id;
  });
  std::erase_if(rows, [&](const StoredTag& row) {
    const auto winner = winners.find(row.event_id);
    if (winner == winners.end() || winner->second != row.tag) return true;
    winners.erase(winner);  // it stands now
    return false;
  });
}

absl::Status Append(const v1::StoredTags& columns, Rows& rows) {
  absl::StatusOr<Rows> read = ReadStoredTags(columns);
  if (!read.ok()) return read.status();
  rows.insert(rows.end(), read->begin(), read->end());
  return absl::OkStatus();
}

std::vector<std::string_view> TagsOf(const Rows& rows, size_t limit) {
  std::vector<std::string_view> tags;
  tags.reserve(std::min(rows.size(), limit));
  for (const StoredTag& row : rows) {
    if (tags.size() == limit) break;
    tags.push_back(row.tag);
  }
  return tags;
}

absl::StatusOr<Profile> Merge(const std::vector<Calls::Call*>& answers, size_t limit,
                              Calls& calls) {
  Lists lists;
  for (const Calls::Call* answer : answers) {
    if (absl::Status s = Append(answer->response.views(), lists.views); !s.ok()) return s;
    if (absl::Status s = Append(answer->response.buys(), lists.buys); !s.ok()) return s;
  }
  // What one replica holds is in order, and each id once.
  if (answers.size() > 1) {
    Winners winners;
    Note(lists.views, winners);
    Note(lists.buys, winners);
    KeepWinners(winners, lists.views);
    KeepWinners(winners, lists.buys);
  }
  return Profile{TagsOf(lists.views, limit), TagsOf(lists.buys, limit),
                 std::make_shared<std::vector<std::shared_ptr<Calls::Call>>>(calls.ReleaseTaken())};
}

class GrpcProfileReader final : public ProfileReader {
 public:
  explicit GrpcProfileReader(Channels& channels)
      : channels_(channels),
        placement_(channels.placement()),
        paces_("profile", "reads", placement_, kOverdueMin, kOverdueMax),
        stubs_(MakeStubs<v1::ProfileReplicaService>(channels)) {}

  absl::StatusOr<Profile> Read(const ProfileQuery& query, absl::Time deadline) override {
    const v1::ReadProfileRequest request = RequestOf(query);
    std::vector<uint32_t> readable;
    for (const Replica& replica : placement_.replicas[request.shard()]) {
      if (replica.state != ReplicaState::kInitializing) readable.push_back(replica.instance);
    }
    const size_t needed = query.quorum ? placement_.read_quorum() : 1;
    if (readable.size() < needed) {
      return absl::InternalError("a shard has too few replicas that may be read");
    }
    Ballot ballot(channels_, paces_, std::move(readable), needed, /*opens_circuits=*/true);
    Calls calls;
    std::vector<Calls::Call*> answers;
    absl::Status error = absl::DeadlineExceededError("no replica answered in time");
    while (true) {
      for (const uint32_t instance : ballot.Due(absl::Now())) {
        Ask(calls, instance, request, deadline);
      }
      Calls::Call* call = calls.Next(std::min(ballot.due(), deadline));
      const absl::Time now = absl::Now();
      if (call == nullptr) {
        if (now >= deadline) return rpc::WithRetryDelay(error, kRetryDelay);
        continue;
      }
      if (call->status.ok()) {
        paces_.Observe(call->instance, call->took, now);
        ballot.Answered(call->instance);
        answers.push_back(call);
        if (ballot.is_enough()) return Merge(answers, query.limit, calls);
        continue;
      }
      if (IsFaultOfOne(call->status)) {
        if (!ballot.GaveUp(call->instance, now)) return call->status;
        continue;
      }
      if (!IsTransient(call->status)) return call->status;
      error = call->status;
      if (now >= deadline) return rpc::WithRetryDelay(error, kRetryDelay);
      ballot.Failed(call->instance, now);
    }
  }

 private:
  v1::ReadProfileRequest RequestOf(const ProfileQuery& query) const {
    v1::ReadProfileRequest request;
    request.set_placement_version(placement_.version);
    request.set_shard(ShardOf(query.cookie, placement_.shards()));
    request.set_cookie(query.cookie);
    request.set_from_ms(query.from_ms);
    request.set_to_ms(query.to_ms);
    request.set_limit(query.limit);
    request.set_for_quorum(query.quorum);
    return request;
  }

  void Ask(Calls& calls, uint32_t instance, v1::ReadProfileRequest request, absl::Time deadline) {
    *request.mutable_to() = channels_.IdentityOf(instance);
    calls.Start(instance, channels_.CircuitOf(instance),
                std::min(deadline, absl::Now() + kAttemptMax), std::move(request),
                [&](grpc::ClientContext* context, const v1::ReadProfileRequest* asked,
                    v1::ReadProfileResponse* response, std::function<void(grpc::Status)> done) {
                  stubs_[instance].Get()->async()->ReadProfile(context, asked, response,
                                                               std::move(done));
                });
  }

  Channels& channels_;
  const Placement& placement_;
  Paces paces_;
  Stubs<v1::ProfileReplicaService> stubs_;
};

}  // namespace

std::unique_ptr<ProfileReader> MakeProfileReader(Channels& channels) {
  return std::make_unique<GrpcProfileReader>(channels);
}

}  // namespace allezon::router
