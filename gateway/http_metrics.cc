// SPDX-License-Identifier: Apache-2.0
#include "gateway/http_metrics.h"

#include <algorithm>
#include <string>

#include "rpc/metrics.h"

namespace allezon::gateway {

HttpMetrics::HttpMetrics()
    : connections(rpc::MakeGauge("allezon_http_connections", "Connections that are open.")),
      accepted(rpc::MakeCounter("allezon_http_connections_accepted_total",
                                "Connections that were accepted.")),
      refused(rpc::MakeCounter("allezon_http_connections_refused_total",
                               "Connections that were refused because all were being served.")),
      evicted(rpc::MakeCounter("allezon_http_connections_evicted_total",
                               "Idle or slow connections that gave way to new ones.")) {
  for (int i = 0; i < kRoutes; ++i) {
    seconds_[i] = &rpc::MakeHistogram(
        "allezon_http_request_seconds", "Time of HTTP requests, by route.",
        {{"route", std::string(NameOf(static_cast<Route>(i)))}}, rpc::LatencyBuckets());
  }
}

prometheus::Counter& HttpMetrics::CounterOf(Route route, int status) {
  std::atomic<prometheus::Counter*>& slot =
      requests_[static_cast<int>(route)][std::clamp(status, 0, kStatusMax - 1)];
  prometheus::Counter* counter = slot.load(std::memory_order_acquire);
  if (counter == nullptr) {
    counter = &rpc::MakeCounter(
        "allezon_http_requests_total", "HTTP requests, by route and status.",
        {{"route", std::string(NameOf(route))}, {"status", std::to_string(status)}});
    slot.store(counter, std::memory_order_release);
  }
  return *counter;
}

void HttpMetrics::Count(Route route, int status, std::chrono::nanoseconds elapsed) {
  CounterOf(route, status).Increment();
  seconds_[static_cast<int>(route)]->Observe(std::chrono::duration<double>(elapsed).count());
}

}  // namespace allezon::gateway
