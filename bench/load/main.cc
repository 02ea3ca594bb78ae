// SPDX-License-Identifier: Apache-2.0
//
// allezon-load: plays the testing platform against gateways, and checks every answer.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "bench/load/client.h"
#include "bench/load/report.h"
#include "bench/load/runner.h"
#include "bench/load/stream.h"
#include "bench/load/text.h"
#include "rpc/flags.h"
#include "rpc/limits.h"

ABSL_FLAG(std::string, targets, "127.0.0.1:8080", "gateways, host:port,host:port; taken in turn");
ABSL_FLAG(uint64_t, seed, 1, "seed of the stream and of the queries");
ABSL_FLAG(std::string, start, "fresh",
          "logical time of the first tag: 2022-03-22T12:00:00, now (the current minute), or fresh: "
          "some hour of 1990 to 2019 that no other run is likely to have used, so that runs on one "
          "platform do not meet in a bucket. Buckets from there on must be empty");
ABSL_FLAG(double, speedup, 1, "logical time goes on by 1 ms times this from tag to tag");
ABSL_FLAG(uint64_t, tags, 0, "ends after so many tags; 0: no bound");
ABSL_FLAG(double, duration_s, 0,
          "ends after so many seconds; 0: no bound (where --tags is 0 too: 60)");
ABSL_FLAG(double, rate, 1000,
          "tags a second, sent on a fixed schedule (open loop); 0: as fast as answers come");
ABSL_FLAG(int, connections, 64, "connections over all targets, one request in flight each");
ABSL_FLAG(uint32_t, batch, 1, "tags a request; above 1 as application/x-ndjson");
ABSL_FLAG(uint32_t, cookies, 20'000, "different cookies");
ABSL_FLAG(double, zipf, 0, "exponent of the cookies' popularity; 0: all alike");
ABSL_FLAG(int, jitter_ms, 5, "a tag is up to so much later in logical time than its turn");
ABSL_FLAG(bool, odd, true,
          "odd strings, numbers and spellings now and then, and tags of one cookie at one time");
ABSL_FLAG(bool, idempotency_keys, false,
          "send Idempotency-Key; with the same stream flags, a second run sends the same keys");
ABSL_FLAG(bool, retry, false,
          "try again, with pauses, what failed and may be cured; needs --idempotency_keys");
ABSL_FLAG(double, retry_for_s, 10, "how long after the first attempt another one may begin");
ABSL_FLAG(int, timeout_ms, 200, "of an attempt, for tags and profiles");
ABSL_FLAG(int, aggregate_timeout_ms, 60'000, "of an attempt, for aggregates");
ABSL_FLAG(uint64_t, profile_every, 10, "one profile query for so many tags; 0: none");
ABSL_FLAG(uint64_t, aggregate_every, 1000, "one aggregate query for so many tags; 0: none");
ABSL_FLAG(double, profile_lag_s, 10,
          "profiles are asked about tags that were answered at least so long ago");
ABSL_FLAG(double, aggregate_lag_s, 60,
          "aggregates are asked about minutes whose tags were all answered at least so long ago");
ABSL_FLAG(double, retention_s, 86'400,
          "of the platform: an aggregate query may be refused with 400 where one of its minutes is "
          "so much older than the newest tag, and its tags were answered so long ago");
ABSL_FLAG(bool, final_check, false,
          "at the end, wait for the lags, then check the profiles of all cookies (at most 20,000) "
          "and the totals of all minutes that are kept");
ABSL_FLAG(
    bool, finish_on_signal, false,
    "a first SIGINT or SIGTERM only ends the stream, as --duration_s would; a second one ends "
    "the program");
ABSL_FLAG(bool, allow_failures, false,
          "exit 0 although requests failed (never where an answer was wrong)");
ABSL_FLAG(bool, progress, true, "a line a second on stderr");
ABSL_FLAG(std::string, json, "", "also write the report to this file, as JSON");

namespace allezon::load {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
constexpr double kNsPerSecond = 1e9;
constexpr double kSecondsMax = 1e9;
constexpr double kDefaultDurationS = 60;
constexpr double kRateMax = 1e7;
constexpr double kSpeedupMin = 0.001;
constexpr double kSpeedupMax = 3.6e6;  // an hour a tag
constexpr int kConnectionsMax = 16'384;
constexpr uint32_t kBatchMax = 10'000;
constexpr uint32_t kCookiesMax = 10'000'000;
constexpr int kJitterMsMax = 60'000;

std::atomic<int> signals = 0;
static_assert(std::atomic<int>::is_always_lock_free);

void OnSignal(int) { signals.fetch_add(1, std::memory_order_relaxed); }

// Ends with 2 and what is wrong.
class Usage {
 public:
  void Require(bool holds, std::string_view complaint) {
    if (holds) return;
    std::cerr << "allezon-load: " << complaint << "\n";
    wrong_ = true;
  }
  template <typename T>
  void InRange(const char* flag, T value, T low, T high) {
    // Written so that NaN fails.
    if (value >= low && value <= high) return;
    std::cerr << "allezon-load: --" << flag << ": " << value << " is not between " << low << " and "
              << high << "\n";
    wrong_ = true;
  }
  bool wrong() const { return wrong_; }

 private:
  bool wrong_ = false;
};

std::optional<int64_t> ParseStart(const std::string& text) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  if (text == "now") {
    const int64_t now_ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
    return now_ms - now_ms % kMsPerMinute;
  }
  if (text == "fresh") {
    constexpr int64_t kHourMs = 60 * kMsPerMinute;
    constexpr int64_t k1990 = 631'152'000'000;
    constexpr uint64_t kHours = 30 * 365 * 24;
    return k1990 + static_cast<int64_t>(Mix(static_cast<uint64_t>(now.count())) % kHours) * kHourMs;
  }
  const std::optional<int64_t> time_ms = ParseTime(text);
  return time_ms.value_or(-1) < 0 ? std::nullopt : time_ms;
}

int64_t Ns(double seconds) { return static_cast<int64_t>(seconds * kNsPerSecond); }

StreamOptions StreamFlags(Usage* usage) {
  StreamOptions options;
  options.seed = absl::GetFlag(FLAGS_seed);
  const std::optional<int64_t> start_ms = ParseStart(absl::GetFlag(FLAGS_start));
  usage->Require(start_ms.has_value(),
                 "--start: neither now, fresh nor a time like 2022-03-22T12:00:00");
  options.start_ms = start_ms.value_or(0);
  const double speedup = absl::GetFlag(FLAGS_speedup);
  usage->InRange("speedup", speedup, kSpeedupMin, kSpeedupMax);
  options.step_us = usage->wrong() ? 1 : std::llround(speedup * 1000);
  options.cookies = absl::GetFlag(FLAGS_cookies);
  usage->InRange("cookies", options.cookies, 1u, kCookiesMax);
  options.zipf = absl::GetFlag(FLAGS_zipf);
  usage->InRange("zipf", options.zipf, 0.0, 10.0);
  options.jitter_ms = absl::GetFlag(FLAGS_jitter_ms);
  usage->InRange("jitter_ms", options.jitter_ms, 0, kJitterMsMax);
  options.odd = absl::GetFlag(FLAGS_odd);
  return options;
}

RunOptions RunFlags(Usage* usage) {
  RunOptions options;
  options.connections = absl::GetFlag(FLAGS_connections);
  usage->InRange("connections", options.connections, 1, kConnectionsMax);
  options.rate = absl::GetFlag(FLAGS_rate);
  usage->InRange("rate", options.rate, 0.0, kRateMax);
  options.tags = absl::GetFlag(FLAGS_tags);
  usage->InRange<uint64_t>("tags", options.tags, 0, kTagsMax);
  options.batch = absl::GetFlag(FLAGS_batch);
  usage->InRange("batch", options.batch, 1u, kBatchMax);
  options.idempotency_keys = absl::GetFlag(FLAGS_idempotency_keys);
  options.retry = absl::GetFlag(FLAGS_retry);
  usage->Require(!options.retry || options.idempotency_keys,
                 "--retry needs --idempotency_keys: without a key a retry may count twice");
  const auto seconds = [&](const char* name, double value) {
    usage->InRange(name, value, 0.0, kSecondsMax);
    return usage->wrong() ? 0 : Ns(value);
  };
  options.duration_ns = seconds("duration_s", absl::GetFlag(FLAGS_duration_s));
  if (options.duration_ns == 0 && options.tags == 0) options.duration_ns = Ns(kDefaultDurationS);
  options.retry_for_ns = seconds("retry_for_s", absl::GetFlag(FLAGS_retry_for_s));
  options.profile_lag_ns = seconds("profile_lag_s", absl::GetFlag(FLAGS_profile_lag_s));
  options.aggregate_lag_ns = seconds("aggregate_lag_s", absl::GetFlag(FLAGS_aggregate_lag_s));
  options.retention_ns = seconds("retention_s", absl::GetFlag(FLAGS_retention_s));
  usage->InRange("timeout_ms", absl::GetFlag(FLAGS_timeout_ms), 1, 3'600'000);
  usage->InRange("aggregate_timeout_ms", absl::GetFlag(FLAGS_aggregate_timeout_ms), 1, 3'600'000);
  options.timeout_ns = Ns(absl::GetFlag(FLAGS_timeout_ms) / 1000.0);
  options.aggregate_timeout_ns = Ns(absl::GetFlag(FLAGS_aggregate_timeout_ms) / 1000.0);
  options.profile_every = absl::GetFlag(FLAGS_profile_every);
  options.aggregate_every = absl::GetFlag(FLAGS_aggregate_every);
  usage->InRange<uint64_t>("profile_every", options.profile_every, 0, kTagsMax);
  usage->InRange<uint64_t>("aggregate_every", options.aggregate_every, 0, kTagsMax);
  options.final_check = absl::GetFlag(FLAGS_final_check);
  options.finish_on_signal = absl::GetFlag(FLAGS_finish_on_signal);
  options.progress = absl::GetFlag(FLAGS_progress);
  return options;
}

// What repeats this run: the flags that are not at their defaults, and the start as it came out.
std::vector<std::pair<std::string, std::string>> Settings(int64_t start_ms) {
  std::vector<std::pair<std::string, std::string>> settings;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    const std::string key(name);
    if (flag->Filename().find("load/main.cc") == absl::string_view::npos) continue;
    if (key == "start" || key == "json" || key == "progress") continue;
    const bool always = key == "seed" || key == "rate" || key == "targets";
    if (always || flag->CurrentValue() != flag->DefaultValue()) {
      settings.emplace_back(key, flag->CurrentValue());
    }
  }
  settings.emplace_back("start", "");
  AppendMillis(start_ms, &settings.back().second);
  std::sort(settings.begin(), settings.end());
  return settings;
}

bool WriteFile(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  return !file.fail();
}

int Main() {
  Usage usage;
  const StreamOptions stream_options = StreamFlags(&usage);
  const RunOptions options = RunFlags(&usage);
  absl::StatusOr<std::vector<Target>> targets = ParseTargets(absl::GetFlag(FLAGS_targets));
  usage.Require(targets.ok(), "--targets: " + std::string(targets.status().message()));
  if (usage.wrong()) return kExitUsage;
  const std::string json_path = absl::GetFlag(FLAGS_json);
  if (!json_path.empty() && !WriteFile(json_path, "")) {
    std::cerr << "allezon-load: --json: " << json_path << " cannot be written\n";
    return kExitUsage;
  }

  struct sigaction action {};
  action.sa_handler = OnSignal;  // no SA_RESTART: it ends a wait
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);

  const TagStream stream(stream_options);
  Report report;
  report.settings = Settings(stream_options.start_ms);
  Runner runner(options, stream, *std::move(targets));
  const absl::Status status = runner.Run(signals, &report);
  if (!status.ok()) {
    std::cerr << "allezon-load: " << status.message() << "\n";
    return kExitFailed;
  }
  std::cout << ReportText(report) << std::flush;
  if (!json_path.empty() && !WriteFile(json_path, ReportJson(report))) {
    std::cerr << "allezon-load: --json: " << json_path << " cannot be written\n";
    return kExitFailed;
  }
  if (report.wrong() > 0) return kExitFailed;
  return report.failed() > 0 && !absl::GetFlag(FLAGS_allow_failures) ? kExitFailed : 0;
}

}  // namespace
}  // namespace allezon::load

int main(int argc, char** argv) {
  allezon::rpc::ParseFlags(argc, argv,
                           "allezon-load: plays the testing platform against gateways: sends tags, "
                           "asks for profiles and aggregates, and checks every answer.");
  allezon::rpc::RaiseDescriptorLimit();
  return allezon::load::Main();
}
