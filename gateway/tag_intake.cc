// SPDX-License-Identifier: Apache-2.0
#include "gateway/tag_intake.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "gateway/json_text.h"
#include "gateway/tag_json.h"
#include "router/tag_rules.h"
#include "rpc/metrics.h"
#include "rpc/status.h"

namespace allezon::gateway {
namespace {

// Reads one tag and makes its event. `key` empty: a random id.
absl::StatusOr<router::EventRef> MakeTagEvent(std::string_view json, std::string_view key,
                                              const IntakeOptions& options, absl::Time now) {
  // Kept from one request to the next: their buffers are what a tag costs most.
  thread_local TagParser parser;
  thread_local v1::Tag tag;
  if (json.size() > kTagBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", json.size(), " bytes; ", kTagBytesMax, " are allowed"));
  }
  if (absl::Status s = parser.Parse(json, tag); !s.ok()) return s;
  if (absl::FromUnixMillis(tag.time_ms()) > now + options.future_max) {
    return rpc::InvalidField("time", absl::StrCat("is further ahead of the clock than ",
                                                  absl::FormatDuration(options.future_max)));
  }
  return router::MakeEvent(tag.cookie(), tag.time_ms(), tag.SerializeAsString(), key,
                           options.shards, now);
}

// The problem of a write that failed; `what` is "the tag" or "the batch".
Problem WriteProblem(const absl::Status& status, std::string_view what, bool has_key) {
  Problem problem = ProblemOf(status);
  // Everything was checked before it was sent, and one of the services may have stored it.
  if (problem.status == 400) problem.status = 500;
  problem.field.clear();
  std::string& detail = problem.detail;
  detail = problem.status == 504 ? "the deadline passed" : std::string(status.message());
  if (detail.empty()) detail = ReasonOf(problem.status);
  detail.append("; ").append(what).append(" may be stored or not, or in part; ");
  detail.append(has_key ? "a retry with the same Idempotency-Key is safe"
                        : "only an Idempotency-Key would make a retry safe");
  problem.members.emplace_back("retry_safe", has_key ? "true" : "false");
  return problem;
}

// The lines of one batch that are on their way. Outlives the batch where a write does.
class Lines {
 public:
  // `batches`: how many there are, this one among them from now on.
  explicit Lines(std::shared_ptr<std::atomic<size_t>> batches) : batches_(std::move(batches)) {
    ++*batches_;
  }
  ~Lines() { --*batches_; }
  Lines(const Lines&) = delete;
  Lines& operator=(const Lines&) = delete;

  // Waits until another line may go; false once one has failed, or the deadline has passed.
  bool Enter(absl::Time deadline) {
    absl::MutexLock lock(&mutex_);
    const auto may_go = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return !worst_.ok() || in_flight_ < Share();
    };
    if (!mutex_.AwaitWithDeadline(absl::Condition(&may_go), deadline) || !worst_.ok()) return false;
    ++in_flight_;
    return true;
  }

  void Leave(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    --in_flight_;
    if (status.ok()) {
      ++stored_;
    } else {
      worst_ = router::Worse(worst_, status);
    }
  }

  // Waits for what is on its way; the number of lines that are stored, and the worst outcome.
  std::pair<size_t, absl::Status> Wait(absl::Time deadline) {
    absl::MutexLock lock(&mutex_);
    const auto landed = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return in_flight_ == 0; };
    if (!mutex_.AwaitWithDeadline(absl::Condition(&landed), deadline)) {
      return {stored_, absl::DeadlineExceededError("the deadline passed")};
    }
    return {stored_, worst_};
  }

 private:
  // What others leave is noticed at the next line that leaves.
  size_t Share() const {
    return std::clamp(kLinesInFlightMax / batches_->load(std::memory_order_relaxed),
                      kBatchLinesInFlightMin, kBatchLinesInFlightMax);
  }

  const std::shared_ptr<std::atomic<size_t>> batches_;
  absl::Mutex mutex_;
  size_t in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t stored_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status worst_ ABSL_GUARDED_BY(mutex_);
};

// Told by both services about one tag.
class BothDone : public router::WriteDone {
 public:
  void Done(const absl::Status& status) final {
    outcomes_[begun_.fetch_add(1, std::memory_order_relaxed)] = status;
    // Release what this thread wrote, acquire what the other one did.
    if (ended_.fetch_add(1, std::memory_order_acq_rel) == 0) return;
    Ended(router::Worse(outcomes_[0], outcomes_[1]));
  }

 private:
  // The outcome that promises less.
  virtual void Ended(const absl::Status& worst) = 0;

  std::array<absl::Status, 2> outcomes_;
  std::atomic<int> begun_{0};
  std::atomic<int> ended_{0};
};

class LineDone final : public BothDone {
 public:
  explicit LineDone(std::shared_ptr<Lines> lines) : lines_(std::move(lines)) {}

 private:
  void Ended(const absl::Status& worst) override { lines_->Leave(worst); }

  const std::shared_ptr<Lines> lines_;
};

class TagDone final : public BothDone {
 public:
  TagDone(Told told, bool has_key, prometheus::Counter& accepted)
      : told_(std::move(told)), has_key_(has_key), accepted_(accepted) {}

 private:
  void Ended(const absl::Status& worst) override {
    if (!worst.ok()) return told_(ToResponse(WriteProblem(worst, "the tag", has_key_)));
    accepted_.Increment();
    Response response;
    response.status = 204;
    told_(std::move(response));
  }

  const Told told_;
  const bool has_key_;
  prometheus::Counter& accepted_;
};

bool IsBlank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

// The lines of a batch, parsed: events of those that are tags, and a JSON list of the others.
struct ParsedBatch {
  std::vector<router::EventRef> events;
  size_t rejected = 0;
  std::string rejected_json;
};

void Reject(size_t line, const absl::Status& status, ParsedBatch& batch) {
  const Problem problem = ProblemOf(status);
  if (batch.rejected++ > 0) batch.rejected_json.push_back(',');
  absl::StrAppend(&batch.rejected_json, "{\"line\":", line, ",\"detail\":");
  AppendJsonText(problem.detail, batch.rejected_json);
  if (!problem.field.empty()) {
    batch.rejected_json.append(",\"field\":");
    AppendJsonText(problem.field, batch.rejected_json);
  }
  batch.rejected_json.push_back('}');
}

ParsedBatch ParseBatch(std::string_view body, std::string_view key, const IntakeOptions& options,
                       absl::Time now) {
  ParsedBatch batch;
  std::string line_key;
  for (size_t number = 1; !body.empty() && batch.rejected <= kBatchRejectedMax; ++number) {
    const size_t end = std::min(body.find('\n'), body.size());
    const std::string_view line = body.substr(0, end);
    body.remove_prefix(std::min(end + 1, body.size()));
    if (IsBlank(line)) continue;
    if (!key.empty()) {
      line_key.assign(key);
      absl::StrAppend(&line_key, "/", number);
    }
    absl::StatusOr<router::EventRef> event = MakeTagEvent(line, line_key, options, now);
    if (event.ok()) {
      batch.events.push_back(*std::move(event));
    } else {
      Reject(number, event.status(), batch);
    }
  }
  return batch;
}

}  // namespace

TagIntake::TagIntake(router::Writer& profiles, router::Writer& aggregates, IntakeOptions options)
    : profiles_(profiles),
      aggregates_(aggregates),
      options_(std::move(options)),
      batches_(std::make_shared<std::atomic<size_t>>(0)),
      tags_accepted_(rpc::MakeCounter("allezon_tags_accepted_total",
                                      "Tags that were stored in both services.")),
      lines_rejected_(rpc::MakeCounter("allezon_batch_lines_rejected_total",
                                       "Lines of batches that were no tags.")) {}

void TagIntake::AddTag(std::string_view body, std::string_view key, Told told) {
  const absl::Time now = options_.clock();
  absl::StatusOr<router::EventRef> event = MakeTagEvent(body, key, options_, now);
  if (!event.ok()) return told(ToResponse(ProblemOf(event.status())));
  const absl::Time deadline = absl::Now() + options_.tag_timeout;
  const auto done = std::make_shared<TagDone>(std::move(told), !key.empty(), tags_accepted_);
  profiles_.Write(*event, deadline, done);
  aggregates_.Write(*event, deadline, done);
}

Response TagIntake::AddBatch(std::string_view body, std::string_view key) {
  ParsedBatch batch = ParseBatch(body, key, options_, options_.clock());
  lines_rejected_.Increment(static_cast<double>(batch.rejected));
  if (batch.rejected > kBatchRejectedMax) {
    return ToResponse({.status = 400,
                       .detail = absl::StrCat("more than ", kBatchRejectedMax,
                                              " lines are no tags; nothing was stored")});
  }
  const absl::Time deadline = absl::Now() + options_.batch_timeout;
  const auto lines = std::make_shared<Lines>(batches_);
  for (const router::EventRef& event : batch.events) {
    if (!lines->Enter(deadline)) break;
    const auto done = std::make_shared<LineDone>(lines);
    profiles_.Write(event, deadline, done);
    aggregates_.Write(event, deadline, done);
  }
  auto [stored, status] = lines->Wait(deadline);
  tags_accepted_.Increment(static_cast<double>(stored));
  // Where the deadline kept lines from being sent, nothing has failed, and yet not all is stored.
  if (status.ok() && stored != batch.events.size()) {
    status = absl::DeadlineExceededError("the deadline passed");
  }
  if (!status.ok()) {
    Problem problem = WriteProblem(status, "the rest of the batch", !key.empty());
    problem.detail.insert(
        0, absl::StrCat(stored, " of ", batch.events.size(), " lines are stored surely; "));
    problem.members.emplace_back("stored", absl::StrCat(stored));
    return ToResponse(problem);
  }
  Response response;
  response.content_type = "application/json";
  absl::StrAppend(&response.body, "{\"accepted\":", stored, ",\"rejected\":[", batch.rejected_json,
                  "]}");
  return response;
}

}  // namespace allezon::gateway
