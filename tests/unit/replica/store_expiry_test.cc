// SPDX-License-Identifier: Apache-2.0
//
// What retention removes of the store, by this node's decision or by a peer's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include "replica/store.h"
#include "replica/store_internal.h"
#include "testing.h"

namespace allezon::replica {
namespace {

constexpr uint32_t kDayS = 86'400;

class StoreExpiryTest : public testing::Test {
 protected:
  void SetUp() override { Reopen(); }
  void Reopen() {
    store_.reset();
    StoreOptions options;
    options.path = folder_.path() + "/data";
    options.service = "profile";
    auto store = Store::Open(options, view_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  // Two days after minute 0, so that it may go.
  void CommitTheNewest() {
    ASSERT_TRUE(
        store_->Commit({newest_.Add("newest", int64_t{2} * kDayS * 1'000, "", 90 * kDayS)}).ok());
  }

  TempFolder folder_;
  RememberingView view_;
  Entries newest_;
  std::unique_ptr<Store> store_;
};

TEST_F(StoreExpiryTest, WhatWasAcceptedUpToThenGoesAndWhatCameLaterStays) {
  Entries entries;
  const LogEntry early = entries.Add("c", 1, "key", 1000);
  const LogEntry late = entries.Add("c", 2, "", 2000);
  const LogEntry late_keyed = entries.Add("c", 3, "other", 2000);
  ASSERT_TRUE(store_->Commit({early, late, late_keyed}).ok());
  ExpireAll(*store_, {Range(early.shard, 0, 8, 1500, 99)});
  ASSERT_EQ(view_.expired.size(), 1u);
  EXPECT_FALSE(view_.expired[0].is_empty);
  EXPECT_EQ(view_.expired[0].removed.count, 1u);
  EXPECT_TRUE(view_.emptied.empty());
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(store_->EventCount(), 2u);
    EXPECT_TRUE(store_->CheckDigests().ok()) << store_->CheckDigests();
    for (const int64_t minute : {0, 7}) {
      EXPECT_EQ(store_->ExpiredThroughS(early.shard, minute), 1500u);
      EXPECT_EQ(store_->ExpiredAtS({early.shard}, minute), 99u);
    }
    EXPECT_EQ(store_->ExpiredThroughS(early.shard, 8), 0u);
    EXPECT_EQ(store_->BucketOf(0, late.shard)->newest_accepted_s, 2000u);
    ASSERT_TRUE(store_->Commit({early, late, late_keyed}).ok());
    EXPECT_EQ(store_->EventCount(), 2u) << "what was expired stays out, what was kept is known";
    Reopen();
  }
  // The key is free again.
  ASSERT_TRUE(store_->Commit({entries.Add("c", 1, "key", 3000)}).ok());
  EXPECT_EQ(store_->EventCount(), 3u);
}

TEST_F(StoreExpiryTest, OtherShardsOfTheMinuteStay) {
  Entries entries;
  const LogEntry mine = entries.Add("c", 1);
  const LogEntry other = entries.Add("d", 1);
  ASSERT_NE(mine.shard, other.shard);
  ASSERT_TRUE(store_->Commit(entries.all()).ok());
  ExpireAll(*store_, {Range(mine.shard, 0, 1, 1000, 5)});
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(store_->EventCount(), 1u);
    EXPECT_EQ(store_->BucketOf(0, other.shard)->digest.count, 1u);
    EXPECT_EQ(store_->ExpiredThroughS(other.shard, 0), 0u);
    EXPECT_EQ(store_->ExpiredAtS({other.shard}, 0), 0u);
    EXPECT_EQ(store_->ExpiredAtS({other.shard, mine.shard}, 0), 5u);
    EXPECT_TRUE(store_->CheckDigests().ok()) << store_->CheckDigests();
    Reopen();
  }
}

// Its row is owed although its bucket is gone.
TEST_F(StoreExpiryTest, TheViewKeepsWhatComesTooLateForItsBucket) {
  Entries entries;
  const LogEntry first = entries.Add("c", 1, "", 1000);
  const LogEntry late = entries.Add("c", 2, "", 1000);
  ASSERT_TRUE(store_->Commit({first}).ok());
  ExpireAll(*store_, {Range(first.shard, 0, 1, 1000)});
  ASSERT_TRUE(store_->Commit({late}).ok());
  EXPECT_EQ(store_->EventCount(), 0u);
  EXPECT_EQ(view_.committed, 1u);
  EXPECT_EQ(view_.Rows(), 2);
}

TEST_F(StoreExpiryTest, OnlyBucketsThatAreOldAndAcceptedLongAgoAreFound) {
  Entries entries;
  const LogEntry old = entries.Add("c", 1, "", 1000);
  entries.Add("young", 2, "", 5000);                            // the same minute, accepted late
  entries.Add("c", 3 * 60'000, "", 1000);                       // another minute
  entries.Add("c", int64_t{kDayS} * 1'000 + 60'000, "", 1000);  // not yet older by the retention
  ASSERT_TRUE(store_->Commit(entries.all()).ok());
  CommitTheNewest();
  const auto found = store_->FindExpirable(4999);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].bucket, (BucketRef{old.shard, 0}));
  EXPECT_EQ(found[0].newest_accepted_s, 1000u);
  EXPECT_EQ(found[1].bucket, (BucketRef{old.shard, 3}));
  EXPECT_EQ(store_->FindExpirable(5000).size(), 3u);
}

TEST_F(StoreExpiryTest, WhatComesAfterTheDecisionSavesItsBucket) {
  Entries entries;
  const LogEntry old = entries.Add("c", 1, "key", 1000);
  ASSERT_TRUE(store_->Commit({old, entries.Add("c", 60'001, "", 1000)}).ok());
  CommitTheNewest();
  ExpiryPlan plan(*store_, {{Range(old.shard, 0, 2, 1000, 7)}, /*only_whole=*/true});
  const auto step = plan.Next();
  ASSERT_TRUE(step.ok() && *step);
  ASSERT_TRUE(store_->Commit({entries.Add("c", 2, "", 2000)}).ok());
  ASSERT_TRUE(store_->Expire(**step).ok());
  EXPECT_EQ(store_->MinuteDigest(0)->count, 2u);
  EXPECT_EQ(store_->ExpiredAtS({old.shard}, 0), 0u) << "it was not expired";
  EXPECT_EQ(store_->MinuteDigest(1)->count, 0u);
  EXPECT_EQ(store_->ExpiredAtS({old.shard}, 1), 7u);
  EXPECT_TRUE(store_->CheckDigests().ok()) << store_->CheckDigests();
  // Later it goes, and the key with it.
  EXPECT_EQ(ExpireOld(*store_, 2000), 1);
  EXPECT_EQ(store_->EventCount(), 1u);
  ASSERT_TRUE(store_->Commit({entries.Add("c", 1, "key", 3000)}).ok());
  EXPECT_EQ(store_->EventCount(), 2u);
}

TEST_F(StoreExpiryTest, WhatComesAfterThePlanGoesWithItsKeyWhereItIsOldToo) {
  Entries entries;
  const LogEntry old = entries.Add("c", 1, "key", 1000);
  ASSERT_TRUE(store_->Commit({old}).ok());
  ExpiryPlan plan(*store_, {{Range(old.shard, 0, 1, 1000)}, /*only_whole=*/true});
  const auto step = plan.Next();
  ASSERT_TRUE(step.ok() && *step);
  ASSERT_TRUE(store_->Commit({entries.Add("c", 2, "another", 900)}).ok());
  ASSERT_TRUE(store_->Expire(**step).ok());
  EXPECT_EQ(store_->EventCount(), 0u);
  ASSERT_TRUE(store_->Commit({entries.Add("c", 2, "another", 3000)}).ok());
  EXPECT_EQ(store_->EventCount(), 1u) << "the key is free again";
}

TEST_F(StoreExpiryTest, BucketsWithManyKeysGoInSteps) {
  const auto keyed = [](uint32_t accepted_s) {
    Entries entries;
    for (int i = 0; i < 1'800; ++i) {
      entries.Add("c", i % 3 * 60'000, absl::StrCat("key", i), accepted_s);
    }
    return entries;
  };
  const Entries old = keyed(1000);
  ASSERT_TRUE(store_->Commit(old.all()).ok());
  CommitTheNewest();
  EXPECT_EQ(ExpireOld(*store_, 1000), 2);
  EXPECT_THAT(view_.emptied, testing::ElementsAre(0, 1, 2));
  EXPECT_EQ(store_->EventCount(), 1u);
  const Entries again = keyed(100 * kDayS);
  ASSERT_TRUE(store_->Commit(again.all()).ok());
  EXPECT_EQ(store_->EventCount(), 1'801u) << "all keys are free again";
}

// As after the replay of an old recording: what was accepted long ago hides behind many minutes
// that were accepted lately.
// A peer tells 10,000 ranges at once; commits go between the steps.
TEST_F(StoreExpiryTest, WhatAPeerExpiredGoesInSteps) {
  constexpr int kMinutes = 5'000;
  Entries entries;
  std::vector<v1::ExpiredRange> ranges;
  for (int minute = 0; minute < kMinutes; ++minute) entries.Add("c", minute * router::kMinuteMs);
  ASSERT_TRUE(store_->Commit(entries.all()).ok());
  const ShardId shard = entries.all().front().shard;
  for (int minute = 0; minute < kMinutes; minute += 2) {
    ranges.push_back(Range(shard, minute, minute + 1, 1000, 5));
  }
  EXPECT_GE(ExpireAll(*store_, ranges), kMinutes / 2 / 1'024 + 1);
  EXPECT_EQ(store_->EventCount(), uint64_t{kMinutes} / 2);
  EXPECT_TRUE(store_->CheckDigests().ok()) << store_->CheckDigests();
  // One range over all, with gaps.
  EXPECT_GE(ExpireAll(*store_, {Range(shard, -10, kMinutes + 10, 1000, 6)}),
            kMinutes / 2 / 1'024 + 1);
  EXPECT_EQ(store_->EventCount(), 0u);
}

TEST_F(StoreExpiryTest, OldMinutesAreFoundBehindManyThatStay) {
  Entries entries;
  std::vector<LogEntry> all;
  for (int64_t minute = -3'000; minute < -500; ++minute) {
    all.push_back(
        entries.Add("c", minute * router::kMinuteMs, "", minute == -600 ? 1'000 : 90 * kDayS));
  }
  ASSERT_TRUE(store_->Commit(all).ok());
  CommitTheNewest();
  for (int i = 0; i < 3; ++i) ExpireOld(*store_, 89 * kDayS);
  EXPECT_EQ(store_->EventCount(), 2'500u);
  EXPECT_NE(store_->ExpiredThroughS(all[0].shard, -600), 0u);
  for (int i = 0; i < 3; ++i) ExpireOld(*store_, 91 * kDayS);
  EXPECT_EQ(store_->EventCount(), 1u) << "the newest one";
  EXPECT_TRUE(store_->CheckDigests().ok()) << store_->CheckDigests();
}

TEST_F(StoreExpiryTest, AnOlderRecordOfAPeerChangesNothing) {
  ExpireAll(*store_, {Range(3, 0, 5, 1500, 10)});
  const uint64_t hash = store_->ExpiredHash(3);
  ExpireAll(*store_, {Range(3, 0, 5, 1500, 10), Range(3, 1, 3, 1400, 9)});
  EXPECT_EQ(store_->ExpiredHash(3), hash);
  EXPECT_EQ(store_->ExpiredThroughS(3, 2), 1500u);
}

// Such a record says that the minutes are gone for whoever asks, and nothing else.
TEST_F(StoreExpiryTest, AnUnknownExpiryRemovesAndSkipsNothing) {
  Entries entries;
  const LogEntry entry = entries.Add("c", 1, "", 1000);
  ASSERT_TRUE(store_->Commit({entry}).ok());
  v1::ExpiredRange range = Range(entry.shard, 0, 1, 0, 50);
  range.set_removed_through_s(40);
  ExpireAll(*store_, {range});
  EXPECT_EQ(store_->EventCount(), 1u);
  EXPECT_EQ(store_->ExpiredAtS({entry.shard}, 0), 50u);
  EXPECT_EQ(store_->RemovedThroughS(entry.shard, 0), 40u);
  ASSERT_TRUE(store_->Commit({entries.Add("c", 2, "", 30)}).ok());
  EXPECT_EQ(store_->EventCount(), 2u);
}

// What format 3 knew by minute makes no shard skip anything, and keeps queries from an empty
// answer.
TEST_F(StoreExpiryTest, AFolderThatKnowsOnlyMinutesIsConverted) {
  ASSERT_TRUE(store_->RecordJoined({3}).ok());
  store_.reset();
  {
    RawFolder folder(folder_.path() + "/data");
    for (const int64_t minute : {5, 6}) folder.Put("taken", MinuteKey(minute), SecondsValue(1'000));
    folder.Put("default", "format", "3");
  }
  for (int round = 0; round < 2; ++round) {
    Reopen();
    for (const int64_t minute : {5, 6}) {
      EXPECT_EQ(store_->ExpiredAtS({3}, minute), 1'000u + kDayS);
      EXPECT_EQ(store_->RemovedThroughS(3, minute), 1'000u);
      EXPECT_EQ(store_->ExpiredThroughS(3, minute), 0u);
      EXPECT_EQ(store_->ExpiredAtS({4}, minute), 0u) << "this node is no replica of that one";
    }
  }
}

}  // namespace
}  // namespace allezon::replica
