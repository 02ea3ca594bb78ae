// SPDX-License-Identifier: Apache-2.0
//
// Aggregates as a read quorum holds them: its replicas must have scanned the same set of events.
#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "router/aggregate_scan.h"
#include "router/ballot.h"

namespace allezon::router {
namespace {

// What replicas that differ get to pull from each other before they are asked again; doubles up to
// the bound.
constexpr absl::Duration kSyncPauseMin = absl::Milliseconds(25);
constexpr absl::Duration kSyncPauseMax = absl::Milliseconds(400);

// Shards that have the same replicas.
struct Group {
  std::vector<uint32_t> replicas;
  std::vector<ShardId> shards;
  uint32_t round = 0;
  std::unique_ptr<Ballot> ballot;  // of this round
  std::vector<ScanCalls::Call*> answers;
  bool is_agreed = false;
  absl::Duration pause = kSyncPauseMin;
  absl::Time due = absl::InfinitePast();  // not asked before
};

bool SameSets(const v1::ScanMinutesResponse& a, const v1::ScanMinutesResponse& b) {
  return std::equal(a.minutes().begin(), a.minutes().end(), b.minutes().begin(), b.minutes().end(),
                    [](const v1::MinuteTotal& x, const v1::MinuteTotal& y) {
                      return x.digest_count() == y.digest_count() &&
                             x.digest_low() == y.digest_low() && x.digest_high() == y.digest_high();
                    });
}

class QuorumScan {
 public:
  QuorumScan(AggregateNodes& nodes, const AggregateQuery& query, absl::Time deadline)
      : nodes_(nodes), query_(query), deadline_(deadline), totals_(query) {}

  absl::StatusOr<std::vector<AggregateBucket>> Run() {
    if (absl::Status s = MakeGroups(); !s.ok()) return s;
    while (open_groups_ > 0) {
      const absl::Time now = absl::Now();
      absl::Time due = deadline_;
      for (Group& group : groups_) {
        if (group.is_agreed) continue;
        AskDue(group, now);
        due = std::min(due, std::max(group.due, group.ballot->due()));
      }
      ScanCalls::Call* call = calls_.Next(due);
      if (call != nullptr) {
        if (absl::Status s = Take(*call); !s.ok()) return s;
      } else if (absl::Now() >= deadline_) {
        return rpc::WithRetryDelay(error_, kAggregateRetryDelay);
      }
    }
    return totals_.Buckets();
  }

 private:
  absl::Status MakeGroups() {
    const Placement& placement = nodes_.placement();
    std::map<std::vector<uint32_t>, std::vector<ShardId>> by_replicas;
    for (ShardId shard = 0; shard < placement.shards(); ++shard) {
      std::vector<uint32_t> replicas;
      for (const Replica& replica : placement.replicas[shard]) {
        if (replica.state != ReplicaState::kInitializing) replicas.push_back(replica.instance);
      }
      if (replicas.size() < placement.read_quorum()) {
        return absl::InternalError("a shard has too few replicas that may be read");
      }
      std::sort(replicas.begin(), replicas.end());
      by_replicas[std::move(replicas)].push_back(shard);
    }
    for (auto& [replicas, shards] : by_replicas) {
      Group& group = groups_.emplace_back();
      group.replicas = replicas;
      group.shards = std::move(shards);
      Begin(group);
    }
    open_groups_ = groups_.size();
    return absl::OkStatus();
  }

  // Begins a round: any read quorum of the replicas may answer.
  void Begin(Group& group) {
    std::rotate(group.replicas.begin(),
                group.replicas.begin() + nodes_.NextTurn() % group.replicas.size(),
                group.replicas.end());
    ++group.round;
    group.answers.clear();
    group.ballot = std::make_unique<Ballot>(nodes_.channels(), nodes_.paces(), group.replicas,
                                            nodes_.placement().read_quorum(),
                                            /*opens_circuits=*/false);
  }

  void AskDue(Group& group, absl::Time now) {
    if (now < group.due) return;
    for (const uint32_t instance : group.ballot->Due(now)) {
      asked_[nodes_.Ask(calls_, instance, group.shards, query_, deadline_)] = {&group, group.round};
    }
  }

  // Notes a call's end. An error is one that no retry can save.
  absl::Status Take(ScanCalls::Call& call) {
    const auto [group, round] = asked_[&call];
    // Of a round that is over.
    if (group->is_agreed || round != group->round) return absl::OkStatus();
    const absl::Status status = call.status.ok() ? totals_.Check(call.response) : call.status;
    if (IsFaultOfOne(status)) {
      std::erase(group->replicas, call.instance);
      return group->ballot->GaveUp(call.instance, absl::Now()) ? absl::OkStatus() : status;
    }
    if (IsTransient(status)) {
      error_ = status;
      group->ballot->Failed(call.instance, absl::Now());
      return absl::OkStatus();
    }
    if (!status.ok()) return status;
    nodes_.paces().Observe(call.instance, call.took, absl::Now());
    group->ballot->Answered(call.instance);
    group->answers.push_back(&call);
    if (group->ballot->is_enough()) Compare(*group);
    return absl::OkStatus();
  }

  void Compare(Group& group) {
    const v1::ScanMinutesResponse& first = group.answers.front()->response;
    if (std::all_of(group.answers.begin(), group.answers.end(),
                    [&](const auto* answer) { return SameSets(first, answer->response); })) {
      totals_.Add(first);
      for (const ScanCalls::Call* answer : group.answers) totals_.AddExpired(answer->response);
      group.is_agreed = true;
      --open_groups_;
      return;
    }
    error_ = absl::UnavailableError("the replicas hold different sets of tags just now");
    for (const ScanCalls::Call* answer : group.answers) {
      nodes_.SyncNow(answer->instance, group.shards, deadline_);
    }
    group.due = absl::Now() + group.pause;
    group.pause = std::min(2 * group.pause, kSyncPauseMax);
    Begin(group);
  }

  AggregateNodes& nodes_;
  const AggregateQuery& query_;
  const absl::Time deadline_;
  AggregateTotals totals_;
  absl::Status error_ = absl::DeadlineExceededError("no answer in time");
  ScanCalls calls_;
  std::deque<Group> groups_;
  // Which round of which group a call is of.
  std::map<ScanCalls::Call*, std::pair<Group*, uint32_t>> asked_;
  size_t open_groups_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<AggregateBucket>> QueryQuorum(AggregateNodes& nodes,
                                                         const AggregateQuery& query,
                                                         absl::Time deadline) {
  return QuorumScan(nodes, query, deadline).Run();
}

}  // namespace allezon::router
