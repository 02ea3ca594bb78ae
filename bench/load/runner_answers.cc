// SPDX-License-Identifier: Apache-2.0
//
// The part of Runner that takes what requests came to.
#include <algorithm>
#include <string>
#include <vector>

#include "bench/load/runner.h"
#include "bench/load/text.h"

namespace allezon::load {
namespace {

constexpr int64_t kNsPerUs = 1000;
constexpr int64_t kNsPerMs = 1000 * kNsPerUs;
constexpr int64_t kPauseFirstNs = 20'000'000;
constexpr int64_t kPauseMaxNs = 500'000'000;
constexpr size_t kDetailBytesMax = 400;

// What a second attempt may cure.
bool MayRetry(int status) {
  return status == 408 || status == 429 || status == 500 || (status >= 502 && status <= 504);
}

std::string_view FailureName(Failure failure) {
  switch (failure) {
    case Failure::kTimeout:
      return "timeout";
    case Failure::kClosed:
      return "connection closed";
    case Failure::kMalformed:
      return "malformed answer";
  }
  return "";
}

}  // namespace

void Runner::OnResponse(uint32_t token, const Response& response, int64_t now_ns) {
  Pending& pending = pending_[token];
  const int expected = pending.kind == Kind::kTags && options_.batch == 1 ? 204 : 200;
  if (response.status == 400 && pending.kind == Kind::kAggregate &&
      MayBeExpired(*pending.aggregate, now_ns)) {
    ++report_->of(pending.kind).expired;
    EndAnswered(token, now_ns);
    return;
  }
  if (response.status != expected) {
    AttemptFailed(token, "status " + std::to_string(response.status), response.body,
                  MayRetry(response.status), now_ns);
    return;
  }
  switch (pending.kind) {
    case Kind::kTags:
      if (options_.batch > 1) {
        OnBatchAnswer(token, response, now_ns);
        return;
      }
      EndTags(pending, true);
      break;
    case Kind::kProfile:
      Judge(checker_.Check(*pending.profile, response.body), pending.profile->request,
            pending.kind);
      break;
    case Kind::kAggregate:
      Judge(checker_.Check(*pending.aggregate, response.body), pending.aggregate->request,
            pending.kind);
      break;
  }
  EndAnswered(token, now_ns);
}

void Runner::OnBatchAnswer(uint32_t token, const Response& response, int64_t now_ns) {
  Pending& pending = pending_[token];
  uint64_t accepted = 0;
  simdjson::dom::element document;
  simdjson::dom::array rejected;
  if (parser_.parse(response.body).get(document) != simdjson::SUCCESS ||
      document["accepted"].get(accepted) != simdjson::SUCCESS ||
      document["rejected"].get(rejected) != simdjson::SUCCESS ||
      accepted + rejected.size() != pending.count) {
    EndFailed(token, "malformed answer", response.body, now_ns);
    return;
  }
  if (rejected.size() == 0) {
    EndTags(pending, true);
    EndAnswered(token, now_ns);
    return;
  }
  // All that is sent is valid, so no line may be refused; those that were not still count.
  std::vector<bool> is_rejected(pending.count);
  for (const simdjson::dom::element entry : rejected) {
    uint64_t line = 0;
    if (entry["line"].get(line) == simdjson::SUCCESS && line >= 1 && line <= pending.count) {
      is_rejected[line - 1] = true;
    }
  }
  for (uint32_t i = 0; i < pending.count; ++i) {
    oracle_.Completed(pending.first + i, !is_rejected[i]);
    ++(is_rejected[i] ? report_->tags_uncertain : report_->tags_acknowledged);
  }
  pending.count = 0;
  EndFailed(token, "lines rejected", response.body, now_ns);
}

void Runner::OnFailure(uint32_t token, Failure failure, std::string_view detail, int64_t now_ns) {
  AttemptFailed(token, std::string(FailureName(failure)), detail, true, now_ns);
}

void Runner::AttemptFailed(uint32_t token, const std::string& reason, std::string_view detail,
                           bool may_retry, int64_t now_ns) {
  Pending& pending = pending_[token];
  pending.pause_ns =
      pending.pause_ns == 0 ? kPauseFirstNs : std::min(2 * pending.pause_ns, kPauseMaxNs);
  const int64_t next_ns = now_ns + pending.pause_ns;
  if (!options_.retry || !may_retry || next_ns > pending.give_up_ns || stopped_) {
    EndFailed(token, reason, detail, now_ns);
    return;
  }
  KindStats& stats = report_->of(pending.kind);
  ++stats.retries;
  ++stats.retried_for[reason];
  pauses_.emplace(next_ns, token);
}

void Runner::EndTags(const Pending& pending, bool acknowledged) {
  for (uint64_t i = pending.first; i < pending.first + pending.count; ++i) {
    oracle_.Completed(i, acknowledged);
  }
  (acknowledged ? report_->tags_acknowledged : report_->tags_uncertain) += pending.count;
}

void Runner::EndAnswered(uint32_t token, int64_t now_ns) {
  const Pending& pending = pending_[token];
  KindStats& stats = report_->of(pending.kind);
  const int64_t latency_ns = now_ns - pending.scheduled_ns;
  ++stats.answered;
  if (latency_ns > TimeoutNs(pending.kind)) ++stats.late;
  stats.latency.Record(latency_ns / kNsPerUs);
  if (pending.kind == Kind::kTags) last_line_.latency.Record(latency_ns / kNsPerUs);
  Release(token);
}

void Runner::EndFailed(uint32_t token, const std::string& reason, std::string_view detail,
                       int64_t now_ns) {
  const Pending& pending = pending_[token];
  KindStats& stats = report_->of(pending.kind);
  ++stats.failed;
  ++stats.failures[reason];
  stats.latency.Record((now_ns - pending.scheduled_ns) / kNsPerUs);
  if (report_->failure_samples.size() < Report::kSamplesMax) {
    std::string what = pending.kind == Kind::kTags      ? "tag " + std::to_string(pending.first)
                       : pending.kind == Kind::kProfile ? pending.profile->request.target
                                                        : pending.aggregate->request.target;
    what += ": " + reason + " " + std::string(detail.substr(0, kDetailBytesMax));
    report_->failure_samples.push_back(std::move(what));
  }
  if (pending.kind == Kind::kTags) EndTags(pending, false);
  Release(token);
}

void Runner::Release(uint32_t token) {
  Pending& pending = pending_[token];
  pending.used = false;
  pending.profile.reset();
  pending.aggregate.reset();
  free_.push_back(token);
}

int64_t Runner::ExpiryLagNs() const {
  const int64_t attempts_ns =
      options_.timeout_ns + (options_.retry ? options_.retry_for_ns : int64_t{0});
  return std::max<int64_t>(options_.retention_ns - attempts_ns, 0);
}

bool Runner::MayBeExpired(const AggregateQuery& query, int64_t now_ns) const {
  if (query.rows.empty() || oracle_.sent() == 0) return false;
  const uint64_t settled = oracle_.SettledBefore(now_ns, ExpiryLagNs());
  const int64_t newest_ms = stream_.EarliestMs(oracle_.sent() - 1) + stream_.options().jitter_ms;
  // Whole minutes by their own time; by that of the answers also the one of which only some tags
  // are settled, as those of some shards.
  const int64_t end = std::min(stream_.EarliestMs(settled) / kMsPerMinute + 1,
                               (newest_ms - options_.retention_ns / kNsPerMs) / kMsPerMinute);
  return query.rows.front().minute < end;
}

void Runner::Judge(const Verdict& verdict, const QueryRequest& request, Kind kind) {
  KindStats& stats = report_->of(kind);
  switch (verdict.kind) {
    case Verdict::Kind::kRight:
      ++stats.right;
      return;
    case Verdict::Kind::kWithinBounds:
      ++stats.within_bounds;
      return;
    case Verdict::Kind::kWrong:
      ++stats.wrong;
      if (report_->wrong_samples.size() < Report::kSamplesMax) {
        report_->wrong_samples.push_back(request.target + ": " + verdict.diff);
      }
  }
}

}  // namespace allezon::load
