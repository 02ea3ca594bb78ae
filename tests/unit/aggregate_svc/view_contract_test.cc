// SPDX-License-Identifier: Apache-2.0
//
// What the view promises between the steps of its surroundings: late tags, retention half way,
// broken values, minutes that nobody knows.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

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
  db_.view().Tick();
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
  db_.view().Tick();
  size_t written_bytes = 0;
  for (int i = 0; i < 200; ++i) {
    const auto before = db_.Stored();
    db_.Commit(Tag(7, 1));
    db_.view().Tick();
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
  db_.view().Tick();
  db_.Restart(true);  // so that it is on disk only
  db_.StageTake(7, 1000);
  const auto answers = db_.view().Scan({kShard}, 7, 8, kViewsOfO);
  if (answers.ok()) {
    EXPECT_EQ((*answers)[0].totals.count, 100u);
  } else {
    EXPECT_EQ(answers.status().code(), absl::StatusCode::kUnavailable);
  }
  db_.FinishTake(7, 1000);
  EXPECT_EQ(Ask(db_, 7).totals.count, 0u);
  EXPECT_EQ(Ask(db_, 7).taken_through_s, 1000u);
  EXPECT_TRUE(db_.Stored().empty());
}

TEST_F(ViewContractTest, AnAnswerSaysWhichSetItIsOf) {
  db_.Commit(Tags(7, 100, 2));
  db_.view().Tick();
  db_.Commit(Tags(7, 10, 2));
  db_.Commit(MakeOwned(7, kShard, v1::ACTION_BUY, "other", "b", "c", 5));
  db_.Commit(MakeOwned(7, kShard + 1, v1::ACTION_VIEW, "o", "b", "c", 5));
  const auto answers = db_.view().Scan({kShard}, 7, 9, kViewsOfO, /*with_digests=*/true);
  ASSERT_TRUE(answers.ok()) << answers.status();
  EXPECT_EQ((*answers)[0].totals.count, 110u);
  EXPECT_EQ((*answers)[0].digest.count, 111u) << "filters aside, of this shard";
  EXPECT_EQ((*answers)[0].digest, db_.log().BucketDigest(7, kShard));
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
  auto replaced = MakeOwned(7, kShard, v1::ACTION_VIEW, "o", "b", "c", 5);
  const replica::EventId id = replaced->entry.id;
  db_.Commit(std::move(replaced));
  db_.log().Remove(7, id);
  db_.log().Add(MakeOwned(7, kShard, v1::ACTION_VIEW, "o", "b", "c", 8));
  const auto answers = db_.view().Scan({kShard}, 7, 8, kViewsOfO, /*with_digests=*/true);
  EXPECT_EQ(answers.status().code(), absl::StatusCode::kUnavailable);
  db_.view().Removed({7});
  const auto after = db_.view().Scan({kShard}, 7, 8, kViewsOfO, /*with_digests=*/true);
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_EQ((*after)[0].totals.sum_price, 8);
  EXPECT_EQ((*after)[0].digest, db_.log().BucketDigest(7, kShard));
}

TEST_F(ViewContractTest, WhatCameAfterTheTakenOnesStays) {
  for (const bool sealed : {true, false}) {
    const int64_t minute = sealed ? 7 : 8;
    db_.Commit(Tag(minute, 5, 1000));
    db_.Commit(Tag(minute, 6, 2000));
    if (sealed) db_.view().Tick();
    db_.StageTake(minute, 1500);
    db_.FinishTake(minute, 1500);
    for (int round = 0; round < 3; ++round) {
      const MinuteAnswer answer = Ask(db_, minute);
      EXPECT_EQ(answer.totals.count, 1u);
      EXPECT_EQ(answer.totals.sum_price, 6u);
      EXPECT_EQ(answer.oldest_accepted_s, 2000u);
      EXPECT_EQ(answer.taken_through_s, 1500u);
      db_.Restart(round % 2 == 0);
    }
  }
}

TEST_F(ViewContractTest, AnEventThatMadeWayForAnotherIsNoLongerCounted) {
  for (const bool sealed : {true, false}) {
    for (const int64_t to : {7, 9}) {  // the other one in the same minute, or in a later one
      const int64_t from = 7;
      db_.Commit(Tags(from, 10, 1));
      auto old = Tag(from, 100);
      const replica::EventId id = old->entry.id;
      db_.Commit(std::move(old));
      if (sealed) db_.view().Tick();
      const uint64_t before_from = Ask(db_, from).totals.sum_price;
      const uint64_t before_to = Ask(db_, to).totals.sum_price;
      // As the store does it: the log, then what is new, then what was lost.
      auto rival = Tag(to, 5);
      rival->entry.id = id;
      db_.log().Remove(from, id);
      db_.Commit(std::move(rival));
      db_.view().Removed({from});
      for (int round = 0; round < 3; ++round) {
        EXPECT_EQ(Ask(db_, from).totals.sum_price, before_from - 100 + (to == from ? 5 : 0));
        if (to != from) {
          EXPECT_EQ(Ask(db_, to).totals.sum_price, before_to + 5);
        }
        db_.Restart(round % 2 == 0);
      }
    }
  }
}

TEST_F(ViewContractTest, AMinuteThatLostItsOnlyEventIsEmptyAlsoWhereACrashComesFirst) {
  for (const bool told : {true, false}) {
    auto only = Tag(7, 100);
    const replica::EventId id = only->entry.id;
    db_.Commit(std::move(only));
    db_.view().Tick();
    db_.log().Remove(7, id);
    if (told) db_.view().Removed({7});
    db_.Restart(told);
    EXPECT_EQ(Ask(db_, 7).totals.count, 0u);
    EXPECT_TRUE(db_.Stored().empty());
    EXPECT_EQ(db_.view().resident_minutes(), 0u);
  }
}

TEST_F(ViewContractTest, ABrokenValueIsRebuiltFromTheLogWhileItRuns) {
  db_.Commit(Tags(7, 300, 2));
  db_.view().Tick();
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
  db_.view().Tick();
  db_.Restart(true);
  for (auto [key, value] : db_.Stored()) db_.Overwrite(key, "broken");
  auto late = Tag(7, 5);
  const replica::LogEntry entry = late->entry;
  db_.log().Add(std::move(late));  // in the log, not yet told to the view
  const auto answers = db_.view().Scan({kShard}, 7, 8, kViewsOfO);
  if (!answers.ok()) {
    EXPECT_EQ(answers.status().code(), absl::StatusCode::kUnavailable);
  }
  db_.view().Committed(absl::MakeConstSpan(&entry, 1));
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
    db_.view().Tick();
  }
  stop = true;
}

// A seal that is under way when its minute is taken leaves nothing behind.
TEST_F(ViewContractTest, TakenMinutesStayEmptyWhileOthersSealThem) {
  std::atomic<bool> stop = false;
  std::vector<std::jthread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      while (!stop) db_.view().Tick();
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
    db_.StageTake(7, round);
    db_.FinishTake(7, round);
    ASSERT_EQ(Ask(db_, 7).totals.count, 0u);
  }
  stop = true;
  threads.clear();
  db_.Commit(Tag(7, 9, 1'000'000));
  EXPECT_EQ(Ask(db_, 7).totals.count, 1u);
  db_.view().Tick();
  EXPECT_EQ(db_.Stored().size(), 1u);
  db_.StageTake(7, 1'000'000);
  db_.FinishTake(7, 1'000'000);
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
