// SPDX-License-Identifier: Apache-2.0
#include "bench/load/runner.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "bench/load/text.h"

namespace allezon::load {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;
constexpr int64_t kNsPerSecond = 1000 * kNsPerMs;
constexpr int64_t kTickNs = 5 * kNsPerMs;
constexpr int64_t kConnectWaitNs = 3 * kNsPerSecond;
constexpr int64_t kStopWaitNs = kNsPerSecond;  // for what is in flight when a signal comes
constexpr size_t kOpenLoopPendingMax = 200'000;
constexpr size_t kFinalPendingMax = 8;  // the checks at the end are no load test
constexpr uint32_t kFinalProfilesMax = 20'000;
constexpr uint64_t kFinalFailuresMax = 50;
constexpr int64_t kFinalMinutes = 10;

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

Runner::Runner(const RunOptions& options, const TagStream& stream, std::vector<Target> targets)
    : options_(options),
      stream_(stream),
      oracle_(stream, std::max({options.profile_lag_ns, options.aggregate_lag_ns, ExpiryLagNs()})),
      queries_(stream, oracle_, stream.options().seed),
      checker_(stream, oracle_),
      client_(std::move(targets), options.connections, this) {}

absl::Status Runner::Run(const std::atomic<int>& signals, Report* report) {
  report_ = report;
  const absl::Status connected = Connect();
  if (!connected.ok()) return connected;
  const double cpu_s = CpuSeconds();
  start_ns_ = NowNs();
  last_line_.at_ns = next_due_ns_ = last_due_ns_ = start_ns_;
  Loop(signals);
  const int64_t end_ns = NowNs();
  if (stream_end_ns_ == 0) stream_end_ns_ = end_ns;
  for (const Pending& pending : pending_) {
    if (!pending.used) continue;
    ++report->of(pending.kind).abandoned;
    if (pending.kind == Kind::kTags) report->tags_uncertain += pending.count;
  }
  report->tags_sent = tags_made_;
  report->interrupted = stopped_;
  report->stream_s = static_cast<double>(stream_end_ns_ - start_ns_) / kNsPerSecond;
  report->wall_s = static_cast<double>(end_ns - start_ns_) / kNsPerSecond;
  report->cpu_s = CpuSeconds() - cpu_s;
  report->connections_opened = client_.opened();
  report->connections_refused = client_.refused();
  report->connections_closed_idle = client_.closed_idle();
  return absl::OkStatus();
}

absl::Status Runner::Connect() {
  const int64_t until_ns = NowNs() + kConnectWaitNs;
  for (int64_t now_ns = NowNs(); now_ns < until_ns; now_ns = NowNs()) {
    client_.OpenAll(now_ns);
    client_.Poll(kTickNs);
    client_.ExpireDeadlines(NowNs());
    if (client_.connected() > 0) return absl::OkStatus();
  }
  return absl::UnavailableError("no gateway can be reached: " + client_.last_refusal());
}

void Runner::Loop(const std::atomic<int>& signals) {
  int64_t stop_wait_ns = 0;
  while (phase_ != Phase::kEnd) {
    const int64_t now_ns = NowNs();
    oracle_.Checkpoint(now_ns);
    if (now_ns >= next_tick_ns_) Tick(now_ns);
    const int came = signals.load(std::memory_order_relaxed);
    if (came > 0) stream_ended_ = true;
    if (came > (options_.finish_on_signal ? 1 : 0) && !stopped_) {
      stopped_ = true;
      stop_wait_ns = now_ns + kStopWaitNs;
    }
    if (stopped_) {
      if (client_.all_idle() || now_ns > stop_wait_ns) return;
    } else {
      Dispatch(now_ns);
      AdvancePhase(now_ns);
    }
    client_.Poll(WaitNs(now_ns));
  }
}

void Runner::Tick(int64_t now_ns) {
  next_tick_ns_ = now_ns + kTickNs;
  client_.ExpireDeadlines(now_ns);
  if (now_ns - last_line_.at_ns >= kNsPerSecond) Progress(now_ns);
}

int64_t Runner::WaitNs(int64_t now_ns) const {
  int64_t until_ns = next_tick_ns_;
  const bool full = pending_.size() - free_.size() >= PendingMax();
  if (!stream_ended_ && options_.rate > 0 && ready_.empty() && !full) {
    until_ns = std::min(until_ns, next_due_ns_);
  }
  if (!pauses_.empty()) until_ns = std::min(until_ns, pauses_.begin()->first);
  return std::max<int64_t>(until_ns - now_ns, 0);
}

void Runner::Dispatch(int64_t now_ns) {
  while (!pauses_.empty() && pauses_.begin()->first <= now_ns) {
    ready_.push_back(pauses_.begin()->second);
    pauses_.erase(pauses_.begin());
  }
  while (!ready_.empty() || MakeWork(now_ns)) {
    const uint32_t token = ready_.front();
    Client::Connection* connection = client_.Acquire(now_ns);
    if (connection != nullptr) {
      unreachable_since_ns_ = 0;
      ready_.pop_front();
      Launch(connection, token, now_ns);
      continue;
    }
    if (client_.connected() > 0) return;
    if (unreachable_since_ns_ == 0) unreachable_since_ns_ = now_ns;
    const int64_t wait_ns = TimeoutNs(Kind::kTags);
    if (now_ns - unreachable_since_ns_ < wait_ns ||
        now_ns - pending_[token].scheduled_ns < wait_ns) {
      return;
    }
    ready_.pop_front();
    AttemptFailed(token, "unreachable", client_.last_refusal(), true, now_ns);
  }
}

void Runner::AdvancePhase(int64_t now_ns) {
  const bool all_ended = free_.size() == pending_.size();
  if (!stream_ended_ || !all_ended) return;
  switch (phase_) {
    case Phase::kStream:
      stream_end_ns_ = now_ns;
      phase_ = options_.final_check ? Phase::kSettle : Phase::kEnd;
      return;
    case Phase::kSettle: {
      const uint64_t sent = oracle_.sent();
      if (oracle_.SettledBefore(now_ns, options_.profile_lag_ns) == sent &&
          oracle_.SettledBefore(now_ns, options_.aggregate_lag_ns) == sent) {
        final_minute_ = oracle_.KeptMinutes().first;
        final_failures_max_ = report_->failed() + kFinalFailuresMax;
        phase_ = Phase::kFinal;
      }
      return;
    }
    case Phase::kFinal:
      if (!MakeWork(now_ns)) phase_ = Phase::kEnd;
      return;
    case Phase::kEnd:
      return;
  }
}

size_t Runner::PendingMax() const {
  if (phase_ == Phase::kFinal) return kFinalPendingMax;
  return options_.rate > 0 ? kOpenLoopPendingMax : static_cast<size_t>(options_.connections);
}

bool Runner::MakeWork(int64_t now_ns) {
  if (pending_.size() - free_.size() >= PendingMax()) return false;
  if (phase_ == Phase::kStream) return !stream_ended_ && MakeStreamWork(now_ns);
  return phase_ == Phase::kFinal && MakeFinalWork(now_ns);
}

bool Runner::MakeStreamWork(int64_t now_ns) {
  while (ready_.empty()) {
    if (options_.profile_every > 0 && tags_made_ >= (profiles_made_ + 1) * options_.profile_every) {
      ++profiles_made_;
      MakeQuery(Kind::kProfile, last_due_ns_, now_ns);
      continue;
    }
    if (options_.aggregate_every > 0 &&
        tags_made_ >= (aggregates_made_ + 1) * options_.aggregate_every) {
      ++aggregates_made_;
      MakeQuery(Kind::kAggregate, last_due_ns_, now_ns);
      continue;
    }
    const uint64_t bound = options_.tags > 0 ? options_.tags : kTagsMax;
    const auto count =
        static_cast<uint32_t>(std::min<uint64_t>(options_.batch, bound - tags_made_));
    int64_t due_ns = now_ns;
    if (options_.rate > 0) {
      // By the last tag of a batch, which cannot leave before it happened.
      const double tags = static_cast<double>(tags_made_ + count - 1);
      due_ns = start_ns_ + static_cast<int64_t>(tags / options_.rate * kNsPerSecond);
    }
    const int64_t end_ns = start_ns_ + options_.duration_ns;
    if (count == 0 || (options_.duration_ns > 0 && (now_ns >= end_ns || due_ns >= end_ns))) {
      stream_ended_ = true;
      if (options_.rate > 0 && count > 0) {
        const auto scheduled = static_cast<uint64_t>(
            options_.rate * static_cast<double>(options_.duration_ns) / kNsPerSecond);
        const uint64_t due = std::min(scheduled, bound);
        // The last batch may lack a few.
        if (due > tags_made_ + options_.batch) report_->tags_not_sent = due - tags_made_;
      }
      return false;
    }
    next_due_ns_ = due_ns;
    if (due_ns > now_ns) return false;
    last_due_ns_ = due_ns;
    MakeTags(count, due_ns, now_ns);
  }
  return true;
}

bool Runner::MakeFinalWork(int64_t now_ns) {
  if (report_->failed() >= final_failures_max_) return false;  // a dead platform is known by now
  const uint64_t settled = oracle_.sent();
  const uint32_t cookies = std::min(stream_.options().cookies, kFinalProfilesMax);
  for (; final_cookie_ < cookies; ++final_cookie_) {
    if (oracle_.HistoryOf(final_cookie_, Action::kView).newest.empty() &&
        oracle_.HistoryOf(final_cookie_, Action::kBuy).newest.empty()) {
      continue;
    }
    const uint32_t token = NewPending(Kind::kProfile, now_ns, now_ns);
    pending_[token].profile =
        std::make_unique<ProfileQuery>(queries_.WholeProfile(final_cookie_++, settled));
    return true;
  }
  const int64_t end = oracle_.KeptMinutes().second + 1;
  if (final_minute_ >= end) return false;
  const int64_t to = std::min(final_minute_ + kFinalMinutes, end);
  const uint32_t token = NewPending(Kind::kAggregate, now_ns, now_ns);
  pending_[token].aggregate =
      std::make_unique<AggregateQuery>(queries_.WholeAggregate(final_minute_, to, final_action_));
  if (final_action_ == Action::kBuy) final_minute_ = to;
  final_action_ = final_action_ == Action::kView ? Action::kBuy : Action::kView;
  return true;
}

uint32_t Runner::NewPending(Kind kind, int64_t scheduled_ns, int64_t now_ns) {
  if (free_.empty()) {
    free_.push_back(static_cast<uint32_t>(pending_.size()));
    pending_.emplace_back();
  }
  const uint32_t token = free_.back();
  free_.pop_back();
  Pending& pending = pending_[token];
  pending.kind = kind;
  pending.used = true;
  pending.count = 0;
  pending.scheduled_ns = scheduled_ns;
  pending.give_up_ns = now_ns + options_.retry_for_ns;
  pending.pause_ns = 0;
  ready_.push_back(token);
  return token;
}

void Runner::MakeTags(uint32_t count, int64_t scheduled_ns, int64_t now_ns) {
  const uint32_t token = NewPending(Kind::kTags, scheduled_ns, now_ns);
  pending_[token].first = tags_made_;
  pending_[token].count = count;
  for (uint64_t i = tags_made_; i < tags_made_ + count; ++i) oracle_.Sent(i, stream_.At(i));
  tags_made_ += count;
}

void Runner::MakeQuery(Kind kind, int64_t scheduled_ns, int64_t now_ns) {
  if (kind == Kind::kProfile) {
    auto query = queries_.Profile(oracle_.SettledBefore(now_ns, options_.profile_lag_ns));
    if (query.has_value()) {
      const uint32_t token = NewPending(kind, scheduled_ns, now_ns);
      pending_[token].profile = std::make_unique<ProfileQuery>(*std::move(query));
      return;
    }
  } else {
    auto query = queries_.Aggregate(oracle_.SettledBefore(now_ns, options_.aggregate_lag_ns));
    if (query.has_value()) {
      const uint32_t token = NewPending(kind, scheduled_ns, now_ns);
      pending_[token].aggregate = std::make_unique<AggregateQuery>(*std::move(query));
      return;
    }
  }
  ++report_->of(kind).not_asked;
}

void Runner::Launch(Client::Connection* connection, uint32_t token, int64_t now_ns) {
  const Pending& pending = pending_[token];
  switch (pending.kind) {
    case Kind::kTags:
      FormatTags(pending, connection->host(), connection->out());
      break;
    case Kind::kProfile:
      FormatQuery(pending.profile->request, connection->host(), connection->out());
      break;
    case Kind::kAggregate:
      FormatQuery(pending.aggregate->request, connection->host(), connection->out());
      break;
  }
  client_.Launch(connection, token, now_ns, now_ns + TimeoutNs(pending.kind));
}

void Runner::FormatTags(const Pending& pending, const std::string& host, std::string* out) {
  body_.clear();
  for (uint64_t i = pending.first; i < pending.first + pending.count; ++i) {
    stream_.AppendBody(stream_.At(i), &body_);
    if (options_.batch > 1) body_.push_back('\n');
  }
  out->append("POST /user_tags HTTP/1.1\r\nHost: ").append(host);
  out->append(options_.batch > 1 ? "\r\nContent-Type: application/x-ndjson"
                                 : "\r\nContent-Type: application/json");
  if (options_.idempotency_keys) {
    out->append("\r\nIdempotency-Key: ").append(stream_.run()).push_back('-');
    AppendInt(static_cast<int64_t>(pending.first), out);
    if (options_.batch > 1) {
      out->push_back('+');
      AppendInt(pending.count, out);
    }
  }
  out->append("\r\nContent-Length: ");
  AppendInt(static_cast<int64_t>(body_.size()), out);
  out->append("\r\n\r\n").append(body_);
}

void Runner::FormatQuery(const QueryRequest& request, const std::string& host, std::string* out) {
  out->append(request.get ? "GET " : "POST ").append(request.target);
  out->append(" HTTP/1.1\r\nHost: ").append(host);
  if (!request.get) {
    if (!request.body.empty()) out->append("\r\nContent-Type: application/json");
    out->append("\r\nContent-Length: ");
    AppendInt(static_cast<int64_t>(request.body.size()), out);
  }
  out->append("\r\n\r\n").append(request.body);
}

int64_t Runner::TimeoutNs(Kind kind) const {
  return kind == Kind::kAggregate ? options_.aggregate_timeout_ns : options_.timeout_ns;
}

void Runner::Progress(int64_t now_ns) {
  const KindStats& tags = report_->of(Kind::kTags);
  const uint64_t profiles = report_->of(Kind::kProfile).answered;
  const uint64_t aggregates = report_->of(Kind::kAggregate).answered;
  const double seconds = static_cast<double>(now_ns - last_line_.at_ns) / kNsPerSecond;
  if (options_.progress) {
    const auto per_s = [&](uint64_t now, uint64_t before) {
      return static_cast<double>(now - before) / seconds;
    };
    const char* phase = phase_ == Phase::kSettle  ? ", waits to check all"
                        : phase_ == Phase::kFinal ? ", checks all"
                                                  : "";
    std::fprintf(stderr,
                 "%5.0f s: %7.0f tags/s, %6.0f profiles/s, %4.0f aggregates/s; tags p50 %.2f ms, "
                 "p99 %.2f ms; failed %llu, wrong %llu, retries %llu, pending %zu%s\n",
                 static_cast<double>(now_ns - start_ns_) / kNsPerSecond,
                 per_s(report_->tags_acknowledged, last_line_.tags),
                 per_s(profiles, last_line_.profiles), per_s(aggregates, last_line_.aggregates),
                 static_cast<double>(last_line_.latency.PercentileUs(50)) / 1000,
                 static_cast<double>(last_line_.latency.PercentileUs(99)) / 1000,
                 static_cast<unsigned long long>(report_->failed()),
                 static_cast<unsigned long long>(report_->wrong()),
                 static_cast<unsigned long long>(tags.retries), pending_.size() - free_.size(),
                 phase);
  }
  last_line_ = {now_ns, report_->tags_acknowledged, profiles, aggregates, {}};
}

}  // namespace allezon::load
