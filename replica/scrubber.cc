// SPDX-License-Identifier: Apache-2.0
#include "replica/scrubber.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "replica/background.h"
#include "replica/store.h"
#include "rpc/log.h"
#include "rpc/metrics.h"

namespace allezon::replica {
namespace {

// Between two walks through next to nothing.
constexpr absl::Duration kPauseMin = absl::Seconds(1);

struct Meters {
  prometheus::Counter& bytes =
      rpc::MakeCounter("allezon_scrub_bytes_total",
                       "Bytes of tables whose checksums were compared in the background.");
  prometheus::Counter& damaged =
      rpc::MakeCounter("allezon_scrub_damaged_total", "Tables that were found damaged by that.");
  prometheus::Gauge& completed =
      rpc::MakeGauge("allezon_scrub_completed_timestamp_seconds",
                     "When all tables had last been compared, since 1970; 0: not since the start.");
};

Meters& TheMeters() {
  static Meters meters;
  return meters;
}

}  // namespace

Scrubber::Scrubber(const Store& store, absl::Duration period) : store_(store), period_(period) {
  TheMeters();
  if (period_ > absl::ZeroDuration()) thread_ = std::thread([this] { Run(); });
}

Scrubber::~Scrubber() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void Scrubber::Run() {
  GiveWay(Share::kTenth);
  while (WaitFor(kPauseMin) && Walk()) {
  }
}

// What comes after the walk has begun is left to the next one.
bool Scrubber::Walk() {
  const std::vector<Store::TableFile> files = store_.TableFiles();
  const uint64_t total =
      std::accumulate(files.begin(), files.end(), uint64_t{0},
                      [](uint64_t sum, const Store::TableFile& file) { return sum + file.bytes; });
  const absl::Time begun = absl::Now();
  uint64_t done = 0;
  for (const Store::TableFile& file : files) {
    const absl::Status status = store_.CheckTableFile(file);
    if (absl::IsDataLoss(status)) TheMeters().damaged.Increment();
    if (!status.ok()) {
      rpc::LogWarn("a table is not as it was written",
                   {{"path", file.path}, {"detail", std::string(status.message())}});
    }
    done += file.bytes;
    TheMeters().bytes.Increment(static_cast<double>(file.bytes));
    const double share =
        static_cast<double>(done) / static_cast<double>(std::max<uint64_t>(total, 1));
    if (!WaitFor(begun + period_ * share - absl::Now())) return false;
  }
  TheMeters().completed.Set(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()));
  return files.empty() ? WaitFor(std::min(period_, absl::Minutes(1))) : true;
}

bool Scrubber::WaitFor(absl::Duration time) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&stopping_), std::max(time, absl::ZeroDuration()));
  return !stopping_;
}

}  // namespace allezon::replica
