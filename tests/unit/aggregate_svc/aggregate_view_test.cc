// SPDX-License-Identifier: Apache-2.0
//
// The view on the real store, against an oracle that counts by hand.
#include "aggregate_svc/aggregate_view.h"

#include <gtest/gtest.h>
#include <rocksdb/write_batch.h>

#include <atomic>
#include <random>
#include <thread>

#include "../replica/testing.h"
#include "absl/time/clock.h"
#include "replica/store.h"

namespace allezon::aggregate_svc {
namespace {

using replica::Entries;
using replica::LogEntry;

constexpr uint32_t kShards = 16;
constexpr int64_t kDayMs = 86'400'000;

struct Event {
  int64_t minute;
  v1::Action action;
  std::string origin, brand, category;
  int32_t price;
  uint32_t shard;
};

class AggregateViewTest : public testing::Test {
 protected:
  void Open() {
    view_ = std::make_unique<AggregateView>(view_options_);
    replica::StoreOptions options;
    options.path = folder_.path() + "/data";
    options.service = "aggregate";
    options.shards = kShards;
    options.clock = [this] { return now_; };
    auto store = replica::Store::Open(options, *view_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  // Goes on from the folder as a crash leaves it, nothing sealed on the way.
  void Crash() {
    // A copy taken while everything is open.
    const std::string copy = folder_.path() + "/copy";
    replica::CopyAsOfACrash(folder_.path() + "/data", copy);
    store_.reset();
    view_.reset();
    std::filesystem::remove_all(folder_.path() + "/data");
    std::filesystem::rename(copy, folder_.path() + "/data");
    Open();
  }

  void Restart() {
    store_.reset();
    view_.reset();
    Open();
  }

  void Add(const std::vector<Event>& events, uint32_t accepted_s = 1000) {
    std::vector<LogEntry> entries;
    std::deque<v1::Tag> tags;
    std::deque<std::string> bytes;
    for (const Event& event : events) {
      v1::Tag& tag = tags.emplace_back();
      tag.set_time_ms(event.minute * router::kMinuteMs + 1);
      tag.set_cookie("c");
      tag.set_action(event.action);
      tag.set_origin(event.origin);
      tag.mutable_product_info()->set_brand_id(event.brand);
      tag.mutable_product_info()->set_category_id(event.category);
      tag.mutable_product_info()->set_price(event.price);
      LogEntry& entry = entries.emplace_back();
      entry.shard = event.shard;
      entry.minute = event.minute;
      entry.time_ms = tag.time_ms();
      entry.id = router::NewEventId(absl::Now());
      entry.accepted_s = accepted_s;
      entry.tag = bytes.emplace_back(tag.SerializeAsString());
      entry.parsed = &tag;
    }
    ASSERT_TRUE(store_->Commit(entries).ok());
    added_.insert(added_.end(), events.begin(), events.end());
  }

  Event RandomEvent() {
    const auto name = [&](const char* kind, int n) { return absl::StrCat(kind, random_() % n); };
    return {static_cast<int64_t>(random_() % 12),
            random_() % 3 ? v1::ACTION_VIEW : v1::ACTION_BUY,
            random_() % 9 ? name("o", 5) : "",
            name("b", 3),
            name("c", 2),
            static_cast<int32_t>(random_()),
            static_cast<uint32_t>(random_() % kShards)};
  }

  // Asks for every filter combination of a few values, and for several sets of shards.
  void CheckAgainstTheOracle() {
    std::vector<std::vector<uint32_t>> shard_sets(3);
    for (uint32_t s = 0; s < kShards; ++s) {
      shard_sets[0].push_back(s);
      if (s % 3 == 1) shard_sets[1].push_back(s);
    }
    shard_sets[2] = {7};
    const std::string origin = "o1", empty, brand = "b2", category = "c0", unknown = "never";
    for (const auto& shards : shard_sets) {
      for (const v1::Action action : {v1::ACTION_VIEW, v1::ACTION_BUY}) {
        for (int mask = 0; mask < 8; ++mask) {
          for (const std::string* o : {&origin, &empty, &unknown}) {
            Filter filter;
            filter.action = action;
            if (mask & 1) filter.origin = *o;
            if (mask & 2) filter.brand_id = brand;
            if (mask & 4) filter.category_id = category;
            CheckQuery(shards, filter);
          }
        }
      }
    }
  }

  void CheckQuery(const std::vector<uint32_t>& shards, const Filter& filter) {
    const auto answers = view_->Scan(shards, -1, 13, filter);
    ASSERT_TRUE(answers.ok()) << answers.status();
    ASSERT_EQ(answers->size(), 14u);
    for (int64_t minute = -1; minute < 13; ++minute) {
      uint64_t count = 0;
      int64_t sum = 0;
      for (const Event& e : added_) {
        if (e.minute != minute || e.action != filter.action ||
            (filter.origin && e.origin != *filter.origin) ||
            (filter.brand_id && e.brand != *filter.brand_id) ||
            (filter.category_id && e.category != *filter.category_id) ||
            std::find(shards.begin(), shards.end(), e.shard) == shards.end()) {
          continue;
        }
        ++count;
        sum += e.price;
      }
      const Totals& totals = (*answers)[minute + 1].totals;
      ASSERT_EQ(totals.count, count) << "minute " << minute;
      ASSERT_EQ(static_cast<int64_t>(totals.sum_price), sum) << "minute " << minute;
    }
  }

  replica::TempFolder folder_;
  AggregateViewOptions view_options_{.seal_after = absl::ZeroDuration()};
  absl::Time now_ = absl::FromUnixSeconds(1000);
  std::mt19937 random_{11};
  std::vector<Event> added_;
  std::unique_ptr<AggregateView> view_;
  std::unique_ptr<replica::Store> store_;
};

TEST_F(AggregateViewTest, CountsAsTheOracleDoesWhateverIsSealedLateRestartedOrCrashed) {
  Open();
  for (int round = 0; round < 12; ++round) {
    std::vector<Event> events;
    for (int i = 0; i < 400; ++i) events.push_back(RandomEvent());
    Add(events);
    switch (round % 4) {
      case 0:
        break;
      case 1:
        view_->Tick(absl::InfinitePast());  // seals; what comes next round is late
        break;
      case 2:
        Restart();
        break;
      case 3:
        Crash();
        break;
    }
    CheckAgainstTheOracle();
    ASSERT_TRUE(store_->CheckDigests().ok());
  }
}

TEST_F(AggregateViewTest, StaysWithinItsMemoryAndForgetsNothing) {
  view_options_.resident_bytes_max = 40'000;
  view_options_.seal_after = absl::Hours(1);
  Open();
  for (int round = 0; round < 30; ++round) {
    std::vector<Event> events;
    for (int i = 0; i < 100; ++i) events.push_back(RandomEvent());
    Add(events);
    EXPECT_LE(view_->resident_bytes(), view_options_.resident_bytes_max);
  }
  CheckAgainstTheOracle();
  EXPECT_LE(view_->resident_bytes(), view_options_.resident_bytes_max);
}

TEST_F(AggregateViewTest, RetentionTakesAShardOfAMinuteAndAReplayBeginsItAnew) {
  Open();
  Add({{0, v1::ACTION_VIEW, "o1", "b2", "c0", 5, 7}, {0, v1::ACTION_VIEW, "o1", "b2", "c0", 3, 8}});
  view_->Tick(absl::InfinitePast());
  replica::ExpireAll(*store_, {replica::Range(7, 0, 1, 1000, 5000)});
  const Filter filter{.action = v1::ACTION_VIEW};
  const auto ask = [&](uint32_t shard) {
    const auto answer = view_->Scan({shard}, 0, 1, filter, /*with_digests=*/true);
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? (*answer)[0] : MinuteAnswer();
  };
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(ask(7).totals.count, 0u);
    EXPECT_EQ(ask(7).expired_at_s, 5000u);
    EXPECT_EQ(ask(7).oldest_accepted_s, 0u);
    EXPECT_EQ(ask(8).totals.sum_price, 3u);
    EXPECT_EQ(ask(8).expired_at_s, 0u);
    EXPECT_EQ(ask(8).oldest_accepted_s, 1000u);
    Restart();
  }
  Add({{0, v1::ACTION_VIEW, "o1", "b2", "c0", 5, 7}, {0, v1::ACTION_VIEW, "o1", "b2", "c0", 6, 7}},
      90'000);
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(ask(7).totals.count, 2u);
    EXPECT_EQ(ask(7).totals.sum_price, 11u);
    EXPECT_EQ(ask(7).expired_at_s, 5000u);
    EXPECT_EQ(ask(7).oldest_accepted_s, 90'000u);
    Crash();
  }
  replica::ExpireAll(
      *store_, {replica::Range(7, 0, 1, 90'000, 99'000), replica::Range(8, 0, 1, 90'000, 99'000)});
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(view_->resident_minutes(), 0u);
    EXPECT_EQ(ask(8).totals.count, 0u);
    EXPECT_EQ(ask(8).expired_at_s, 99'000u);
    Restart();
  }
}

// The same key with another body and time, on the store: once, and no minute is read back for it.
TEST_F(AggregateViewTest, AKeyThatComesWithOtherTagsCountsOnce) {
  Open();
  replica::Entries entries;
  Filter filter{.action = v1::ACTION_VIEW};
  std::vector<uint32_t> shards;
  for (uint32_t s = 0; s < kShards; ++s) shards.push_back(s);
  for (int i = 0; i < 40; ++i) {
    const int64_t time_ms = (i % 3) * router::kMinuteMs + i;
    ASSERT_TRUE(store_->Commit({entries.Add("c", time_ms, "key", 1000, i, kShards)}).ok());
    if (i % 4 == 0) view_->Tick(absl::InfinitePast());
    if (i % 10 == 5) Restart();
    if (i % 10 == 9) Crash();
    const auto answers = view_->Scan(shards, 0, 3, filter, /*with_digests=*/true);
    ASSERT_TRUE(answers.ok()) << answers.status();
    uint64_t count = 0;
    for (const MinuteAnswer& answer : *answers) count += answer.totals.count;
    ASSERT_EQ(count, 1u) << i;
    ASSERT_TRUE(store_->CheckDigests().ok());
  }
}

TEST_F(AggregateViewTest, ABrokenSealedSegmentIsRebuiltAtTheNextStart) {
  Open();
  std::vector<Event> events;
  for (int i = 0; i < 300; ++i) events.push_back(RandomEvent());
  Add(events);
  store_.reset();
  view_.reset();
  {
    rocksdb::DB* raw = nullptr;
    std::vector<std::string> names;
    const std::string path = folder_.path() + "/data";
    ASSERT_TRUE(rocksdb::DB::ListColumnFamilies({}, path, &names).ok());
    std::vector<rocksdb::ColumnFamilyDescriptor> families;
    for (const auto& name : names) families.emplace_back(name, rocksdb::ColumnFamilyOptions());
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    ASSERT_TRUE(rocksdb::DB::Open({}, path, families, &handles, &raw).ok());
    std::unique_ptr<rocksdb::DB> db(raw);
    for (size_t i = 0; i < names.size(); ++i) {
      if (names[i] != "view") continue;
      std::unique_ptr<rocksdb::Iterator> it(db->NewIterator({}, handles[i]));
      it->Seek(replica::MinuteKey(3));
      ASSERT_TRUE(it->Valid());
      std::string value = it->value().ToString();
      value[value.size() / 2] ^= 1;
      ASSERT_TRUE(db->Put({}, handles[i], it->key(), value).ok());
      it->Seek(replica::MinuteKey(4));
      ASSERT_TRUE(it->Valid());
      ASSERT_TRUE(db->Delete({}, handles[i], it->key()).ok());
      // One too many: counted twice if it were believed.
      it->Seek(replica::MinuteKey(5));
      ASSERT_TRUE(it->Valid());
      ASSERT_TRUE(db->Put({}, handles[i],
                          it->key().ToString().substr(0, 8) + "\xff\xff\xff\xff\x01\x01\x01\x01",
                          it->value())
                      .ok());
      ASSERT_TRUE(db->Put({}, handles[i], "no minute", "nothing").ok());
    }
    for (auto* handle : handles) ASSERT_TRUE(db->DestroyColumnFamilyHandle(handle).ok());
  }
  Open();
  CheckAgainstTheOracle();
}

TEST_F(AggregateViewTest, ReadersSeeEveryAppendOnceWhileMinutesAreSealedAndDropped) {
  view_options_.resident_bytes_max = 20'000;
  Open();
  std::atomic<bool> stop = false;
  std::atomic<int> committed = 0;
  std::vector<uint32_t> shards;
  for (uint32_t s = 0; s < kShards; ++s) shards.push_back(s);
  std::vector<std::jthread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      const Filter filter{.action = v1::ACTION_VIEW, .origin = "x"};
      while (!stop) {
        const int before = committed;
        const auto answers = view_->Scan(shards, 0, 10, filter);
        ASSERT_TRUE(answers.ok());
        uint64_t count = 0;
        for (const auto& answer : *answers) count += answer.totals.count;
        ASSERT_GE(count, static_cast<uint64_t>(before)) << "an acknowledged tag is not visible";
      }
    });
  }
  threads.emplace_back([&] {
    while (!stop) view_->Tick(absl::InfinitePast());
  });
  for (int i = 0; i < 400; ++i) {
    Add({{i % 10, v1::ACTION_VIEW, "x", "b", "c", 1, static_cast<uint32_t>(i) % kShards}});
    committed = i + 1;
  }
  stop = true;
  threads.clear();
  const auto answers = view_->Scan(shards, 0, 10, Filter{.action = v1::ACTION_VIEW});
  uint64_t count = 0;
  for (const auto& answer : *answers) count += answer.totals.count;
  EXPECT_EQ(count, 400u);
}

}  // namespace
}  // namespace allezon::aggregate_svc
