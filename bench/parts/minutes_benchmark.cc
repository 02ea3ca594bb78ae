// SPDX-License-Identifier: Apache-2.0
//
// What minutes of one tag each cost an aggregate view, where there are more of them than memory has
// room for: a commit, what is written for them, memory, and a start. Beside minutes of many tags.
#include <benchmark/benchmark.h>
#include <rocksdb/db.h>
#include <rocksdb/utilities/stackable_db.h>
#include <rocksdb/write_batch.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "aggregate_svc/aggregate_view.h"
#include "router/shard.h"

namespace allezon::aggregate_svc {
namespace {

constexpr int kTagsACommit = 500;
constexpr int kCommitsATick = 10;  // 5,000 tags a second
constexpr size_t kResidentBytesMax = size_t{48} << 20;

// Knows which minutes there are and their digests, and has no events to show.
class DigestLog final : public replica::LogReader {
 public:
  std::vector<std::pair<int64_t, replica::Digest>> minutes;

  absl::Status ReadMinute(int64_t,
                          const std::function<void(const replica::LogEntry&)>&) const override {
    return absl::UnimplementedError("no events");
  }
  absl::Status ReadBucket(int64_t, replica::ShardId,
                          const std::function<void(const replica::LogEntry&)>&) const override {
    return absl::UnimplementedError("no events");
  }
  absl::StatusOr<replica::Digest> MinuteDigest(int64_t) const override {
    return absl::UnimplementedError("not asked for");
  }
  absl::StatusOr<replica::Digest> BucketDigest(int64_t, replica::ShardId) const override {
    return absl::UnimplementedError("not asked for");
  }
  absl::Status VisitMinutes(
      absl::FunctionRef<absl::Status(int64_t, const replica::Digest&)> visit) const override {
    for (const auto& [minute, digest] : minutes) {
      if (absl::Status status = visit(minute, digest); !status.ok()) return status;
    }
    return absl::OkStatus();
  }
  uint32_t RemovedThroughS(replica::ShardId, int64_t) const override { return 0; }
  uint32_t ExpiredAtS(absl::Span<const replica::ShardId>, int64_t) const override { return 0; }
  int64_t NewestTimeMs() const override { return 0; }
};

class CountingDb final : public rocksdb::StackableDB {
 public:
  using StackableDB::StackableDB;
  using StackableDB::Write;
  rocksdb::Status Write(const rocksdb::WriteOptions& options, rocksdb::WriteBatch* batch) override {
    ++writes;
    return StackableDB::Write(options, batch);
  }
  int64_t writes = 0;
};

// Of this thread; others use the machine too.
double CpuSeconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

double AnonymousMib() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.starts_with("RssAnon:")) return std::atof(line.c_str() + 8) / 1024;
  }
  return 0;
}

class Folder {
 public:
  Folder() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "allezon-bench-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

struct OpenView {
  OpenView(const std::string& path, const DigestLog& log)
      : view({.seal_after = absl::Seconds(1), .resident_bytes_max = kResidentBytesMax}) {
    rocksdb::DBOptions options;
    options.create_if_missing = true;
    options.create_missing_column_families = true;
    std::vector<rocksdb::ColumnFamilyDescriptor> families(2);
    families[0].name = rocksdb::kDefaultColumnFamilyName;
    families[1].name = "view";
    view.Configure(families[1].options);
    rocksdb::DB* raw = nullptr;
    if (!rocksdb::DB::Open(options, path, families, &handles, &raw).ok()) std::abort();
    db = std::make_unique<CountingDb>(raw);
    if (!view.Open({db.get(), handles[1], &log}).ok()) std::abort();
  }
  ~OpenView() {
    for (auto* handle : handles) db->DestroyColumnFamilyHandle(handle).PermitUncheckedError();
  }
  AggregateView view;
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  std::unique_ptr<CountingDb> db;
};

// Commits `count` tags, so many a minute, and a tick for each second's worth of them. Says how long
// each commit took of the processor, in microseconds, in order of that.
std::vector<double> CommitMinutes(int count, int tags_a_minute, AggregateView& view,
                                  DigestLog& log) {
  std::vector<double> times;
  v1::Tag tag;
  tag.set_action(v1::ACTION_VIEW);
  tag.set_origin("flood");
  tag.mutable_product_info()->set_brand_id("b");
  tag.mutable_product_info()->set_category_id("c");
  const std::string bytes(120, 't');
  int64_t tags = 0;
  for (int commit = 0; commit < count / kTagsACommit; ++commit) {
    std::vector<replica::LogEntry> entries(kTagsACommit);
    for (replica::LogEntry& entry : entries) {
      entry.minute = tags++ / tags_a_minute;
      entry.id = router::NewEventId(absl::Now());
      entry.accepted_s = 1;
      entry.tag = bytes;
      entry.parsed = &tag;
      replica::Digest digest;
      digest.Add(router::AsBytes(entry.id), entry.tag);
      if (log.minutes.empty() || log.minutes.back().first != entry.minute) {
        log.minutes.emplace_back(entry.minute, replica::Digest());
      }
      log.minutes.back().second.Add(digest);
    }
    const double begin = CpuSeconds();
    view.Committed(entries, {});
    times.push_back((CpuSeconds() - begin) * 1e6);
    if (commit % kCommitsATick == 0) view.Tick(absl::InfinitePast());
  }
  std::sort(times.begin(), times.end());
  return times;
}

// By the number of tags, and of those a minute.
void BM_CommitMinutes(benchmark::State& state) {
  const auto count = static_cast<int>(state.range(0));
  for (auto _ : state) {
    const Folder folder;
    DigestLog log;
    log.minutes.reserve(count / state.range(1));
    const double before = AnonymousMib();
    {
      OpenView open(folder.path(), log);
      const std::vector<double> times =
          CommitMinutes(count, static_cast<int>(state.range(1)), open.view, log);
      state.counters["commit_p50_us"] = times[times.size() / 2];
      state.counters["commit_p99_us"] = times[times.size() * 99 / 100];
      state.counters["commit_max_us"] = times.back();
      state.counters["writes"] = static_cast<double>(open.db->writes);
      state.counters["anon_mib"] = AnonymousMib() - before;
      state.counters["counted_mib"] =
          static_cast<double>(open.view.resident_bytes()) / (size_t{1} << 20);
      open.view.Close();
    }
    const double begin = CpuSeconds();
    OpenView again(folder.path(), log);
    state.counters["start_s"] = CpuSeconds() - begin;
    state.counters["start_counted_mib"] =
        static_cast<double>(again.view.resident_bytes()) / (size_t{1} << 20);
  }
}
BENCHMARK(BM_CommitMinutes)
    ->Args({100'000, 1})
    ->Args({1'000'000, 1})
    ->Args({1'000'000, 60'000})
    ->Iterations(1)
    ->Unit(benchmark::kSecond);

}  // namespace
}  // namespace allezon::aggregate_svc
