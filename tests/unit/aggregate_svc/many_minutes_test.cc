// SPDX-License-Identifier: Apache-2.0
//
// More minutes than memory has room for: they leave, come back, and answer as if they had never
// left.
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <random>
#include <thread>

#include "absl/cleanup/cleanup.h"
#include "replica/log_format.h"
#include "tests/unit/aggregate_svc/testing.h"

namespace allezon::aggregate_svc {
namespace {

constexpr uint32_t kShards = 3;
const std::vector<uint32_t> kAllShards = {0, 1, 2};
const Filter kViews{.action = v1::ACTION_VIEW, .origin = "o"};

std::unique_ptr<OwnedEvent> Tag(int64_t minute, uint32_t shard, int32_t price,
                                uint32_t accepted_s = 1000) {
  return MakeOwned(minute, shard, v1::ACTION_VIEW, "o", "b", "c", price, accepted_s);
}

// What is to be answered, counted by hand.
class Model {
 public:
  void Add(int64_t minute, uint32_t shard, int32_t price) {
    Totals& totals = totals_[minute][shard];
    ++totals.count;
    totals.sum_price += static_cast<uint64_t>(price);
  }
  void Remove(int64_t minute, uint32_t shard, int32_t price) {
    totals_[minute][shard].Remove({1, static_cast<uint64_t>(price)});
  }
  void Drop(int64_t minute, uint32_t shard) { totals_[minute].erase(shard); }
  Totals Of(int64_t minute, const std::vector<uint32_t>& shards) const {
    Totals sum;
    const auto found = totals_.find(minute);
    if (found == totals_.end()) return sum;
    for (const uint32_t shard : shards) {
      const auto of_shard = found->second.find(shard);
      if (of_shard != found->second.end()) sum.Add(of_shard->second);
    }
    return sum;
  }

 private:
  std::map<int64_t, std::map<uint32_t, Totals>> totals_;
};

class ManyMinutesTest : public testing::Test {
 protected:
  static constexpr size_t kBytesMax = size_t{1} << 20;

  void Add(std::vector<std::unique_ptr<OwnedEvent>> events) {
    for (const auto& event : events) {
      model_.Add(event->entry.minute, event->entry.shard, event->tag.product_info().price());
    }
    db_.Commit(std::move(events));
  }
  void Add(int64_t minute, uint32_t shard, int32_t price, uint32_t accepted_s = 1000) {
    std::vector<std::unique_ptr<OwnedEvent>> events;
    events.push_back(Tag(minute, shard, price, accepted_s));
    Add(std::move(events));
  }
  // One tag each.
  void AddMinutes(int64_t from, int64_t to, int64_t step = 1) {
    std::vector<std::unique_ptr<OwnedEvent>> events;
    for (int64_t minute = from; minute < to; minute += step) {
      events.push_back(Tag(minute, static_cast<uint32_t>(minute) % kShards,
                           static_cast<int32_t>(minute % 1009)));
      if (events.size() < 1000 && minute + step < to) continue;
      Add(std::exchange(events, {}));
      ASSERT_LE(db_.view().resident_bytes(), bytes_max_);
    }
  }
  void Check(int64_t from, int64_t to) {
    for (const std::vector<uint32_t>& shards : {kAllShards, std::vector<uint32_t>{1}}) {
      if (shards.size() == 1 && to - from > 20'000) return;  // takes as long again
      for (int64_t first = from; first < to; first += 1000) {
        const int64_t end = std::min(first + 1000, to);
        const auto answers = db_.view().Scan(shards, first, end, kViews);
        ASSERT_TRUE(answers.ok()) << answers.status();
        for (int64_t minute = first; minute < end; ++minute) {
          const Totals& totals = (*answers)[minute - first].totals;
          const Totals expected = model_.Of(minute, shards);
          ASSERT_EQ(totals.count, expected.count) << minute;
          ASSERT_EQ(totals.sum_price, expected.sum_price) << minute;
        }
        ASSERT_LE(db_.view().resident_bytes(), bytes_max_);
      }
    }
  }
  void Expire(int64_t minute, const std::vector<uint32_t>& shards) {
    db_.Expire(minute, shards, 1500);
    for (const uint32_t shard : shards) model_.Drop(minute, shard);
  }
  // So that nothing that was there before is in memory.
  void PushOut() {
    const int64_t from = next_far_;
    next_far_ += static_cast<int64_t>(bytes_max_ / 400);
    AddMinutes(from, next_far_);
    Tick();
    Tick();
  }
  size_t StoredOf(int64_t minute) const {
    const auto stored = db_.Stored();
    return static_cast<size_t>(std::distance(stored.lower_bound(replica::MinuteKey(minute)),
                                             stored.lower_bound(replica::MinuteKey(minute + 1))));
  }
  void Tick() { db_.view().Tick(absl::InfinitePast()); }

  const size_t bytes_max_ = kBytesMax;
  int64_t next_far_ = 10'000'000;
  Model model_;
  ViewInDb db_{{.seal_after = absl::ZeroDuration(), .resident_bytes_max = kBytesMax}};
};

TEST_F(ManyMinutesTest, TakeNoMoreMemoryAndAnswerAsEver) {
#ifdef __SANITIZE_THREAD__
  constexpr int64_t kMinutes = 20'000;
#else
  constexpr int64_t kMinutes = 200'000;
#endif
  // Not in order: every third one, then those between, so that most lie between others on disk.
  for (int64_t begin = 0; begin < 3; ++begin) {
    for (int64_t from = begin; from < kMinutes; from += 6000) {
      ASSERT_NO_FATAL_FAILURE(AddMinutes(from, std::min(from + 6000, kMinutes), 3));
      Tick();
      ASSERT_LE(db_.view().resident_bytes(), bytes_max_);
    }
  }
  EXPECT_LT(db_.view().resident_minutes(), 1000u);
  ASSERT_NO_FATAL_FAILURE(Check(-10, kMinutes + 10));
  // Late ones, to minutes that are not in memory.
  ASSERT_NO_FATAL_FAILURE(AddMinutes(0, kMinutes, 7));
  ASSERT_NO_FATAL_FAILURE(Check(0, 20'000));
  const int reads = db_.log().minutes_read;
  db_.Restart(true);
  EXPECT_LE(db_.view().resident_bytes(), bytes_max_);
  EXPECT_EQ(db_.log().minutes_read, reads);
  ASSERT_NO_FATAL_FAILURE(Check(-10, kMinutes + 10));
  ASSERT_NO_FATAL_FAILURE(AddMinutes(0, 100));
  db_.Restart(false);
  EXPECT_EQ(db_.log().minutes_read, reads + 100) << "what nobody sealed";
  ASSERT_NO_FATAL_FAILURE(Check(0, 10'000));
}

TEST_F(ManyMinutesTest, KeepWhatMadeWayAndWhatExpiredApart) {
  constexpr int64_t kMinutes = 300;
  std::mt19937 random(7);
  std::map<int, std::pair<int64_t, int32_t>> keyed;  // where each key is, and its price
  const auto key_of = [](int key) { return router::KeyedEventId(absl::StrCat(key), "c"); };
  for (int round = 0; round < 40; ++round) {
    for (int i = 0; i < 30; ++i) {
      const auto minute = static_cast<int64_t>(random() % kMinutes);
      Add(minute, random() % kShards, static_cast<int32_t>(random() % 100));
      const int key = static_cast<int>(random() % 50);
      const auto price = static_cast<int32_t>(1000 + random() % 1000);
      auto event = Tag(minute, 0, price, 2000);
      event->entry.id = key_of(key);
      if (const auto old = keyed.find(key); old != keyed.end()) {
        if (old->second == std::pair(minute, price)) continue;
        db_.Replace(old->second.first, std::move(event));
        model_.Remove(old->second.first, 0, old->second.second);
      } else {
        db_.Commit(std::move(event));
      }
      model_.Add(minute, 0, price);
      keyed[key] = {minute, price};
    }
    // Shards 1 and 2 have no keyed ones, which are accepted too late to expire.
    for (int i = 0; i < 10; ++i) {
      Expire(static_cast<int64_t>(random() % kMinutes), {1 + static_cast<uint32_t>(random() % 2)});
    }
    const auto minute = static_cast<int64_t>(random() % kMinutes);
    const bool has_key = std::any_of(keyed.begin(), keyed.end(),
                                     [&](const auto& one) { return one.second.first == minute; });
    if (!has_key) Expire(minute, {0, 1, 2});
    ASSERT_NO_FATAL_FAILURE(PushOut());
    ASSERT_NO_FATAL_FAILURE(Check(-1, kMinutes + 1)) << round;
    if (round % 10 == 9) db_.Restart(round % 20 == 9);
  }
}

// What came to a minute that is not in memory, and left it again, is not all that it held.
TEST_F(ManyMinutesTest, ThatAKeyVisitsKeepTheRest) {
  Add(3, 0, 1);
  ASSERT_NO_FATAL_FAILURE(PushOut());
  const replica::EventId key = router::KeyedEventId("key", "c");
  auto visitor = Tag(3, 0, 100);
  visitor->entry.id = key;
  db_.Commit(std::move(visitor));
  auto rival = Tag(4, 0, 100);
  rival->entry.id = key;
  db_.Replace(3, std::move(rival));
  model_.Add(4, 0, 100);
  ASSERT_NO_FATAL_FAILURE(Check(0, 10));
  ASSERT_NO_FATAL_FAILURE(PushOut());
  ASSERT_NO_FATAL_FAILURE(Check(0, 10));
}

TEST_F(ManyMinutesTest, OfWhichShardsWereDroppedLeaveToo) {
  constexpr int64_t kMinutes = 5000;
  for (int64_t minute = 0; minute < kMinutes; ++minute) {
    std::vector<std::unique_ptr<OwnedEvent>> events;
    for (const uint32_t shard : kAllShards) events.push_back(Tag(minute, shard, 1));
    Add(std::move(events));
    if (minute % 200 == 0) Tick();
  }
  for (int64_t minute = 0; minute < kMinutes; ++minute) {
    Expire(minute, {1});
    if (minute % 200 == 0) Tick();
    ASSERT_LE(db_.view().resident_bytes(), bytes_max_) << minute;
  }
  for (int i = 0; i < 10; ++i) Tick();
  EXPECT_LT(db_.view().resident_minutes(), 500u);
  ASSERT_NO_FATAL_FAILURE(Check(0, kMinutes));
  const int reads = db_.log().minutes_read;
  EXPECT_GT(reads, 0) << "which is how they got rid of them";
  for (int64_t minute = 0; minute < kMinutes; ++minute) Expire(minute, {0, 2});
  EXPECT_EQ(db_.view().resident_minutes(), 0u);
  EXPECT_TRUE(db_.Stored().empty());
  ASSERT_NO_FATAL_FAILURE(Check(0, kMinutes));
}

TEST_F(ManyMinutesTest, AreSealedByAFewWrites) {
  AddMinutes(0, 100);  // far less than a quarter
  EXPECT_EQ(db_.writes(), 0);
  Tick();
  EXPECT_EQ(db_.writes(), 1);
  EXPECT_EQ(db_.Stored().size(), 100u);
  // A commit writes only where half is open, and little at once.
  int most = 0;
  for (int64_t from = 1000; from < 41'000; from += 50) {
    const int before = db_.writes();
    AddMinutes(from, from + 50);
    most = std::max(most, db_.writes() - before);
  }
  EXPECT_GT(most, 0);
  EXPECT_LE(most, 2);
  EXPECT_LT(db_.writes(), 40'000 / 100);
  Tick();
  EXPECT_EQ(db_.Stored().size(), 40'100u);
}

// What was written to a moment ago is sealed too, where it is much.
TEST_F(ManyMinutesTest, ThatATickSealsInTimeCostACommitNoWrite) {
  ViewInDb db({.seal_after = absl::Hours(1), .resident_bytes_max = kBytesMax});
  int64_t minute = 0;
  int sealed = 0;
  for (int round = 0; round < 100; ++round) {
    const int before = db.writes();
    for (int i = 0; i < 100; ++i) db.Commit(Tag(minute++, 1, 1));
    ASSERT_EQ(db.writes(), before) << round;
    db.view().Tick(absl::InfinitePast());
    sealed += db.writes() - before;
    ASSERT_LE(db.writes(), before + 1);
    ASSERT_LE(db.view().resident_bytes(), kBytesMax);
  }
  EXPECT_GT(sealed, 0);
  EXPECT_LT(db.Stored().size(), 10'000u) << "no more than must";
}

TEST_F(ManyMinutesTest, ThatAreNewOrLateCostACommitNoLookAtTheDisk) {
  AddMinutes(0, 20'000);
  Tick();
  const int before = db_.lookups();
  AddMinutes(-100, -50);       // below all that left,
  AddMinutes(30'000, 30'050);  // above,
  EXPECT_EQ(db_.lookups(), before);
  Tick();
  EXPECT_EQ(db_.lookups(), before) << "nothing can be on disk of them";
  AddMinutes(100, 150);  // and late
  EXPECT_EQ(db_.lookups(), before);
  Tick();
  EXPECT_GT(db_.lookups(), before) << "what they are to be merged with";
  ASSERT_NO_FATAL_FAILURE(Check(0, 31'000));
}

TEST_F(ManyMinutesTest, WaitForADiskThatCannotBeRead) {
  AddMinutes(0, 20);
  PushOut();
  db_.FailLookups(true);
  EXPECT_EQ(db_.view().Scan(kAllShards, 3, 4, kViews).status().code(),
            absl::StatusCode::kUnavailable);
  Add(3, 1, 5);
  Tick();  // cannot be sealed
  EXPECT_EQ(db_.view().Scan(kAllShards, 3, 4, kViews).status().code(),
            absl::StatusCode::kUnavailable);
  db_.FailLookups(false);
  ASSERT_NO_FATAL_FAILURE(Check(0, 20));
  Tick();
  db_.Restart(false);
  ASSERT_NO_FATAL_FAILURE(Check(0, 20));
}

TEST_F(ManyMinutesTest, ExpireThoughTheDiskCannotBeRead) {
  AddMinutes(0, 20);
  for (const uint32_t shard : kAllShards) Add(7, shard, 1);
  for (const int64_t minute : {3, 4, 7}) {
    PushOut();
    db_.FailLookups(true);
    const std::vector<uint32_t> shards = minute == 7 ? std::vector<uint32_t>{1} : kAllShards;
    const auto expiry = db_.StageExpire(minute, shards, 1500);
    db_.FailLookups(false);
    if (minute == 3) {
      EXPECT_EQ(db_.view().Scan(kAllShards, minute, minute + 1, kViews).status().code(),
                absl::StatusCode::kUnavailable)
          << "of a minute that is being emptied";
    }
    db_.FailLookups(true);
    db_.FinishExpire(expiry);
    db_.FailLookups(false);
    for (const uint32_t shard : shards) model_.Drop(minute, shard);
  }
  ASSERT_NO_FATAL_FAILURE(Check(0, 7));
  PushOut();
  ASSERT_NO_FATAL_FAILURE(Check(0, 7));
  EXPECT_EQ(db_.view().Scan(kAllShards, 7, 8, kViews).status().code(),
            absl::StatusCode::kUnavailable)
      << "what is left of it is not known";
  db_.Restart(true);
  ASSERT_NO_FATAL_FAILURE(Check(0, 20));
}

TEST_F(ManyMinutesTest, DoNotComeBackFromWhatCouldNotBeRemoved) {
  for (const bool is_emptied : {true, false}) {
    const int64_t minute = is_emptied ? 3 : 7;
    for (const uint32_t shard : kAllShards) Add(minute, shard, 1);
    Tick();
    Add(minute, 1, 5);
    if (!is_emptied) Add(minute, 0, 9, 2000);
    const auto expiry = db_.StageExpire(minute, kAllShards, 1500);
    Tick();  // stores it once more, which nobody staged to go
    EXPECT_GE(StoredOf(minute), 1u);
    db_.FailWrites(true);
    db_.FinishExpire(expiry);
    db_.FailWrites(false);
    for (const uint32_t shard : kAllShards) model_.Drop(minute, shard);
    if (!is_emptied) model_.Add(minute, 0, 9);
    for (int round = 0; round < 2; ++round) {
      EXPECT_GE(StoredOf(minute), 1u) << "which is stale";
      ASSERT_NO_FATAL_FAILURE(Check(0, 10));
      ASSERT_NO_FATAL_FAILURE(PushOut());
    }
  }
  db_.Restart(true);
  EXPECT_EQ(StoredOf(3), 0u);
  ASSERT_NO_FATAL_FAILURE(Check(0, 10));
}

// Between its removal from the disk and the word that it is gone.
TEST_F(ManyMinutesTest, OnTheirWayOutAreNeverAnsweredAsZeros) {
  for (const uint32_t shard : kAllShards) Add(3, shard, 1);
  ASSERT_NO_FATAL_FAILURE(PushOut());
  const auto expiry = db_.StageExpire(3, kAllShards, 1500);
  ASSERT_NO_FATAL_FAILURE(Check(10'000'000, next_far_));
  Tick();
  const auto answers = db_.view().Scan(kAllShards, 3, 4, kViews);
  if (answers.ok()) {
    EXPECT_EQ((*answers)[0].totals.count, 3u);
  } else {
    EXPECT_EQ(answers.status().code(), absl::StatusCode::kUnavailable);
  }
  db_.FinishExpire(expiry);
  for (const uint32_t shard : kAllShards) model_.Drop(3, shard);
  ASSERT_NO_FATAL_FAILURE(Check(0, 10));
}

TEST_F(ManyMinutesTest, WhoseSegmentsAreBrokenAreRebuiltFromTheLog) {
  AddMinutes(0, 20);
  PushOut();
  for (auto [key, value] : db_.Stored()) {
    value.back() ^= 1;
    db_.Overwrite(key, value);
  }
  ASSERT_NO_FATAL_FAILURE(Check(0, 20));
  PushOut();
  ASSERT_NO_FATAL_FAILURE(Check(0, 20));
  // Nothing in it says which events were counted: so nothing is answered before the next start.
  PushOut();
  for (auto [key, value] : db_.Stored()) db_.Overwrite(key, "broken");
  EXPECT_EQ(db_.view().Scan(kAllShards, 3, 4, kViews).status().code(),
            absl::StatusCode::kUnavailable);
  Add(3, 1, 5);
  db_.Overwrite("no minute", "nothing");
  db_.Restart(true);
  ASSERT_NO_FATAL_FAILURE(Check(0, 20));
  EXPECT_EQ(db_.Stored().count("no minute"), 0u);
}

// Two segments of two minutes may have one number, in folders of older starts or where a start
// rebuilt one: each is read as its own.
TEST_F(ManyMinutesTest, OfOneNumberAreToldApart) {
  Add(3, 0, 1);
  Tick();
  auto stored = db_.Stored();
  ASSERT_EQ(stored.size(), 1u);
  Add(4, 0, 5);
  Tick();
  for (const auto& [key, value] : db_.Stored()) {
    if (stored.contains(key)) continue;
    db_.Overwrite(key.substr(0, 8) + stored.begin()->first.substr(8), value);
    db_.Delete(key);
  }
  const int reads = db_.log().minutes_read;
  db_.Restart(true);
  ASSERT_NO_FATAL_FAILURE(Check(0, 10));
  ASSERT_NO_FATAL_FAILURE(Check(0, 10));
  EXPECT_EQ(db_.log().minutes_read, reads);
}

// While they leave and come back, every reader finds each tag that was acknowledged, once.
TEST_F(ManyMinutesTest, AreReadWhileTheyLeave) {
  constexpr int64_t kMinutes = 64;
  std::array<std::atomic<uint64_t>, kMinutes> committed = {};
  std::atomic<bool> stop = false;
  std::atomic<int> scans = 0;
  ViewInDb db({.seal_after = absl::ZeroDuration(), .resident_bytes_max = 8'000});
  std::vector<std::jthread> threads;
  const absl::Cleanup end([&] { stop = true; });
  for (uint32_t t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      while (!stop) {
        const int64_t minute = random() % kMinutes;
        const uint64_t before = committed[minute];
        const auto answers = db.view().Scan({1}, minute, minute + 1, kViews);
        ASSERT_TRUE(answers.ok()) << answers.status();
        ASSERT_GE((*answers)[0].totals.count, before);
        ASSERT_LE((*answers)[0].totals.count, committed[minute] + 1);
        ASSERT_EQ((*answers)[0].totals.count * 3, (*answers)[0].totals.sum_price);
        ++scans;
      }
    });
    threads.emplace_back([&] {
      while (!stop) db.view().Tick(absl::InfinitePast());
    });
  }
  std::mt19937 random(3);
  // Until many have left and come back.
  constexpr int kLookups = 2000;
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  for (int i = 0; (i < 4000 || scans < 4000 || db.lookups() < kLookups) && absl::Now() < deadline &&
                  !HasFailure();
       ++i) {
    const int64_t minute = random() % kMinutes;
    // Shard 2 begins with, and is emptied of, what readers do not ask for.
    if (i % 5 == 0) {
      db.Commit(Tag(minute, 2, 1));
      db.Expire(minute, {2}, 1500);
    }
    db.Commit(Tag(minute, 1, 3));
    ++committed[minute];
  }
  stop = true;
  threads.clear();
  EXPECT_GE(scans, 4000);
  EXPECT_GE(db.lookups(), kLookups);
  for (int64_t minute = 0; minute < kMinutes; ++minute) {
    const auto answers = db.view().Scan(kAllShards, minute, minute + 1, kViews, true);
    ASSERT_TRUE(answers.ok()) << answers.status();
    EXPECT_EQ((*answers)[0].totals.count, committed[minute]);
    EXPECT_EQ((*answers)[0].digest, *db.log().MinuteDigest(minute));
  }
}

// A minute that is emptied while others seal it, and leaves: nothing of it comes back.
TEST_F(ManyMinutesTest, StayEmptyWhileOthersSealAndLeave) {
  constexpr int64_t kMinutes = 40;
  std::atomic<bool> stop = false;
  ViewInDb db({.seal_after = absl::ZeroDuration(), .resident_bytes_max = 8'000});
  std::vector<std::jthread> threads;
  const absl::Cleanup end([&] { stop = true; });
  for (uint32_t t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      while (!stop) db.view().Tick(absl::InfinitePast());
    });
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      while (!stop) {
        const int64_t minute = random() % kMinutes;
        const auto answers = db.view().Scan({1}, minute, minute + 1, kViews);
        if (answers.ok()) {
          ASSERT_TRUE((*answers)[0].totals.count % 5 == 0) << (*answers)[0].totals.count;
        } else {
          ASSERT_EQ(answers.status().code(), absl::StatusCode::kUnavailable);
        }
      }
    });
  }
  std::mt19937 random(3);
  for (uint32_t round = 1; round <= 1500 && !HasFailure(); ++round) {
    const int64_t minute = random() % kMinutes;
    std::vector<std::unique_ptr<OwnedEvent>> events;
    for (int i = 0; i < 5; ++i) events.push_back(Tag(minute, 1, 1, round));
    db.Commit(std::move(events));
    const int64_t other = random() % kMinutes;
    db.Expire(other, {1}, round);
    const auto answers = db.view().Scan({1}, other, other + 1, kViews);
    if (answers.ok()) {
      ASSERT_EQ((*answers)[0].totals.count, 0u) << round;
    }
  }
  stop = true;
  threads.clear();
  for (int64_t minute = 0; minute < kMinutes; ++minute) db.Expire(minute, {1}, 2000);
  EXPECT_TRUE(db.Stored().empty());
}

}  // namespace
}  // namespace allezon::aggregate_svc
