// SPDX-License-Identifier: Apache-2.0
//
// What the view promises between the steps of its surroundings: late tags, retention half way,
// broken values, minutes that nobody knows.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <random>
#include <thread>

#include "absl/cleanup/cleanup.h"
#include "rpc/metrics.h"
#include "tests/unit/aggregate_svc/testing.h"

namespace allezon::aggregate_svc {
namespace {

constexpr uint32_t kShard = 3;
const Filter kViews{.action = v1::ACTION_VIEW};
const Filter kViewsOfO{.action = v1::ACTION_VIEW, .origin = "o"};

std::unique_ptr<OwnedEvent> Tag(int64_t minute, int32_t price, uint32_t accepted_s = 1000) {
  return MakeOwned(minute, kShard, v1::ACTION_VIEW, "o", "b", "c", price, accepted_s);
}

std::vector<std::unique_ptr<OwnedEvent>> Tags(int64_t minute, int count, int32_t price) {
  std::vector<std::unique_ptr<OwnedEvent>> events;
  for (int i = 0; i < count; ++i) events.push_back(Tag(minute, price));
  return events;
}

MinuteAnswer Ask(ViewInDb& db, int64_t minute, const Filter& filter = kViewsOfO) {
  const auto answers = db.view().Scan({kShard}, minute, minute + 1, filter);
  EXPECT_TRUE(answers.ok()) << answers.status();
  return answers.ok() ? (*answers)[0] : MinuteAnswer();
}

replica::EventId KeyOf(std::string_view key) { return router::KeyedEventId(key, "c"); }

// Always with the same key.
std::unique_ptr<OwnedEvent> Keyed(int64_t minute, int32_t price) {
  auto event = Tag(minute, price);
  event->entry.id = KeyOf("key");
  return event;
}

void Tick(ViewInDb& db) { db.view().Tick(absl::InfinitePast()); }

double Loaded() {
  return rpc::MakeCounter("allezon_segments_loaded_total", "Sealed segments read back into memory.")
      .Value();
}

class ViewContractTest : public testing::Test {
 protected:
  // Nothing sealed fits in what is kept of it.
  ViewInDb db_{{.seal_after = absl::ZeroDuration(), .resident_bytes_max = 4'000}};
};

TEST_F(ViewContractTest, ALateTagIsCountedAtOnceWithoutReadingItsMinuteBack) {
  db_.Commit(Tags(7, 20'000, 2));
  Tick(db_);
  const double before = Loaded();
  db_.Commit(Tag(7, 5));
  EXPECT_EQ(Loaded(), before);
  EXPECT_EQ(Ask(db_, 7).totals.count, 20'001u);
  EXPECT_EQ(Ask(db_, 7).totals.sum_price, 40'005u);
  for (const bool close : {true, false}) {
    db_.Restart(close);
    EXPECT_EQ(Ask(db_, 7).totals.count, 20'001u);
  }
}

TEST_F(ViewContractTest, LateTagsRewriteAMinuteFarLessOftenThanTheyCome) {
  db_.Commit(Tags(7, 20'000, 2));
  Tick(db_);
  size_t written_bytes = 0;
  for (int i = 0; i < 200; ++i) {
    const auto before = db_.Stored();
    db_.Commit(Tag(7, 1));
    Tick(db_);
    for (const auto& [key, value] : db_.Stored()) {
      const auto found = before.find(key);
      if (found == before.end() || found->second != value) written_bytes += value.size();
    }
  }
  EXPECT_LT(written_bytes, 200 * size_t{20'000} / 4);
  EXPECT_LT(db_.Stored().size(), 20u);
  EXPECT_EQ(Ask(db_, 7).totals.count, 20'200u);
  db_.Restart(false);
  EXPECT_EQ(Ask(db_, 7).totals.count, 20'200u);
}

TEST_F(ViewContractTest, AMinuteOnItsWayOutIsNeverAnsweredAsZeros) {
  db_.Commit(Tags(7, 100, 2));
  Tick(db_);
  db_.Restart(true);  // so that it is on disk only
  const auto expiry = db_.StageExpire(7, {kShard}, 1000);
  const auto answers = db_.view().Scan({kShard}, 7, 8, kViewsOfO);
  if (answers.ok()) {
    EXPECT_EQ((*answers)[0].totals.count, 100u);
  } else {
    EXPECT_EQ(answers.status().code(), absl::StatusCode::kUnavailable);
  }
  db_.FinishExpire(expiry);
  EXPECT_EQ(Ask(db_, 7).totals.count, 0u);
  EXPECT_EQ(Ask(db_, 7).expired_at_s, 1000u);
  EXPECT_TRUE(db_.Stored().empty());
}

TEST_F(ViewContractTest, AnAnswerSaysWhichSetItIsOf) {
  db_.Commit(Tags(7, 100, 2));
  Tick(db_);
  db_.Commit(Tags(7, 10, 2));
  db_.Commit(MakeOwned(7, kShard, v1::ACTION_BUY, "other", "b", "c", 5));
  db_.Commit(MakeOwned(7, kShard + 1, v1::ACTION_VIEW, "o", "b", "c", 5));
  const auto answers = db_.view().Scan({kShard}, 7, 9, kViewsOfO, /*with_digests=*/true);
  ASSERT_TRUE(answers.ok()) << answers.status();
  EXPECT_EQ((*answers)[0].totals.count, 110u);
  EXPECT_EQ((*answers)[0].digest.count, 111u) << "filters aside, of this shard";
  EXPECT_EQ((*answers)[0].digest, *db_.log().BucketDigest(7, kShard));
  EXPECT_EQ((*answers)[1].digest, replica::Digest());
}

TEST_F(ViewContractTest, BetweenACommitAndItsViewThereIsNoSetToSpeakOf) {
  db_.Commit(Tags(7, 100, 2));
  db_.log().Add(Tag(7, 2));
  const auto answers = db_.view().Scan({kShard}, 7, 8, kViewsOfO, /*with_digests=*/true);
  EXPECT_EQ(answers.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Ask(db_, 7).totals.count, 100u);
}

// As many events, and yet another set: what an idempotency key brought in the place of another.
TEST_F(ViewContractTest, WhatTookThePlaceOfAnotherIsNoPartOfTheSetBeforeTheViewHasIt) {
  auto replaced = Keyed(7, 5);
  auto rival = Keyed(7, 8);
  const replica::LogEntry added = rival->entry;
  db_.Commit(std::move(replaced));
  const auto old = db_.log().Replace(7, std::move(rival));
  const auto answers = db_.view().Scan({kShard}, 7, 8, kViewsOfO, /*with_digests=*/true);
  EXPECT_EQ(answers.status().code(), absl::StatusCode::kUnavailable);
  db_.view().Committed({&added, 1}, {&old->entry, 1});
  const auto after = db_.view().Scan({kShard}, 7, 8, kViewsOfO, /*with_digests=*/true);
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_EQ((*after)[0].totals.sum_price, 8u);
  EXPECT_EQ((*after)[0].digest, *db_.log().BucketDigest(7, kShard));
}

TEST_F(ViewContractTest, WhatCameAfterTheExpiredOnesStays) {
  for (const bool sealed : {true, false}) {
    const int64_t minute = sealed ? 7 : 8;
    db_.Commit(Tag(minute, 5, 1000));
    db_.Commit(Tag(minute, 6, 2000));
    if (sealed) Tick(db_);
    db_.Expire(minute, {kShard}, 1500);
    for (int round = 0; round < 3; ++round) {
      const MinuteAnswer answer = Ask(db_, minute);
      EXPECT_EQ(answer.totals.count, 1u);
      EXPECT_EQ(answer.totals.sum_price, 6u);
      EXPECT_EQ(answer.oldest_accepted_s, 2000u);
      EXPECT_EQ(answer.expired_at_s, 1500u);
      db_.Restart(round % 2 == 0);
    }
  }
}

TEST_F(ViewContractTest, AnEventThatMadeWayForAnotherIsNoLongerCountedAndCostsNoRebuild) {
  for (const bool sealed : {true, false}) {
    for (const int64_t to : {7, 9}) {  // the other one in the same minute, or in a later one
      const int64_t from = 7;
      db_.Commit(Tags(from, 10, 1));
      db_.Commit(Keyed(from, 100));
      if (sealed) Tick(db_);
      const uint64_t before_from = Ask(db_, from).totals.sum_price;
      const uint64_t before_to = Ask(db_, to).totals.sum_price;
      const int reads = db_.log().minutes_read;
      db_.Replace(from, Keyed(to, 5));
      for (int round = 0; round < 4; ++round) {
        EXPECT_EQ(Ask(db_, from).totals.sum_price, before_from - 100 + (to == from ? 5 : 0));
        if (to != from) {
          EXPECT_EQ(Ask(db_, to).totals.sum_price, before_to + 5);
        }
        // A goodbye leaves on disk what the log holds, in plus and minus.
        if (round < 3) {
          EXPECT_EQ(db_.log().minutes_read, reads) << round;
        }
        if (round == 0) Tick(db_);
        db_.Restart(round < 2);
      }
      // So that the next round's key is new.
      db_.log().Remove(to, KeyOf("key"));
      db_.Restart(true);
    }
  }
}

TEST_F(ViewContractTest, AKeyThatComesAgainAndAgainCountsOnceWhateverIsSealedOrMerged) {
  db_.Commit(Tags(7, 40, 1));
  db_.Commit(Tags(8, 10, 1));
  db_.Commit(Keyed(7, 1000));
  std::mt19937 random(5);
  int64_t minute = 7;
  int32_t price = 1000;
  const int reads = db_.log().minutes_read;
  for (int round = 0; round < 300; ++round) {
    const int64_t to = 7 + static_cast<int64_t>(random() % 2);
    const auto next = static_cast<int32_t>(2000 + random() % 50);
    if (next != price || to != minute) {
      db_.Replace(minute, Keyed(to, next));
      minute = to;
      price = next;
    }
    if (random() % 3 == 0) Tick(db_);
    if (random() % 20 == 0) db_.Restart(true);
    const auto answers =
        db_.view().Scan({kShard, kShard + 1}, 7, 9, kViewsOfO, /*with_digests=*/true);
    ASSERT_TRUE(answers.ok()) << answers.status();
    ASSERT_EQ((*answers)[0].totals.count, 40u + (minute == 7));
    ASSERT_EQ((*answers)[1].totals.count, 10u + (minute == 8));
    ASSERT_EQ((*answers)[minute - 7].totals.sum_price,
              (minute == 7 ? 40u : 10u) + static_cast<uint64_t>(price));
  }
  EXPECT_EQ(db_.log().minutes_read, reads);
  EXPECT_LT(db_.Stored().size(), 40u);
}

// A reader finds the tag exactly once, in whichever of the minutes, at every moment.
TEST_F(ViewContractTest, AKeyThatMovesBetweenMinutesIsInExactlyOneOfThemForEveryReader) {
  for (int64_t minute = 7; minute < 12; ++minute) db_.Commit(Tags(minute, 200, 0));
  db_.Commit(Keyed(7, 1));
  std::atomic<bool> stop = false;
  std::atomic<int> scans = 0;
  std::vector<std::jthread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      while (!stop) {
        const auto answers = db_.view().Scan({kShard}, 7, 12, kViewsOfO);
        if (!answers.ok()) {
          ASSERT_EQ(answers.status().code(), absl::StatusCode::kUnavailable);
          continue;
        }
        uint64_t count = 0;
        for (const MinuteAnswer& answer : *answers) count += answer.totals.count;
        ASSERT_EQ(count, 1001u);
        ++scans;
      }
    });
  }
  threads.emplace_back([&] {
    while (!stop) Tick(db_);
  });
  const int reads = db_.log().minutes_read;
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  int64_t minute = 7;
  int32_t price = 1;
  for (int moves = 0; (moves < 2'000 || scans < 500) && absl::Now() < deadline && !HasFailure();
       ++moves) {
    const int64_t to = 7 + (moves * 3) % 5;
    price = 3 - price;
    db_.Replace(minute, Keyed(to, price));
    minute = to;
  }
  stop = true;
  threads.clear();
  EXPECT_GE(scans, 500);
  EXPECT_EQ(db_.log().minutes_read, reads);
}

TEST_F(ViewContractTest, AMinuteThatLostItsOnlyEventIsEmptyAlsoWhereACrashComesFirst) {
  for (const bool told : {true, false}) {
    db_.Commit(Keyed(7, 100));
    Tick(db_);
    auto rival = Keyed(9, 100);
    if (told) {
      db_.Replace(7, std::move(rival));
    } else {
      db_.log().Replace(7, std::move(rival));
    }
    if (told) {
      EXPECT_EQ(db_.view().resident_minutes(), 1u);
      EXPECT_TRUE(db_.Stored().empty()) << "the other minute is open";
    }
    db_.Restart(told);
    EXPECT_EQ(Ask(db_, 7).totals.count, 0u);
    EXPECT_EQ(Ask(db_, 9).totals.count, 1u);
    EXPECT_EQ(db_.view().resident_minutes(), 1u);
    EXPECT_EQ(db_.Stored().size(), 1u);
    db_.log().Remove(9, KeyOf("key"));
    db_.Restart(told);
    EXPECT_TRUE(db_.Stored().empty());
    EXPECT_EQ(db_.view().resident_minutes(), 0u);
  }
}

// How the rows of a minute lie when a shard of them is dropped.
enum class Where { kOpen, kLeaving, kSealed, kMerged, kReopened };

class DroppedBucketTest : public testing::TestWithParam<Where> {
 protected:
  static constexpr uint32_t kShards = 4;

  // The price says the shard: 1, 10, 100 and 1,000.
  static std::unique_ptr<OwnedEvent> Of(uint32_t shard, uint32_t accepted_s = 1000) {
    return MakeOwned(7, shard, v1::ACTION_VIEW, "o", "b", "c",
                     static_cast<int32_t>(std::pow(10, shard)), accepted_s);
  }
  static std::vector<std::unique_ptr<OwnedEvent>> OfAll(int count, uint32_t accepted_s = 1000) {
    std::vector<std::unique_ptr<OwnedEvent>> events;
    for (int i = 0; i < count; ++i) {
      for (uint32_t shard = 0; shard < kShards; ++shard) events.push_back(Of(shard, accepted_s));
    }
    return events;
  }
  // A keyed tag of shard 1 that was 7,000 before.
  void ReplaceInShard1() {
    auto old = MakeOwned(7, 1, v1::ACTION_VIEW, "o", "b", "c", 7000);
    auto rival = MakeOwned(7, 1, v1::ACTION_VIEW, "o", "b", "c", 10);
    old->entry.id = rival->entry.id = KeyOf("of shard 1");
    db_.Commit(std::move(old));
    if (GetParam() != Where::kOpen) Tick(db_);
    db_.Replace(7, std::move(rival));
  }

  MinuteAnswer All(std::vector<uint32_t> shards = {0, 1, 2, 3}) {
    const auto answers = db_.view().Scan(shards, 7, 8, kViewsOfO, /*with_digests=*/true);
    EXPECT_TRUE(answers.ok()) << answers.status();
    return answers.ok() ? (*answers)[0] : MinuteAnswer();
  }

  void Lay() {
    db_.Commit(OfAll(4));
    ReplaceInShard1();
    switch (GetParam()) {
      case Where::kOpen:
        return;
      case Where::kLeaving:
        // The disk is refused; what is to be stored stays as it is.
        db_.FailWrites(true);
        Tick(db_);
        EXPECT_EQ(db_.Stored().size(), 1u) << "what came before";
        db_.FailWrites(false);
        return;
      case Where::kSealed:
        Tick(db_);
        return;
      case Where::kMerged:
        for (int i = 0; i < 3; ++i) {
          Tick(db_);
          db_.Commit(OfAll(1));
        }
        Tick(db_);
        return;
      case Where::kReopened:
        db_.Restart(true);
        return;
    }
  }

  // Where it is to be on disk, nothing of it fits in what is kept of it.
  const bool is_in_memory_ = GetParam() == Where::kOpen || GetParam() == Where::kLeaving;
  ViewInDb db_{{.seal_after = absl::ZeroDuration(),
                .resident_bytes_max = is_in_memory_ ? size_t{1} << 20 : 4'000}};
};

TEST_P(DroppedBucketTest, LeavesTheOtherShardsRowsThroughSealsMergesAndRestarts) {
  Lay();
  const uint64_t each = GetParam() == Where::kMerged ? 7 : 4;
  EXPECT_EQ(All().totals.count, kShards * each + 1);
  EXPECT_EQ(All().totals.sum_price, each * 1111 + 10);
  const int reads = db_.log().minutes_read;
  db_.Expire(7, {1}, 1500);
  EXPECT_EQ(All().totals.sum_price, each * 1101);
  EXPECT_EQ(All().expired_at_s, 1500u);
  EXPECT_EQ(All({0, 2, 3}).expired_at_s, 0u);
  EXPECT_EQ(All({1}).oldest_accepted_s, 0u) << "nothing is left of it";
  EXPECT_EQ(All({1}).digest, replica::Digest());
  // What comes later, for the same shard too.
  db_.Commit(Of(1, 2000));
  db_.Commit(Of(0, 2000));
  const uint64_t sum = each * 1101 + 11;
  EXPECT_EQ(All().totals.sum_price, sum);
  EXPECT_EQ(All({1}).oldest_accepted_s, 2000u);
  for (int i = 0; i < 3; ++i) {
    Tick(db_);
    EXPECT_EQ(All().totals.sum_price, sum + 100 * i) << i;
    db_.Commit(Of(2, 2000));
    EXPECT_EQ(All().totals.sum_price, sum + 100 * (i + 1)) << i;
  }
  // Again, also of what came since.
  db_.Expire(7, {1, 3}, 2500);
  EXPECT_EQ(All().totals.sum_price, each * 101 + 301);
  EXPECT_EQ(db_.log().minutes_read, reads) << "nothing was rebuilt";
  EXPECT_EQ(db_.log().buckets_read, 0) << "empty ones need not be read";
  for (const bool close : {true, false}) {
    db_.Restart(close);
    EXPECT_EQ(All().totals.sum_price, each * 101 + 301);
    EXPECT_EQ(All().digest, *db_.log().MinuteDigest(7));
  }
  db_.Expire(7, {0, 2}, 3000);
  EXPECT_EQ(All().totals.count, 0u);
  EXPECT_TRUE(db_.Stored().empty());
  EXPECT_EQ(db_.view().resident_minutes(), 0u);
}

TEST_P(DroppedBucketTest, WhatIsNewerInItStays) {
  db_.Commit(Of(1, 2000));
  Lay();
  const uint64_t each = GetParam() == Where::kMerged ? 7 : 4;
  const int reads = db_.log().minutes_read;
  db_.Expire(7, {1}, 1500);
  EXPECT_EQ(db_.log().minutes_read, reads);
  EXPECT_EQ(db_.log().buckets_read, 1);
  for (int round = 0; round < 4; ++round) {
    EXPECT_EQ(All().totals.sum_price, each * 1101 + 10) << round;
    EXPECT_EQ(All({1}).oldest_accepted_s, 2000u);
    EXPECT_EQ(All({1}).digest, *db_.log().BucketDigest(7, 1));
    if (round == 0) {
      Tick(db_);
    } else {
      db_.Restart(round % 2 == 0);
    }
  }
  db_.Expire(7, {0, 1, 2, 3}, 2500);
  EXPECT_TRUE(db_.Stored().empty());
  EXPECT_EQ(db_.view().resident_minutes(), 0u);
}

TEST_P(DroppedBucketTest, OneByOneTheyLeaveNothing) {
  Lay();
  uint64_t sum = (GetParam() == Where::kMerged ? 7 : 4) * 1111 + 10;
  const uint64_t each = sum / 1111;
  for (const uint32_t shard : {2, 0, 1, 3}) {
    db_.Expire(7, {shard}, 1500);
    sum -= each * static_cast<uint64_t>(std::pow(10, shard)) + (shard == 1 ? 10 : 0);
    EXPECT_EQ(All().totals.sum_price, sum);
    Tick(db_);
    EXPECT_EQ(All().totals.sum_price, sum);
  }
  EXPECT_EQ(sum, 0u);
  EXPECT_TRUE(db_.Stored().empty());
  EXPECT_EQ(db_.view().resident_minutes(), 0u);
  EXPECT_EQ(db_.view().resident_bytes(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Everywhere, DroppedBucketTest,
                         testing::Values(Where::kOpen, Where::kLeaving, Where::kSealed,
                                         Where::kMerged, Where::kReopened));

// The last of an old minute: what is on disk of it holds nothing more that counts, and goes.
TEST_F(ViewContractTest, SegmentsOfWhichNothingIsLeftGo) {
  db_.Commit(Tags(7, 100, 1));
  Tick(db_);
  db_.Commit(Tag(7, 5, 2000));
  db_.Expire(7, {kShard}, 1500);
  EXPECT_TRUE(db_.Stored().empty());
  EXPECT_EQ(Ask(db_, 7).totals.sum_price, 5u);
  Tick(db_);
  EXPECT_EQ(db_.Stored().size(), 1u);
  const int reads = db_.log().minutes_read;
  db_.Restart(true);
  EXPECT_EQ(db_.log().minutes_read, reads);
  EXPECT_EQ(Ask(db_, 7).totals.sum_price, 5u);
}

TEST_F(ViewContractTest, ABucketThatIsDroppedWhileItsMinuteIsBeingStoredStaysDropped) {
  const auto others = [&](int count) {
    std::vector<std::unique_ptr<OwnedEvent>> events;
    for (int i = 0; i < count; ++i) {
      events.push_back(MakeOwned(7, kShard + 1, v1::ACTION_VIEW, "o", "b", "c", 1));
    }
    return events;
  };
  for (const bool merges : {false, true}) {
    for (const bool fails : {false, true}) {
      uint64_t kept = 10;
      db_.Commit(Tags(7, 10, 1));
      db_.Commit(others(10));
      if (merges) {
        Tick(db_);
        db_.Commit(Tags(7, 10, 1));
        db_.Commit(others(10));
        kept += 10;
      }
      const int reads = db_.log().minutes_read;
      db_.BeforeNextWrite([&] {
        db_.Expire(7, {kShard}, 1500);
        db_.Commit(Tag(7, 1, 2000));  // begins it anew
        db_.FailWrites(fails);
      });
      Tick(db_);
      db_.FailWrites(false);
      for (int round = 0; round < 4; ++round) {
        EXPECT_EQ(Ask(db_, 7).totals.count, 1u) << round;
        EXPECT_EQ(Ask(db_, 7).oldest_accepted_s, 2000u);
        const auto both = db_.view().Scan({kShard, kShard + 1}, 7, 8, kViewsOfO, true);
        ASSERT_TRUE(both.ok()) << both.status();
        EXPECT_EQ((*both)[0].totals.count, kept + 1);
        EXPECT_EQ((*both)[0].digest, *db_.log().MinuteDigest(7));
        if (round < 2) {
          EXPECT_EQ(db_.log().minutes_read, reads);
          Tick(db_);
        } else {
          db_.Restart(round == 2);
        }
      }
      // And where all of it goes meanwhile.
      db_.Commit(Tag(7, 1, 2000));
      db_.BeforeNextWrite([&] { db_.Expire(7, {kShard, kShard + 1}, 3000); });
      Tick(db_);
      EXPECT_EQ(Ask(db_, 7).totals.count, 0u);
      EXPECT_TRUE(db_.Stored().empty());
      EXPECT_EQ(db_.view().resident_minutes(), 0u);
    }
  }
}

// The same, whenever it happens.
TEST_F(ViewContractTest, DroppedBucketsStayDroppedWhileOthersSealTheirMinute) {
  std::atomic<bool> stop = false;
  std::vector<std::jthread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      while (!stop) Tick(db_);
    });
  }
  std::atomic<uint64_t> kept = 0;
  threads.emplace_back([&] {
    while (!stop) {
      const uint64_t before = kept;
      const auto answers = db_.view().Scan({kShard + 1}, 7, 8, kViewsOfO);
      if (answers.ok()) {
        ASSERT_GE((*answers)[0].totals.count, before);
      } else {
        ASSERT_EQ(answers.status().code(), absl::StatusCode::kUnavailable);
      }
    }
  });
  const absl::Cleanup end([&] { stop = true; });
  for (uint32_t round = 1; round <= 300; ++round) {
    std::vector<std::unique_ptr<OwnedEvent>> events;
    for (int i = 0; i < 20; ++i) events.push_back(Tag(7, 1, round));
    events.push_back(MakeOwned(7, kShard + 1, v1::ACTION_VIEW, "o", "b", "c", 1));
    db_.Commit(std::move(events));
    kept = round;
    if (round % 3 == 0) db_.Commit(Tag(7, 1, round + 1));  // stays
    db_.Expire(7, {kShard}, round);
    ASSERT_EQ(Ask(db_, 7).totals.count, round % 3 == 0 ? 1u : 0u) << round;
  }
  stop = true;
  threads.clear();
  const auto answers =
      db_.view().Scan({kShard, kShard + 1}, 7, 8, kViewsOfO, /*with_digests=*/true);
  ASSERT_TRUE(answers.ok()) << answers.status();
  EXPECT_EQ((*answers)[0].totals.count, 301u);
  EXPECT_EQ((*answers)[0].digest, *db_.log().MinuteDigest(7));
}

TEST_F(ViewContractTest, ABrokenValueIsRebuiltFromTheLogWhileItRuns) {
  db_.Commit(Tags(7, 300, 2));
  Tick(db_);
  db_.Restart(true);
  for (auto [key, value] : db_.Stored()) {
    value[value.size() / 2] ^= 1;
    db_.Overwrite(key, value);
  }
  db_.Commit(Tag(7, 5));
  EXPECT_EQ(Ask(db_, 7).totals.count, 301u);
  EXPECT_EQ(Ask(db_, 7).totals.sum_price, 605u);
  db_.Restart(true);
  EXPECT_EQ(Ask(db_, 7).totals.count, 301u);
}

TEST_F(ViewContractTest, AnEventOfACommitUnderWayIsNotCountedTwiceByARebuild) {
  db_.Commit(Tags(7, 300, 2));
  Tick(db_);
  db_.Restart(true);
  for (auto [key, value] : db_.Stored()) db_.Overwrite(key, "broken");
  auto late = Tag(7, 5);
  const replica::LogEntry entry = late->entry;
  db_.log().Add(std::move(late));  // in the log, not yet told to the view
  const auto answers = db_.view().Scan({kShard}, 7, 8, kViewsOfO);
  if (!answers.ok()) {
    EXPECT_EQ(answers.status().code(), absl::StatusCode::kUnavailable);
  }
  db_.view().Committed({&entry, 1}, {});
  EXPECT_EQ(Ask(db_, 7).totals.count, 301u);
  EXPECT_EQ(Ask(db_, 7).totals.sum_price, 605u);
}

// A merge takes away what a scan is about to read.
TEST_F(ViewContractTest, ScansNeverFailWhileSegmentsAreMerged) {
  db_.Commit(Tags(7, 50, 1));
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> committed = 50;
  std::vector<std::jthread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      while (!stop) {
        const uint64_t before = committed;
        const auto answers = db_.view().Scan({kShard}, 7, 8, kViewsOfO);
        ASSERT_TRUE(answers.ok()) << answers.status();
        ASSERT_GE((*answers)[0].totals.count, before);
        ASSERT_EQ((*answers)[0].totals.count, (*answers)[0].totals.sum_price);
      }
    });
  }
  for (int i = 0; i < 1'500; ++i) {
    db_.Commit(Tag(7, 1));
    ++committed;
    Tick(db_);
  }
  stop = true;
}

// A seal that is under way when its minute is taken leaves nothing behind.
TEST_F(ViewContractTest, ExpiredMinutesStayEmptyWhileOthersSealThem) {
  std::atomic<bool> stop = false;
  std::vector<std::jthread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      while (!stop) Tick(db_);
    });
  }
  threads.emplace_back([&] {
    while (!stop) {
      const auto answers = db_.view().Scan({kShard}, 7, 8, kViewsOfO);
      if (answers.ok()) {
        ASSERT_LE((*answers)[0].totals.count, 20u);
      } else {
        ASSERT_EQ(answers.status().code(), absl::StatusCode::kUnavailable);
      }
    }
  });
  for (uint32_t round = 1; round <= 300; ++round) {
    std::vector<std::unique_ptr<OwnedEvent>> events;
    for (int i = 0; i < 20; ++i) events.push_back(Tag(7, 1, round));
    db_.Commit(std::move(events));
    db_.Expire(7, {kShard}, round);
    ASSERT_EQ(Ask(db_, 7).totals.count, 0u);
  }
  stop = true;
  threads.clear();
  db_.Commit(Tag(7, 9, 1'000'000));
  EXPECT_EQ(Ask(db_, 7).totals.count, 1u);
  Tick(db_);
  EXPECT_EQ(db_.Stored().size(), 1u);
  db_.Expire(7, {kShard}, 1'000'000);
  EXPECT_TRUE(db_.Stored().empty());
  EXPECT_LE(db_.view().resident_bytes(), 4'000u);
  EXPECT_EQ(db_.view().resident_minutes(), 0u);
}

TEST_F(ViewContractTest, MinutesThatNobodyWroteTakeNoMemory) {
  const size_t before = db_.view().resident_bytes();
  for (int64_t minute = 0; minute < 10'000; ++minute) EXPECT_EQ(Ask(db_, minute).totals.count, 0u);
  EXPECT_EQ(db_.view().resident_minutes(), 0u);
  EXPECT_EQ(db_.view().resident_bytes(), before);
}

}  // namespace
}  // namespace allezon::aggregate_svc
