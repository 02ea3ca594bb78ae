// SPDX-License-Identifier: Apache-2.0
//
// Latencies of a run of seconds, all of them kept.
#pragma once

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

namespace allezon::bench {

// Not thread-safe.
class Latencies {
 public:
  void Add(std::chrono::steady_clock::duration took) {
    us_.push_back(std::chrono::duration_cast<std::chrono::microseconds>(took).count());
  }

  // {"p50":…,"p90":…,"p99":…,"p99.9":…}
  std::string Json() {
    std::sort(us_.begin(), us_.end());
    std::string json;
    for (const auto& [name, share] :
         {std::pair{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}}) {
      const auto rank = static_cast<size_t>(share * static_cast<double>(us_.size()));
      const int64_t us = us_.empty() ? 0 : us_[std::min(rank, us_.size() - 1)];
      json += std::string(json.empty() ? "{" : ",") + "\"" + name + "\":" + std::to_string(us);
    }
    return json + "}";
  }

 private:
  std::vector<int64_t> us_;
};

}  // namespace allezon::bench
