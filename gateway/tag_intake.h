// SPDX-License-Identifier: Apache-2.0
//
// POST /user_tags: a body becomes events, which are written to both services. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "gateway/problem.h"
#include "prometheus/counter.h"
#include "router/shard.h"
#include "router/writer.h"

namespace allezon::gateway {

// A tag, alone or as a line of a batch.
inline constexpr size_t kTagBytesMax = 64 << 10;
// Lines of one batch that are on their way at a time.
inline constexpr size_t kBatchLinesInFlightMax = 4000;
// And of all batches together, which share them. Below the queue of one lane, so that batches alone
// never overflow it; they wait for each other instead.
inline constexpr size_t kLinesInFlightMax = 16'000;
// But no batch has less, however many there are.
inline constexpr size_t kBatchLinesInFlightMin = 100;
// A batch with more broken lines is refused as a whole, before any line is stored.
inline constexpr size_t kBatchRejectedMax = 100'000;

// Gets the answer to a request.
using Told = std::function<void(Response)>;

struct IntakeOptions {
  uint32_t shards = router::kShardsDefault;
  absl::Duration future_max = absl::Hours(24);
  absl::Duration tag_timeout = absl::Seconds(5);
  absl::Duration batch_timeout = absl::Seconds(30);
  std::function<absl::Time()> clock = absl::Now;
};

class TagIntake {
 public:
  // The writers must outlive it.
  TagIntake(router::Writer& profiles, router::Writer& aggregates, IntakeOptions options);

  // One JSON tag: `told` gets 204 once it is durable in both services, or else why not: once, from
  // any thread, possibly before this returns, and as late as a Writer is. `body` must be readable
  // for kJsonPaddingBytes past its end. `key` empty: none. Does not block.
  void AddTag(std::string_view body, std::string_view key, Told told);

  // One tag a line: 200 once every line that is a tag is durable in both services. A line that
  // could not be stored fails the batch, with the number of lines that surely are. Blocks until
  // the batch has its answer, batch_timeout at most.
  Response AddBatch(std::string_view body, std::string_view key);

 private:
  router::Writer& profiles_;
  router::Writer& aggregates_;
  const IntakeOptions options_;
  const std::shared_ptr<std::atomic<size_t>> batches_;  // that are being stored
  prometheus::Counter& tags_accepted_;
  prometheus::Counter& lines_rejected_;
};

}  // namespace allezon::gateway
