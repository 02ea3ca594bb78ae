// SPDX-License-Identifier: Apache-2.0
//
// allezon-bench-add-tags: another team's program inside the mesh. It brings tags in batches to both
// services by gRPC, as fast as they answer, or prints the same tags as text.
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "allezon/v1/aggregate.grpc.pb.h"
#include "allezon/v1/profile.grpc.pb.h"
#include "bench/programs/latencies.h"
#include "bench/programs/synthetic_tags.h"
#include "rpc/flags.h"

ABSL_FLAG(std::string, profiles, "", "profile nodes, host:port,…, called in turn; empty: none");
ABSL_FLAG(std::string, aggregates, "", "aggregate nodes, host:port,…, called in turn; empty: none");
ABSL_FLAG(uint32_t, batch, 100, "tags a call");
ABSL_FLAG(uint32_t, in_flight, 16, "batches on their way at a time");
ABSL_FLAG(double, seconds, 0, "ends after so long; 0: no bound");
ABSL_FLAG(uint64_t, tags, 0, "ends after so many tags; 0: no bound");
ABSL_FLAG(uint64_t, first, 0, "number of the first tag");
ABSL_FLAG(int64_t, start_ms, 0, "logical time of tag 0, in milliseconds since 1970");
ABSL_FLAG(double, step_us, 1000, "logical time between tags");
ABSL_FLAG(uint32_t, cookies, 1'000'000, "different cookies");
ABSL_FLAG(bool, in_turn, false, "cookies one after the other, views and buys in turn");
ABSL_FLAG(bool, tsv, false, "prints the tags instead of sending them");

namespace allezon::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kCallTimeout{30};
constexpr uint64_t kNoBound = UINT64_MAX;
// Where so many batches failed there is nothing to be measured.
constexpr uint64_t kFailuresMax = 100;

SyntheticOptions TagsOfFlags() {
  SyntheticOptions options;
  options.start_ms = absl::GetFlag(FLAGS_start_ms);
  options.step_us = absl::GetFlag(FLAGS_step_us);
  options.cookies = std::max(1u, absl::GetFlag(FLAGS_cookies));
  options.in_turn = absl::GetFlag(FLAGS_in_turn);
  return options;
}

uint64_t EndOfFlags() {
  const uint64_t tags = absl::GetFlag(FLAGS_tags);
  return tags == 0 ? kNoBound : absl::GetFlag(FLAGS_first) + tags;
}

template <typename Service>
std::vector<std::unique_ptr<typename Service::Stub>> StubsOf(const std::string& addresses) {
  std::vector<std::unique_ptr<typename Service::Stub>> stubs;
  for (const auto& address : absl::StrSplit(addresses, ',', absl::SkipEmpty())) {
    stubs.push_back(Service::NewStub(
        grpc::CreateChannel(std::string(address), grpc::InsecureChannelCredentials())));
  }
  return stubs;
}

// A batch that is on its way to a node of each service.
struct Batch {
  v1::ProfileServiceAddTagsRequest profile_request;
  v1::ProfileServiceAddTagsResponse profile_response;
  v1::AggregateServiceAddTagsRequest aggregate_request;
  v1::AggregateServiceAddTagsResponse aggregate_response;
  std::optional<grpc::ClientContext> profile_call, aggregate_call;
  Clock::time_point sent;
  int unanswered = 0;
  std::string failure;  // the first one
};

class Load {
 public:
  explicit Load(SyntheticOptions options)
      : options_(options),
        profiles_(StubsOf<v1::ProfileService>(absl::GetFlag(FLAGS_profiles))),
        aggregates_(StubsOf<v1::AggregateService>(absl::GetFlag(FLAGS_aggregates))),
        next_tag_(absl::GetFlag(FLAGS_first)),
        end_tag_(EndOfFlags()),
        batches_(std::max(1u, absl::GetFlag(FLAGS_in_flight))) {}

  // Returns once nothing is in flight; prints what came of it.
  int Run() {
    const Clock::time_point began = Clock::now();
    const double seconds = absl::GetFlag(FLAGS_seconds);
    if (seconds > 0)
      until_ = began + std::chrono::microseconds(static_cast<int64_t>(seconds * 1e6));
    {
      absl::MutexLock lock(&mutex_);
      under_way_ = batches_.size();
    }
    for (Batch& batch : batches_) Begin(batch);
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](size_t* under_way) { return *under_way == 0; }, &under_way_));
    const std::chrono::duration<double> took = Clock::now() - began;
    std::printf("{\"tags\":%llu,\"failed\":%llu,\"seconds\":%.6f,\"latency_us\":%s}\n",
                static_cast<unsigned long long>(acknowledged_),
                static_cast<unsigned long long>(failed_), took.count(), latencies_.Json().c_str());
    if (!failure_.empty()) std::fprintf(stderr, "%s\n", failure_.c_str());
    return acknowledged_ == 0 ? 1 : 0;
  }

 private:
  // The tags of the next batch, as [begin, end); an empty range where it is to end.
  std::pair<uint64_t, uint64_t> Take() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const bool over = (until_.has_value() && Clock::now() >= *until_) || failures_ > kFailuresMax;
    const uint64_t begin = next_tag_;
    if (!over) next_tag_ = std::min(end_tag_, begin + absl::GetFlag(FLAGS_batch));
    return {begin, next_tag_};
  }

  void Begin(Batch& batch) {
    std::pair<uint64_t, uint64_t> tags;
    size_t number;
    {
      absl::MutexLock lock(&mutex_);
      tags = Take();
      number = calls_++;
      if (tags.first >= tags.second) {
        --under_way_;
        return;
      }
    }
    batch.profile_request.clear_tags();
    for (uint64_t i = tags.first; i < tags.second; ++i) {
      MakeTag(options_, i, *batch.profile_request.add_tags()->mutable_tag());
    }
    batch.failure.clear();
    batch.sent = Clock::now();
    // Set before either call, whose answer may come before the other one leaves.
    batch.unanswered = !profiles_.empty() + !aggregates_.empty();
    if (!aggregates_.empty()) {
      *batch.aggregate_request.mutable_tags() = batch.profile_request.tags();
    }
    if (!profiles_.empty()) {
      batch.profile_call.emplace().set_deadline(std::chrono::system_clock::now() + kCallTimeout);
      profiles_[number % profiles_.size()]->async()->AddTags(
          &*batch.profile_call, &batch.profile_request, &batch.profile_response,
          [this, &batch](const grpc::Status& status) { Answered(batch, status); });
    }
    if (!aggregates_.empty()) {
      batch.aggregate_call.emplace().set_deadline(std::chrono::system_clock::now() + kCallTimeout);
      aggregates_[number % aggregates_.size()]->async()->AddTags(
          &*batch.aggregate_call, &batch.aggregate_request, &batch.aggregate_response,
          [this, &batch](const grpc::Status& status) { Answered(batch, status); });
    }
  }

  void Answered(Batch& batch, const grpc::Status& status) {
    {
      absl::MutexLock lock(&mutex_);
      if (!status.ok() && batch.failure.empty()) batch.failure = status.error_message();
      if (--batch.unanswered > 0) return;
      const auto tags = static_cast<uint64_t>(batch.profile_request.tags_size());
      if (batch.failure.empty()) {
        acknowledged_ += tags;
        latencies_.Add(Clock::now() - batch.sent);
      } else {
        failed_ += tags;
        ++failures_;
        failure_ = batch.failure;
      }
    }
    Begin(batch);
  }

  const SyntheticOptions options_;
  const std::vector<std::unique_ptr<v1::ProfileService::Stub>> profiles_;
  const std::vector<std::unique_ptr<v1::AggregateService::Stub>> aggregates_;
  std::optional<Clock::time_point> until_;
  absl::Mutex mutex_;
  uint64_t next_tag_ ABSL_GUARDED_BY(mutex_);
  const uint64_t end_tag_;
  size_t calls_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t under_way_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t acknowledged_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t failed_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t failures_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string failure_ ABSL_GUARDED_BY(mutex_);
  Latencies latencies_ ABSL_GUARDED_BY(mutex_);
  std::vector<Batch> batches_;
};

int PrintTsv(const SyntheticOptions& options) {
  constexpr size_t kBufferBytes = 1 << 20;
  v1::Tag tag;
  std::string text;
  for (uint64_t i = absl::GetFlag(FLAGS_first), end = EndOfFlags(); i < end; ++i) {
    MakeTag(options, i, tag);
    AppendTsv(tag, text);
    if (text.size() < kBufferBytes && i + 1 < end) continue;
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) return 1;
    text.clear();
  }
  return std::fflush(stdout) == 0 ? 0 : 1;
}

}  // namespace
}  // namespace allezon::bench

int main(int argc, char** argv) {
  using namespace allezon;
  rpc::ParseFlags(argc, argv,
                  "allezon-bench-add-tags brings tags to both services by gRPC in batches.");
  const bench::SyntheticOptions options = bench::TagsOfFlags();
  if (absl::GetFlag(FLAGS_tsv)) return bench::PrintTsv(options);
  if (absl::GetFlag(FLAGS_profiles).empty() && absl::GetFlag(FLAGS_aggregates).empty()) {
    std::fprintf(stderr, "--profiles or --aggregates must name nodes\n");
    return 2;
  }
  return bench::Load(options).Run();
}
