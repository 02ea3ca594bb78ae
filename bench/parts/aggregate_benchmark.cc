// SPDX-License-Identifier: Apache-2.0
//
// What counting costs: a tag appended, ten minutes scanned at the assignment's top rate (60,000
// tags a minute), a minute sealed and loaded.
#include <benchmark/benchmark.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "aggregate_svc/segment.h"
#include "router/shard.h"

namespace allezon::aggregate_svc {
namespace {

constexpr int kTagsPerMinute = 60'000;
constexpr int kMinutes = 10;
constexpr uint32_t kShards = 128;

// Appends `count` tags with the assignment's numbers of origins, brands and categories.
void Fill(Segment& segment, int count, uint32_t seed) {
  std::mt19937 random(seed);
  v1::Tag tag;
  tag.set_country("PL");
  std::string bytes(150, 't');
  replica::LogEntry entry;
  entry.tag = bytes;
  entry.parsed = &tag;
  entry.accepted_s = 1;
  for (int i = 0; i < count; ++i) {
    entry.shard = random() % kShards;
    entry.id = router::NewEventId(absl::Now());
    tag.set_action(random() % 10 ? v1::ACTION_VIEW : v1::ACTION_BUY);
    tag.set_origin(absl::StrCat("origin_", random() % 1000));
    tag.mutable_product_info()->set_brand_id(absl::StrCat("brand_", random() % 250));
    tag.mutable_product_info()->set_category_id(absl::StrCat("category_", random() % 67));
    tag.mutable_product_info()->set_price(static_cast<int32_t>(random() % 10'000));
    segment.Append(entry);
  }
}

void BM_AppendTag(benchmark::State& state) {
  while (state.KeepRunningBatch(kTagsPerMinute)) {
    Segment segment;
    Fill(segment, kTagsPerMinute, 1);
    benchmark::DoNotOptimize(segment);
  }
}
BENCHMARK(BM_AppendTag);

// By the number of filters.
void BM_QueryTenMinutes(benchmark::State& state) {
  std::vector<Segment> minutes(kMinutes);
  for (int i = 0; i < kMinutes; ++i) Fill(minutes[i], kTagsPerMinute, i);
  std::vector<uint32_t> shards(kShards);
  for (uint32_t s = 0; s < kShards; ++s) shards[s] = s;
  Filter filter;
  filter.action = v1::ACTION_VIEW;
  if (state.range(0) > 0) filter.origin = "origin_7";
  if (state.range(0) > 1) filter.brand_id = "brand_7";
  if (state.range(0) > 2) filter.category_id = "category_7";
  for (auto _ : state) {
    for (const Segment& minute : minutes) benchmark::DoNotOptimize(minute.Scan(shards, filter));
  }
  state.SetItemsProcessed(state.iterations() * kMinutes * kTagsPerMinute);
}
BENCHMARK(BM_QueryTenMinutes)->DenseRange(0, 3)->Unit(benchmark::kMicrosecond);

void BM_EncodeMinute(benchmark::State& state) {
  Segment segment;
  Fill(segment, kTagsPerMinute, 1);
  for (auto _ : state) benchmark::DoNotOptimize(segment.Encode());
  state.counters["bytes_a_tag"] = static_cast<double>(segment.Encode().size()) / kTagsPerMinute;
}
BENCHMARK(BM_EncodeMinute)->Unit(benchmark::kMicrosecond);

void BM_DecodeMinute(benchmark::State& state) {
  Segment segment;
  Fill(segment, kTagsPerMinute, 1);
  const std::string bytes = segment.Encode();
  for (auto _ : state) benchmark::DoNotOptimize(Segment::Decode(bytes));
}
BENCHMARK(BM_DecodeMinute)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace allezon::aggregate_svc
