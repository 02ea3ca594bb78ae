// SPDX-License-Identifier: Apache-2.0
//
// What routing a tag costs: its shard, its event id, and a placement when one changes.
#include <benchmark/benchmark.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "router/placement.h"
#include "router/shard.h"

namespace allezon::router {
namespace {

const std::string kCookie = "0123456789abcdef0123456789abcdef";

void BM_ShardOf(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(ShardOf(kCookie, kShardsDefault));
}
BENCHMARK(BM_ShardOf);

void BM_NewEventId(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(NewEventId(absl::Now()));
}
BENCHMARK(BM_NewEventId);

void BM_KeyedEventId(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(KeyedEventId("order-4711-line-1", kCookie));
}
BENCHMARK(BM_KeyedEventId);

// By instances, RF 3.
void BM_MakePlacement(benchmark::State& state) {
  std::vector<Instance> instances;
  for (int i = 0; i < state.range(0); ++i) {
    instances.push_back(
        {absl::StrCat("n", i), absl::StrCat("host", i, ":7000"), absl::StrCat("zone", i % 3)});
  }
  for (auto _ : state) benchmark::DoNotOptimize(MakePlacement(instances, kShardsDefault, 3));
}
BENCHMARK(BM_MakePlacement)->Arg(3)->Arg(12)->Arg(100)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace allezon::router
