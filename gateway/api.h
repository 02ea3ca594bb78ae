// SPDX-License-Identifier: Apache-2.0
//
// The API without its transport: which route a request is for, and its answer. Thread-safe.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/problem.h"
#include "gateway/query.h"
#include "gateway/tag_intake.h"
#include "prometheus/counter.h"
#include "router/readers.h"
#include "router/writer.h"

namespace allezon::gateway {

inline constexpr size_t kBatchBytesMax = 8 << 20;

enum class Route { kUserTags, kUserProfiles, kAggregates, kHealthz, kReadyz, kMetrics, kUnknown };
inline constexpr int kRoutes = 7;
// "user_tags", …; for logs and metrics.
std::string_view NameOf(Route route);

// What is known of a request before its body is read. Borrows from the request.
struct Plan {
  Route route = Route::kUnknown;
  std::string_view cookie;  // of a profile, still encoded
  std::string_view query;   // still encoded
  bool batch = false;
  size_t body_bytes_max = kTagBytesMax;
  // Set where the answer does not depend on the body (404, 405, OPTIONS).
  std::optional<Response> answer = {};
};

struct ApiOptions {
  IntakeOptions intake;
  absl::Duration query_timeout = absl::Seconds(10);
  // Queries that wait for their answers at a time, each of which holds a thread. More are refused
  // at once: tags must find a thread while nobody can answer queries.
  size_t queries_max = 512;
  // Within what a Kubernetes probe waits by default, 1 s.
  absl::Duration ready_timeout = absl::Milliseconds(800);
  // What comparing answers with bodies may take at a time.
  size_t compared_bytes_max = size_t{384} << 20;
};

// What the API stands on; all must outlive it.
struct Backends {
  router::Writer& profile_writer;
  router::Writer& aggregate_writer;
  router::ProfileReader& profile_reader;
  router::AggregateReader& aggregate_reader;
  // Whether every shard of both services can be reached; asked by /readyz.
  std::function<absl::Status(absl::Time deadline)> check_ready;
};

class Api {
 public:
  Api(const Backends& backends, ApiOptions options);

  static Plan PlanOf(std::string_view method, std::string_view target,
                     std::string_view content_type);

  // Gives `told` the answer, once. A tag's may come from another thread, by its deadline and a
  // second at most; every other one comes before this returns, which blocks until the request's
  // deadline at most. Queries beyond `queries_max` get 503. `body` must be readable for
  // kJsonPaddingBytes past its end. `keys` are the values of the header Idempotency-Key.
  void Handle(const Plan& plan, const std::vector<std::string>& keys, std::string_view body,
              Told told);

  // From now on /readyz says 503, so that no new requests are sent here.
  void SetDraining() { draining_.store(true); }

 private:
  void UserTags(const Plan& plan, const std::vector<std::string>& keys, std::string_view body,
                Told told);
  Response Query(const Plan& plan, std::string_view body);
  Response UserProfiles(const Plan& plan);
  Response Aggregates(const Plan& plan);
  Response Readyz();
  void CompareWithBody(const Plan& plan, const Response& response, std::string_view body);

  const Backends backends_;
  const ApiOptions options_;
  TagIntake intake_;
  std::atomic<bool> draining_{false};
  std::atomic<size_t> queries_{0};  // under way
  std::atomic<int64_t> mismatch_logged_s_{0};
  absl::Mutex compare_mutex_;
  size_t compared_bytes_ ABSL_GUARDED_BY(compare_mutex_) = 0;
  prometheus::Counter& debug_matches_;
  prometheus::Counter& debug_mismatches_;
  prometheus::Counter& debug_skipped_;
};

}  // namespace allezon::gateway
