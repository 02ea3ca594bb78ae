// SPDX-License-Identifier: Apache-2.0
//
// What a profile costs: staging a tag, and reading 200 + 200 tags of one cookie among many.
#include <benchmark/benchmark.h>

#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "tests/unit/profile_svc/testing.h"

namespace allezon::profile_svc {
namespace {

constexpr uint32_t kTagsOfAction = 200;

std::string CookieOf(int number) { return absl::StrCat("cookie-of-a-user-", number); }
replica::ShardId ShardOfCookie(int number) { return static_cast<replica::ShardId>(number % 128); }

// A tag as large as those of the shop, about 120 bytes.
v1::Tag TagOfShop(const std::string& cookie, v1::Action action, int64_t time_ms, uint32_t random) {
  v1::Tag tag;
  tag.set_time_ms(1'647'951'300'000 + time_ms);
  tag.set_cookie(cookie);
  tag.set_country("PL");
  tag.set_device(v1::DEVICE_MOBILE);
  tag.set_action(action);
  tag.set_origin(absl::StrCat("campaign_", random % 1000));
  v1::ProductInfo& product = *tag.mutable_product_info();
  product.mutable_product_id()->set_number(random % 1'000'000);
  product.set_brand_id(absl::StrCat("brand_", random % 250));
  product.set_category_id(absl::StrCat("category_", random % 67));
  product.set_price(static_cast<int32_t>(random % 10'000));
  return tag;
}

// Entries and what they borrow.
struct Batch {
  explicit Batch(std::vector<v1::Tag> of) : tags(std::move(of)), bytes(tags.size()) {
    for (size_t i = 0; i < tags.size(); ++i) {
      bytes[i] = tags[i].SerializeAsString();
      replica::LogEntry& entry = entries.emplace_back();
      entry.time_ms = tags[i].time_ms();
      entry.id = IdOf(i);
      entry.accepted_s = 1000;
      entry.tag = bytes[i];
      entry.parsed = &tags[i];
    }
  }
  std::vector<v1::Tag> tags;
  std::vector<std::string> bytes;
  std::vector<replica::LogEntry> entries;
};

void StageTags(benchmark::State& state) {
  ViewInDb db(absl::Hours(24));
  std::mt19937 random(1);
  std::vector<v1::Tag> tags;
  for (int i = 0; i < state.range(0); ++i) {
    tags.push_back(TagOfShop(CookieOf(i), v1::ACTION_VIEW, i, random()));
  }
  const Batch batch(std::move(tags));
  for (auto _ : state) {
    rocksdb::WriteBatch writes;
    db.view().Stage(batch.entries, writes);
    benchmark::DoNotOptimize(writes.Data().data());
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(StageTags)->Arg(1)->Arg(100)->Arg(1000);

// Cookies whose tags came interleaved, as they do, in a database that compactions have tidied.
class FilledView {
 public:
  explicit FilledView(int cookies) : db_(absl::Hours(24), /*auto_compactions=*/true) {
    std::mt19937 random(1);
    for (uint32_t round = 0; round < 2 * kTagsOfAction; ++round) {
      std::vector<v1::Tag> tags;
      for (int cookie = 0; cookie < cookies; ++cookie) {
        tags.push_back(TagOfShop(CookieOf(cookie), round % 2 ? v1::ACTION_BUY : v1::ACTION_VIEW,
                                 round, random()));
      }
      Batch batch(std::move(tags));
      for (int cookie = 0; cookie < cookies; ++cookie) {
        batch.entries[cookie].shard = ShardOfCookie(cookie);
      }
      rocksdb::WriteBatch writes;
      db_.view().Stage(batch.entries, writes);
      ViewInDb::Check(db_.db().Write({}, &writes));
    }
    db_.CompactAll();
  }
  const ProfileView& view() { return db_.view(); }

 private:
  ViewInDb db_;
};

void ReadProfileOf200(benchmark::State& state) {
  const int cookies = static_cast<int>(state.range(0));
  // Google Benchmark calls this several times to find a number of iterations; filling takes long.
  static std::unique_ptr<FilledView> filled;
  static int filled_cookies = 0;
  if (filled_cookies != cookies) {
    filled = std::make_unique<FilledView>(cookies);
    filled_cookies = cookies;
  }
  std::mt19937 random(2);
  v1::ReadProfileResponse response;
  for (auto _ : state) {
    const int cookie = static_cast<int>(random() % static_cast<uint32_t>(cookies));
    const absl::Status status =
        filled->view().Read(ShardOfCookie(cookie), CookieOf(cookie), 0,
                            std::numeric_limits<int64_t>::max(), kProfileTagsKept, response);
    if (!status.ok() || response.views().time_ms_size() != kTagsOfAction ||
        response.buys().time_ms_size() != kTagsOfAction) {
      state.SkipWithError("not the profile that was written");
      break;
    }
  }
}
BENCHMARK(ReadProfileOf200)->Arg(100)->Arg(2000)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace allezon::profile_svc
