// SPDX-License-Identifier: Apache-2.0
//
// JSON both ways, as the gateway does it for each tag and each profile.
#include <benchmark/benchmark.h>

#include <string>
#include <string_view>

#include "gateway/debug_compare.h"
#include "gateway/stored_tag_json.h"
#include "gateway/tag_json.h"

namespace allezon::gateway {
namespace {

constexpr std::string_view kTag =
    R"({"time":"2022-03-22T12:15:00.000Z","cookie":"8Yk2oQrLkZqvJm3xT1nW","country":"PL",)"
    R"("device":"MOBILE","action":"VIEW","origin":"campaign_417","product_info":{"product_id":71234,)"
    R"("brand_id":"brand_113","category_id":"category_42","price":1299}})";
constexpr int kProfileTags = 400;

std::string Padded(std::string_view text) {
  std::string padded(text);
  padded.reserve(text.size() + kJsonPaddingBytes);
  return padded;
}

v1::Tag ParsedTag() {
  const std::string text = Padded(kTag);
  TagParser parser;
  v1::Tag tag;
  if (!parser.Parse(text, tag).ok()) tag.Clear();
  return tag;
}

void BM_ParseTag(benchmark::State& state) {
  const std::string text = Padded(kTag);
  TagParser parser;
  v1::Tag tag;
  for (auto _ : state) {
    if (!parser.Parse(text, tag).ok()) state.SkipWithError("the tag was refused");
    benchmark::DoNotOptimize(tag);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
}
BENCHMARK(BM_ParseTag);

void BM_ParseAndSerialiseTag(benchmark::State& state) {
  const std::string text = Padded(kTag);
  TagParser parser;
  v1::Tag tag;
  for (auto _ : state) {
    if (!parser.Parse(text, tag).ok()) state.SkipWithError("the tag was refused");
    benchmark::DoNotOptimize(tag.SerializeAsString());
  }
}
BENCHMARK(BM_ParseAndSerialiseTag);

// A tag as the store gives it.
void BM_PrintTag(benchmark::State& state) {
  const std::string stored = ParsedTag().SerializeAsString();
  std::string out;
  for (auto _ : state) {
    out.clear();
    if (!AppendTagJson(stored, out)) state.SkipWithError("the tag cannot be read");
    benchmark::DoNotOptimize(out.data());
  }
}
BENCHMARK(BM_PrintTag);

void BM_CompareProfile(benchmark::State& state) {
  std::string answer = "[";
  for (int i = 0; i < kProfileTags; ++i) answer.append(i > 0 ? "," : "").append(kTag);
  answer.push_back(']');
  for (auto _ : state) {
    if (Difference(answer, answer)) state.SkipWithError("the two differ");
  }
}
BENCHMARK(BM_CompareProfile);

}  // namespace
}  // namespace allezon::gateway
