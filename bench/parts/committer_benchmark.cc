// SPDX-License-Identifier: Apache-2.0
//
// What a commit costs: look-ups, one batch, one WAL sync, by the number of events in it. The folder
// is that of TMPDIR: a sync into memory (tmpfs) costs nothing and says nothing.
#include <benchmark/benchmark.h>

#include "../../tests/unit/replica/testing.h"

namespace allezon::replica {
namespace {

// A view that stores nothing, so that the set alone is measured.
class NoView final : public View {
 public:
  void Configure(rocksdb::ColumnFamilyOptions&) override {}
  absl::Status Open(const ViewContext&) override { return absl::OkStatus(); }
  void Stage(absl::Span<const LogEntry>, rocksdb::WriteBatch&) override {}
  void Committed(absl::Span<const LogEntry>, absl::Span<const LogEntry>) override {}
  void StageRemove(const LogEntry&, rocksdb::WriteBatch&) override {}
  void StageExpire(absl::Span<const ExpiredBucket>, absl::Span<const int64_t>,
                   rocksdb::WriteBatch&) override {}
  void Expired(absl::Span<const ExpiredBucket>, absl::Span<const int64_t>) override {}
  void Tick(absl::Time) override {}
  void Close() override {}
};

void Commit(benchmark::State& state, bool sync_wal) {
  const TempFolder folder;
  NoView view;
  StoreOptions options;
  options.path = folder.path();
  options.service = "profile";
  options.sync_wal = sync_wal;
  auto store = Store::Open(options, view);
  if (!store.ok()) return state.SkipWithError(store.status().ToString().c_str());
  const auto batch = static_cast<int>(state.range(0));
  int64_t time_ms = 0;
  for (auto _ : state) {
    state.PauseTiming();
    Entries entries;
    for (int i = 0; i < batch; ++i, ++time_ms) {
      entries.Add(absl::StrCat("cookie", time_ms % 100'000), time_ms);
    }
    state.ResumeTiming();
    if (const absl::Status status = (*store)->Commit(entries.all()); !status.ok()) {
      return state.SkipWithError(status.ToString().c_str());
    }
  }
  state.SetItemsProcessed(state.iterations() * batch);
}

void BM_CommitSync(benchmark::State& state) { Commit(state, true); }
BENCHMARK(BM_CommitSync)
    ->Arg(1)
    ->Arg(10)
    ->Arg(100)
    ->Arg(500)
    ->Arg(2000)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

void BM_CommitAsync(benchmark::State& state) { Commit(state, false); }
BENCHMARK(BM_CommitAsync)
    ->Arg(1)
    ->Arg(100)
    ->Arg(2000)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace allezon::replica
