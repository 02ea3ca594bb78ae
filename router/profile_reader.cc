// SPDX-License-Identifier: Apache-2.0
#include <grpcpp/grpcpp.h>

#include <algorithm>

#include "allezon/v1/profile_replica.grpc.pb.h"
#include "router/ballot.h"
#include "router/channels.h"
#include "router/read_calls.h"
#include "router/readers.h"
#include "router/stored_tags.h"
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

// The rows of all lists, each once, in the order of one list.
Rows Union(std::vector<Rows> lists) {
  Rows all = std::move(lists.front());
  if (lists.size() == 1) return all;
  for (size_t i = 1; i < lists.size(); ++i) {
    all.insert(all.end(), lists[i].begin(), lists[i].end());
  }
  std::stable_sort(all.begin(), all.end(), [](const StoredTag& a, const StoredTag& b) {
    if (a.time_ms != b.time_ms) return a.time_ms > b.time_ms;
    return a.event_id < b.event_id;
  });
  // The same event has the same time, so that its copies are neighbours.
  all.erase(
      std::unique(all.begin(), all.end(),
                  [](const StoredTag& a, const StoredTag& b) { return a.event_id == b.event_id; }),
      all.end());
  return all;
}

// The tags of one action, of which every answer has a list.
absl::StatusOr<std::vector<std::string_view>> Merge(
    const std::vector<Calls::Call*>& answers,
    const v1::StoredTags& (v1::ReadProfileResponse::*list)() const, size_t limit) {
  std::vector<Rows> lists;
  for (const Calls::Call* answer : answers) {
    absl::StatusOr<Rows> rows = ReadStoredTags((answer->response.*list)());
    if (!rows.ok()) return rows.status();
    lists.push_back(*std::move(rows));
  }
  Rows rows = Union(std::move(lists));
  if (rows.size() > limit) rows.resize(limit);
  std::vector<std::string_view> tags;
  tags.reserve(rows.size());
  for (const StoredTag& row : rows) tags.push_back(row.tag);
  return tags;
}

absl::StatusOr<Profile> Merge(const std::vector<Calls::Call*>& answers, size_t limit,
                              Calls& calls) {
  absl::StatusOr<std::vector<std::string_view>> views =
      Merge(answers, &v1::ReadProfileResponse::views, limit);
  if (!views.ok()) return views.status();
  absl::StatusOr<std::vector<std::string_view>> buys =
      Merge(answers, &v1::ReadProfileResponse::buys, limit);
  if (!buys.ok()) return buys.status();
  return Profile{*std::move(views), *std::move(buys),
                 std::make_shared<std::vector<std::shared_ptr<Calls::Call>>>(calls.ReleaseTaken())};
}

class GrpcProfileReader final : public ProfileReader {
 public:
  explicit GrpcProfileReader(Channels& channels)
      : channels_(channels), placement_(channels.placement()), pace_(kOverdueMin, kOverdueMax) {
    for (uint32_t i = 0; i < placement_.instances.size(); ++i) {
      stubs_.push_back(v1::ProfileReplicaService::NewStub(channels.To(i)));
    }
  }

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
    Ballot ballot(channels_, pace_, std::move(readable), needed, /*opens_circuits=*/true);
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
        pace_.Observe(call->took);
        ballot.Answered(call->instance);
        answers.push_back(call);
        if (ballot.is_enough()) return Merge(answers, query.limit, calls);
        continue;
      }
      if (!IsRetryableRead(call->status)) return call->status;
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

  void Ask(Calls& calls, uint32_t instance, const v1::ReadProfileRequest& request,
           absl::Time deadline) {
    calls.Start(instance, channels_.CircuitOf(instance),
                std::min(deadline, absl::Now() + kAttemptMax), request,
                [&](grpc::ClientContext* context, const v1::ReadProfileRequest* asked,
                    v1::ReadProfileResponse* response, std::function<void(grpc::Status)> done) {
                  stubs_[instance]->async()->ReadProfile(context, asked, response, std::move(done));
                });
  }

  Channels& channels_;
  const Placement& placement_;
  Pace pace_;
  std::vector<std::unique_ptr<v1::ProfileReplicaService::Stub>> stubs_;
};

}  // namespace

std::unique_ptr<ProfileReader> MakeProfileReader(Channels& channels) {
  return std::make_unique<GrpcProfileReader>(channels);
}

}  // namespace allezon::router
