// SPDX-License-Identifier: Apache-2.0
//
// What each gRPC method did: calls by code, and how long they took.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "rpc/metrics.h"

namespace allezon::rpc {

// Thread-safe.
class CallMetrics {
 public:
  explicit CallMetrics(std::string method)
      : method_(std::move(method)),
        seconds_(MakeHistogram("allezon_rpc_seconds", "Time of a call in its handler.",
                               {{"method", method_}}, LatencyBuckets())),
        ok_(Calls(absl::StatusCode::kOk)) {}

  void Ended(absl::Time start, const absl::Status& status) {
    seconds_.Observe(absl::ToDoubleSeconds(absl::Now() - start));
    (status.ok() ? ok_ : Calls(status.code())).Increment();
  }

 private:
  prometheus::Counter& Calls(absl::StatusCode code) {
    return MakeCounter("allezon_rpc_calls_total", "Calls that ended, by their code.",
                       {{"method", method_}, {"code", absl::StatusCodeToString(code)}});
  }

  const std::string method_;
  prometheus::Histogram& seconds_;
  prometheus::Counter& ok_;
};

}  // namespace allezon::rpc
