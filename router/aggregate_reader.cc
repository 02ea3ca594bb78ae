// SPDX-License-Identifier: Apache-2.0
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "allezon/v1/aggregate_replica.grpc.pb.h"
#include "router/channels.h"
#include "router/readers.h"
#include "rpc/status.h"

namespace allezon::router {
namespace {

// A node that does not answer leaves time for others.
constexpr absl::Duration kAttemptMax = absl::Seconds(5);
constexpr absl::Duration kPause = absl::Milliseconds(20);
constexpr absl::Duration kRetryDelay = absl::Seconds(1);

// The questions of one round, one a node, and their answers.
struct Question {
  uint32_t instance = 0;
  grpc::ClientContext context;
  v1::ScanMinutesRequest request;
  v1::ScanMinutesResponse response;
  absl::Status status;
};
using Questions = std::vector<std::unique_ptr<Question>>;

// What the answers so far add up to.
class Totals {
 public:
  explicit Totals(const AggregateQuery& query) : minutes_(query.to_minute - query.from_minute) {}

  absl::Status Add(const v1::ScanMinutesResponse& response) {
    if (static_cast<size_t>(response.minutes_size()) != minutes_.size()) {
      return absl::InternalError(absl::StrCat("a node answered ", response.minutes_size(),
                                              " minutes instead of ", minutes_.size()));
    }
    for (size_t i = 0; i < minutes_.size(); ++i) {
      const v1::MinuteTotal& answer = response.minutes(static_cast<int>(i));
      Minute& minute = minutes_[i];
      // Unsigned, since a sum that does not fit wraps instead of being undefined.
      minute.count += static_cast<uint64_t>(answer.count());
      minute.sum_price += static_cast<uint64_t>(answer.sum_price());
      minute.taken_through_s = std::max(minute.taken_through_s, answer.taken_through_s());
      if (answer.oldest_accepted_s() != 0) {
        minute.oldest_accepted_s =
            minute.oldest_accepted_s == 0
                ? answer.oldest_accepted_s()
                : std::min(minute.oldest_accepted_s, answer.oldest_accepted_s());
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<AggregateBucket>> Buckets(const AggregateQuery& query) const {
    std::vector<AggregateBucket> buckets;
    for (size_t i = 0; i < minutes_.size(); ++i) {
      const Minute& minute = minutes_[i];
      // A minute is answered in full, or not at all: what is left of it after a part was taken is
      // no answer.
      if (minute.taken_through_s != 0 && minute.oldest_accepted_s <= minute.taken_through_s) {
        return absl::FailedPreconditionError(
            absl::StrCat("minute ", query.from_minute + static_cast<int64_t>(i),
                         " of the range is older than what is kept; it was taken away"));
      }
      AggregateBucket& bucket = buckets.emplace_back();
      bucket.minute = query.from_minute + static_cast<int64_t>(i);
      bucket.count = static_cast<int64_t>(minute.count);
      bucket.sum_price = static_cast<int64_t>(minute.sum_price);
    }
    return buckets;
  }

 private:
  struct Minute {
    uint64_t count = 0;
    uint64_t sum_price = 0;
    uint32_t taken_through_s = 0;
    uint32_t oldest_accepted_s = 0;
  };
  std::vector<Minute> minutes_;
};

class GrpcAggregateReader final : public AggregateReader {
 public:
  explicit GrpcAggregateReader(Channels& channels) : placement_(channels.placement()) {
    for (uint32_t i = 0; i < placement_.instances.size(); ++i) {
      stubs_.push_back(v1::AggregateReplicaService::NewStub(channels.To(i)));
    }
  }

  absl::StatusOr<std::vector<AggregateBucket>> Query(const AggregateQuery& query,
                                                     absl::Time deadline) override {
    Totals totals(query);
    if (query.from_minute == query.to_minute) return totals.Buckets(query);
    std::vector<ShardId> open(placement_.shards());
    for (ShardId shard = 0; shard < open.size(); ++shard) open[shard] = shard;
    std::vector<bool> failed(placement_.instances.size());
    while (true) {
      absl::StatusOr<Questions> questions = Plan(open, failed, query);
      if (!questions.ok()) return questions.status();
      Ask(*questions, std::min(deadline, absl::Now() + kAttemptMax));
      open.clear();
      absl::Status error;
      for (const auto& question : *questions) {
        if (question->status.ok()) {
          if (absl::Status s = totals.Add(question->response); !s.ok()) return s;
          continue;
        }
        error = question->status;
        if (!IsRetryable(error)) return error;
        failed[question->instance] = true;
        open.insert(open.end(), question->request.shards().begin(),
                    question->request.shards().end());
      }
      if (open.empty()) return totals.Buckets(query);
      if (absl::Now() + kPause >= deadline) return rpc::WithRetryDelay(error, kRetryDelay);
      absl::SleepFor(kPause);
    }
  }

 private:
  static bool IsRetryable(const absl::Status& status) {
    return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
           absl::IsResourceExhausted(status) || absl::IsAborted(status);
  }

  // Spreads `open` over as few nodes as a greedy choice finds, those that failed before only where
  // nothing else is left.
  absl::StatusOr<Questions> Plan(std::vector<ShardId> open, std::vector<bool>& failed,
                                 const AggregateQuery& query) {
    std::sort(open.begin(), open.end());
    Questions questions;
    // Another node comes first each time, so that equal choices share the work.
    const size_t first = turn_.fetch_add(1, std::memory_order_relaxed);
    while (!open.empty()) {
      std::vector<std::vector<ShardId>> covers(placement_.instances.size());
      for (const ShardId shard : open) {
        for (const Replica& replica : placement_.replicas[shard]) {
          if (replica.state == ReplicaState::kInitializing || failed[replica.instance]) continue;
          covers[replica.instance].push_back(shard);
        }
      }
      size_t best = first % covers.size();
      for (size_t i = 0; i < covers.size(); ++i) {
        const size_t candidate = (first + i) % covers.size();
        if (covers[candidate].size() > covers[best].size()) best = candidate;
      }
      if (covers[best].empty()) {
        // Every replica of these shards failed once: all get another chance.
        if (std::none_of(failed.begin(), failed.end(), [](bool f) { return f; })) {
          return absl::InternalError("a shard has no replica that may be read");
        }
        failed.assign(failed.size(), false);
        continue;
      }
      questions.push_back(MakeQuestion(static_cast<uint32_t>(best), covers[best], query));
      std::vector<ShardId> rest;
      std::set_difference(open.begin(), open.end(), covers[best].begin(), covers[best].end(),
                          std::back_inserter(rest));
      open = std::move(rest);
    }
    return questions;
  }

  std::unique_ptr<Question> MakeQuestion(uint32_t instance, const std::vector<ShardId>& shards,
                                         const AggregateQuery& query) const {
    auto question = std::make_unique<Question>();
    question->instance = instance;
    v1::ScanMinutesRequest& request = question->request;
    request.set_placement_version(placement_.version);
    request.mutable_shards()->Add(shards.begin(), shards.end());
    request.set_from_minute(query.from_minute);
    request.set_to_minute(query.to_minute);
    request.set_action(static_cast<v1::Action>(query.action));
    if (query.origin) request.set_origin(*query.origin);
    if (query.brand_id) request.set_brand_id(*query.brand_id);
    if (query.category_id) request.set_category_id(*query.category_id);
    return question;
  }

  // Puts all questions at once and waits for every answer.
  void Ask(Questions& questions, absl::Time deadline) {
    absl::Mutex mutex;
    size_t left = questions.size();
    for (const auto& question : questions) {
      question->context.set_deadline(absl::ToChronoTime(deadline));
      Question* asked = question.get();
      stubs_[asked->instance]->async()->ScanMinutes(
          &asked->context, &asked->request, &asked->response, [&, asked](grpc::Status status) {
            absl::MutexLock lock(&mutex);
            asked->status = rpc::FromGrpc(status);
            --left;
          });
    }
    absl::MutexLock lock(&mutex);
    mutex.Await(absl::Condition(
        +[](size_t* n) { return *n == 0; }, &left));
  }

  const Placement& placement_;
  std::vector<std::unique_ptr<v1::AggregateReplicaService::Stub>> stubs_;
  std::atomic<size_t> turn_{0};
};

}  // namespace

std::unique_ptr<AggregateReader> MakeAggregateReader(Channels& channels) {
  return std::make_unique<GrpcAggregateReader>(channels);
}

}  // namespace allezon::router
