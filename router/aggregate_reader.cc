// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "router/aggregate_scan.h"

namespace allezon::router {
namespace {

// Before a node that failed is asked again.
constexpr absl::Duration kPause = absl::Milliseconds(20);

// A question to one node for some shards. Where it fails or is overdue, `instead` asks others for
// the same shards, in parts: who answers for all of them first, counts.
struct Part {
  std::vector<ShardId> shards;
  uint32_t instance = 0;
  ScanCalls::Call* call = nullptr;
  enum class State { kAsked, kAnswered, kFailed } state = State::kAsked;
  // When to ask others: for the overdue answer, or again after a failure.
  absl::Time due;
  std::vector<Part> instead;

  bool IsComplete() const {
    return state == State::kAnswered || (!instead.empty() && AreComplete(instead));
  }
  static bool AreComplete(const std::vector<Part>& parts) {
    return std::all_of(parts.begin(), parts.end(), [](const Part& p) { return p.IsComplete(); });
  }
  static void Sum(const std::vector<Part>& parts, AggregateTotals& totals) {
    for (const Part& part : parts) {
      if (part.state == State::kAnswered) {
        totals.Add(part.call->response);
      } else {
        Sum(part.instead, totals);
      }
    }
  }
};

// Calls `visit` for every part; what it changes of a part is visited after it.
template <typename Visit>
void ForEach(std::vector<Part>& parts, const Visit& visit) {
  for (Part& part : parts) {
    visit(part);
    ForEach(part.instead, visit);
  }
}

// One query: asks one replica of every shard.
class Scan {
 public:
  Scan(AggregateNodes& nodes, const AggregateQuery& query, absl::Time deadline)
      : nodes_(nodes),
        placement_(nodes.placement()),
        query_(query),
        deadline_(deadline),
        totals_(query),
        failed_(placement_.instances.size()),
        broken_(placement_.instances.size()),
        is_trial_(placement_.instances.size()) {
    for (uint32_t i = 0; i < is_trial_.size(); ++i) {
      is_trial_[i] = nodes_.paces().IsSlow(i) && nodes_.paces().TakesTrial(i, absl::Now());
    }
  }

  absl::StatusOr<std::vector<AggregateBucket>> Run() {
    std::vector<ShardId> all(placement_.shards());
    for (ShardId shard = 0; shard < all.size(); ++shard) all[shard] = shard;
    std::optional<std::vector<Part>> parts = Plan(std::move(all), failed_);
    if (!parts) return absl::InternalError("a shard has no replica that may be read");
    parts_ = *std::move(parts);
    for (Part& part : parts_) Ask(part);
    while (!Part::AreComplete(parts_)) {
      absl::Time due = deadline_;
      ForEach(parts_, [&](Part& part) {
        if (part.instead.empty() && part.state != Part::State::kAnswered) {
          due = std::min(due, part.due);
        }
      });
      if (ScanCalls::Call* call = calls_.Next(due); call != nullptr) {
        if (absl::Status s = Take(*call); !s.ok()) return s;
      } else if (absl::Now() >= deadline_) {
        return rpc::WithRetryDelay(error_, kAggregateRetryDelay);
      } else {
        AskOthers(absl::Now());
      }
    }
    Part::Sum(parts_, totals_);
    return totals_.Buckets();
  }

 private:
  // Asks each shard of the first replica whose circuit is closed and that is not slow, for which
  // writes wait as well. So a caller reads what it wrote while nothing fails. None where a shard
  // has no replica but `banned` ones.
  std::optional<std::vector<Part>> Plan(const std::vector<ShardId>& open,
                                        const std::vector<bool>& banned) const {
    std::vector<std::vector<ShardId>> asked(placement_.instances.size());
    for (const ShardId shard : open) {
      const std::vector<uint32_t> choices = Choices(shard, banned);
      if (choices.empty()) return std::nullopt;
      asked[choices.front()].push_back(shard);
    }
    std::vector<Part> parts;
    for (uint32_t instance = 0; instance < asked.size(); ++instance) {
      if (asked[instance].empty()) continue;
      Part& part = parts.emplace_back();
      part.instance = instance;
      part.shards = std::move(asked[instance]);
    }
    return parts;
  }

  std::vector<uint32_t> Choices(ShardId shard, const std::vector<bool>& banned) const {
    std::vector<uint32_t> good, slow, open;
    for (const Replica& replica : placement_.replicas[shard]) {
      if (replica.state == ReplicaState::kInitializing || banned[replica.instance]) continue;
      const bool is_open = nodes_.channels().CircuitOf(replica.instance)->is_open();
      const bool is_slow = nodes_.paces().IsSlow(replica.instance) && !is_trial_[replica.instance];
      (is_open ? open : is_slow ? slow : good).push_back(replica.instance);
    }
    return !good.empty() ? good : !slow.empty() ? slow : open;
  }

  void Ask(Part& part) {
    part.state = Part::State::kAsked;
    part.call = nodes_.Ask(calls_, part.instance, part.shards, query_, deadline_);
    part.due = absl::Now() + nodes_.paces().overdue(part.instance);
  }

  // Asks others for the part's shards. False where there are none but `banned` ones.
  bool AskInstead(Part& part, const std::vector<bool>& banned) {
    std::optional<std::vector<Part>> instead = Plan(part.shards, banned);
    if (!instead) return false;
    if (part.state == Part::State::kFailed && instead->size() == 1) {
      part = std::move(instead->front());
      Ask(part);
      return true;
    }
    part.instead = *std::move(instead);
    for (Part& one : part.instead) Ask(one);
    return true;
  }

  // Notes a call's end. An error is one that no retry can save.
  absl::Status Take(ScanCalls::Call& call) {
    Part* found = nullptr;
    ForEach(parts_, [&](Part& part) { found = part.call == &call ? &part : found; });
    if (found == nullptr) return absl::OkStatus();
    const absl::Status status = call.status.ok() ? totals_.Check(call.response) : call.status;
    if (status.ok()) {
      nodes_.paces().Observe(call.instance, call.took, absl::Now());
      failed_[call.instance] = false;
      found->state = Part::State::kAnswered;
      return absl::OkStatus();
    }
    if (IsFaultOfOne(status)) {
      broken_[call.instance] = true;
      if (!Plan(found->shards, broken_)) return status;
    } else if (IsTransient(status)) {
      error_ = status;
    } else {
      return status;
    }
    failed_[call.instance] = true;
    found->state = Part::State::kFailed;
    if (found->instead.empty() && !AskInstead(*found, failed_)) found->due = absl::Now() + kPause;
    return absl::OkStatus();
  }

  // Asks others for what is overdue, and anyone for what everyone failed to answer.
  void AskOthers(absl::Time now) {
    std::vector<bool> banned = failed_;
    ForEach(parts_, [&](Part& part) {
      if (part.state != Part::State::kAsked || part.due > now) return;
      banned[part.instance] = true;
      // Its answer may never be waited for, so this is what there is to learn from.
      nodes_.paces().Observe(part.instance, now - part.call->sent, now);
    });
    std::vector<Part*> due;
    ForEach(parts_, [&](Part& part) {
      if (part.instead.empty() && part.state != Part::State::kAnswered && part.due <= now) {
        due.push_back(&part);
      }
    });
    for (Part* part : due) {
      if (part->state == Part::State::kAsked) {
        // Where there is nobody else it stays with the one that was asked.
        if (!AskInstead(*part, banned)) part->due = absl::InfiniteFuture();
      } else {
        failed_ = broken_;
        AskInstead(*part, failed_);
      }
    }
  }

  AggregateNodes& nodes_;
  const Placement& placement_;
  const AggregateQuery& query_;
  const absl::Time deadline_;
  AggregateTotals totals_;
  std::vector<bool> failed_;    // by instance: its last answer was an error
  std::vector<bool> broken_;    // that, and it will not answer anything else
  std::vector<bool> is_trial_;  // by instance: it is slow, and asked all the same
  absl::Status error_ = absl::DeadlineExceededError("no answer in time");
  ScanCalls calls_;
  std::vector<Part> parts_;
};

class GrpcAggregateReader final : public AggregateReader {
 public:
  explicit GrpcAggregateReader(Channels& channels) : nodes_(channels) {}

  absl::StatusOr<std::vector<AggregateBucket>> Query(const AggregateQuery& query,
                                                     absl::Time deadline) override {
    if (query.from_minute == query.to_minute) return std::vector<AggregateBucket>();
    return query.quorum ? QueryQuorum(nodes_, query, deadline)
                        : Scan(nodes_, query, deadline).Run();
  }

 private:
  AggregateNodes nodes_;
};

}  // namespace

std::unique_ptr<AggregateReader> MakeAggregateReader(Channels& channels) {
  return std::make_unique<GrpcAggregateReader>(channels);
}

}  // namespace allezon::router
