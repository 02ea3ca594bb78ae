// SPDX-License-Identifier: Apache-2.0
//
// One run: sends the stream on its schedule, asks, checks, retries and counts.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "bench/load/check.h"
#include "bench/load/client.h"
#include "bench/load/oracle.h"
#include "bench/load/query.h"
#include "bench/load/report.h"
#include "bench/load/stream.h"

namespace allezon::load {

struct RunOptions {
  int connections = 64;
  double rate = 1000;       // tags a second; 0: a new request as soon as one is answered
  uint64_t tags = 0;        // 0: no bound
  int64_t duration_ns = 0;  // 0: no bound
  uint32_t batch = 1;
  bool idempotency_keys = false;
  bool retry = false;
  int64_t retry_for_ns = 0;  // from the first attempt
  int64_t timeout_ns = 0;    // of tags and profiles
  int64_t aggregate_timeout_ns = 0;
  uint64_t profile_every = 10;  // tags; 0: no queries
  uint64_t aggregate_every = 1000;
  int64_t profile_lag_ns = 0;
  int64_t aggregate_lag_ns = 0;
  int64_t retention_ns = 0;  // of the platform
  bool final_check = false;
  bool finish_on_signal = false;  // the first one only ends the stream
  bool progress = true;           // a line a second on stderr
};

// Not thread-safe. What it is given must outlive it.
class Runner : private ResponseHandler {
 public:
  Runner(const RunOptions& options, const TagStream& stream, std::vector<Target> targets);

  // Runs to the end, or until there are signals to end it, and fills all of the report but its
  // settings. kUnavailable where no target can be reached at the start. Call once.
  absl::Status Run(const std::atomic<int>& signals, Report* report);

 private:
  enum class Phase { kStream, kSettle, kFinal, kEnd };

  // A request that has not ended: waiting for a connection, in flight, or for its next attempt.
  struct Pending {
    Kind kind = Kind::kTags;
    bool used = false;
    uint64_t first = 0;  // tags
    uint32_t count = 0;
    int64_t scheduled_ns = 0;
    int64_t give_up_ns = 0;  // no attempt begins later
    int64_t pause_ns = 0;    // before the next attempt
    std::unique_ptr<ProfileQuery> profile;
    std::unique_ptr<AggregateQuery> aggregate;
  };

  absl::Status Connect();
  void Loop(const std::atomic<int>& signals);
  void Tick(int64_t now_ns);
  void Dispatch(int64_t now_ns);
  void Launch(Client::Connection* connection, uint32_t token, int64_t now_ns);
  void AdvancePhase(int64_t now_ns);
  int64_t WaitNs(int64_t now_ns) const;
  void Progress(int64_t now_ns);

  // Makes the next request that is due; false where none is.
  bool MakeWork(int64_t now_ns);
  bool MakeStreamWork(int64_t now_ns);
  bool MakeFinalWork(int64_t now_ns);
  void MakeTags(uint32_t count, int64_t scheduled_ns, int64_t now_ns);
  void MakeQuery(Kind kind, int64_t scheduled_ns, int64_t now_ns);
  uint32_t NewPending(Kind kind, int64_t scheduled_ns, int64_t now_ns);
  size_t PendingMax() const;

  void FormatTags(const Pending& pending, const std::string& host, std::string* out);
  void FormatQuery(const QueryRequest& request, const std::string& host, std::string* out);

  void OnResponse(uint32_t token, const Response& response, int64_t now_ns) override;
  void OnFailure(uint32_t token, Failure failure, std::string_view detail, int64_t now_ns) override;
  void OnBatchAnswer(uint32_t token, const Response& response, int64_t now_ns);
  // An attempt failed: tries again, if that is allowed and safe, else ends the request.
  void AttemptFailed(uint32_t token, const std::string& reason, std::string_view detail,
                     bool may_retry, int64_t now_ns);
  void EndTags(const Pending& pending, bool acknowledged);
  void EndAnswered(uint32_t token, int64_t now_ns);
  void EndFailed(uint32_t token, const std::string& reason, std::string_view detail,
                 int64_t now_ns);
  void Release(uint32_t token);
  void Judge(const Verdict& verdict, const QueryRequest& request, Kind kind);
  int64_t TimeoutNs(Kind kind) const;
  // For how long the tags of a minute must have been answered before it may be expired: less than
  // the retention, which goes by when the first attempt was stored.
  int64_t ExpiryLagNs() const;
  // Whether retention may have expired a minute that the query asks for.
  bool MayBeExpired(const AggregateQuery& query, int64_t now_ns) const;

  const RunOptions options_;
  const TagStream& stream_;
  Oracle oracle_;
  QueryMaker queries_;
  Checker checker_;
  Client client_;
  simdjson::dom::parser parser_;
  Report* report_ = nullptr;

  Phase phase_ = Phase::kStream;
  bool stopped_ = false;
  bool stream_ended_ = false;
  int64_t start_ns_ = 0;
  int64_t stream_end_ns_ = 0;
  int64_t next_tick_ns_ = 0;
  int64_t next_due_ns_ = 0;  // of the stream
  int64_t last_due_ns_ = 0;
  int64_t unreachable_since_ns_ = 0;  // 0: it is not
  uint64_t tags_made_ = 0;
  uint64_t profiles_made_ = 0;
  uint64_t aggregates_made_ = 0;
  uint64_t final_failures_max_ = 0;
  uint32_t final_cookie_ = 0;
  int64_t final_minute_ = 0;
  Action final_action_ = Action::kView;

  std::vector<Pending> pending_;
  std::vector<uint32_t> free_;
  std::deque<uint32_t> ready_;               // wait for a connection
  std::multimap<int64_t, uint32_t> pauses_;  // wait for their next attempt
  std::string body_;

  struct {
    int64_t at_ns = 0;
    uint64_t tags = 0, profiles = 0, aggregates = 0;
    LatencyHistogram latency;  // of tag requests
  } last_line_;
};

}  // namespace allezon::load
