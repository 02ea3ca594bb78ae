// SPDX-License-Identifier: Apache-2.0
//
// What the store takes away, by itself or because a peer did.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "replica/store.h"
#include "testing.h"

namespace allezon::replica {
namespace {

constexpr int64_t kDayS = 86'400;

v1::TakenMinute Taken(int64_t minute, uint32_t through_s) {
  v1::TakenMinute taken;
  taken.set_minute(minute);
  taken.set_taken_through_s(through_s);
  return taken;
}

class StoreRetentionTest : public testing::Test {
 protected:
  void SetUp() override { Reopen(); }
  void Reopen() {
    store_.reset();
    StoreOptions options;
    options.path = folder_.path() + "/data";
    options.service = "profile";
    options.clock = [this] { return now_; };
    auto store = Store::Open(options, view_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  TempFolder folder_;
  RememberingView view_;
  absl::Time now_ = absl::FromUnixSeconds(100 * kDayS);
  std::unique_ptr<Store> store_;
};

TEST_F(StoreRetentionTest, WhatAPeerTookIsTakenAndWhatCameLaterStays) {
  Entries entries;
  const LogEntry early = entries.Add("c", 1, "key", 1000);
  const LogEntry late = entries.Add("c", 2, "", 2000);
  const LogEntry late_keyed = entries.Add("d", 3, "other", 2000);
  ASSERT_TRUE(store_->Commit({early, late, late_keyed}).ok());
  ASSERT_TRUE(store_->AdoptTaken({Taken(0, 1500), Taken(7, 1500)}).ok());
  EXPECT_THAT(view_.taken, testing::UnorderedElementsAre(0, 7));
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(store_->EventCount(), 2u);
    EXPECT_TRUE(store_->CheckDigests().ok()) << store_->CheckDigests();
    EXPECT_EQ(store_->TakenThroughS(0), 1500u);
    EXPECT_EQ(store_->TakenThroughS(7), 1500u);
    EXPECT_EQ(store_->BucketOf(0, late.shard).newest_accepted_s, 2000u);
    ASSERT_TRUE(store_->Commit({early, late, late_keyed}).ok());
    EXPECT_EQ(store_->EventCount(), 2u) << "what was taken stays out, what was kept is known";
    Reopen();
  }
  // The key is free again.
  ASSERT_TRUE(store_->Commit({entries.Add("c", 1, "key", 3000)}).ok());
  EXPECT_EQ(store_->EventCount(), 3u);
}

TEST_F(StoreRetentionTest, WhatComesAfterTheLookAheadSavesItsMinute) {
  Entries entries;
  const LogEntry old = entries.Add("c", 1, "key", 1000);
  ASSERT_TRUE(store_->Commit({old, entries.Add("c", 60'001, "", 1000)}).ok());
  ASSERT_TRUE(store_->Commit({entries.Add("c", 60 * 60'000 * 60, "", 1000)}).ok());
  store_->LookAhead();
  ASSERT_TRUE(store_->Commit({entries.Add("d", 2, "", 99 * kDayS)}).ok());
  while (store_->Maintain()) {
  }
  EXPECT_THAT(view_.taken, testing::ElementsAre(1));
  EXPECT_EQ(store_->MinuteDigest(0).count, 2u);
  EXPECT_EQ(store_->EventCount(), 3u);
  EXPECT_TRUE(store_->CheckDigests().ok()) << store_->CheckDigests();
  // A day and the margin later it goes, and the key with it.
  now_ += absl::Hours(26);
  MaintainAll(*store_);
  EXPECT_THAT(view_.taken, testing::ElementsAre(1, 0));
  EXPECT_EQ(store_->EventCount(), 1u);
  ASSERT_TRUE(store_->Commit({entries.Add("c", 1, "key", 101 * kDayS + 9'000)}).ok());
  EXPECT_EQ(store_->EventCount(), 2u);
}

TEST_F(StoreRetentionTest, MinutesWithManyKeysGoInSteps) {
  const auto keyed = [](uint32_t accepted_s) {
    Entries entries;
    for (int i = 0; i < 1'800; ++i) {
      entries.Add("c", i % 3 * 60'000, absl::StrCat("key", i), accepted_s);
    }
    return entries;
  };
  const Entries old = keyed(1000);
  ASSERT_TRUE(store_->Commit(old.all()).ok());
  Entries newest;
  ASSERT_TRUE(store_->Commit({newest.Add("c", 60 * 60'000 * 60, "", 1000)}).ok());
  store_->LookAhead();
  EXPECT_TRUE(store_->Maintain());
  EXPECT_THAT(view_.taken, testing::ElementsAre(0, 1));
  EXPECT_FALSE(store_->Maintain());
  EXPECT_THAT(view_.taken, testing::ElementsAre(0, 1, 2));
  EXPECT_EQ(store_->EventCount(), 1u);
  const Entries again = keyed(100 * kDayS);
  ASSERT_TRUE(store_->Commit(again.all()).ok());
  EXPECT_EQ(store_->EventCount(), 1'801u) << "all keys are free again";
}

// As after the replay of an old recording: what was accepted long ago hides behind many minutes
// that were accepted lately.
TEST_F(StoreRetentionTest, OldMinutesAreFoundBehindManyThatStay) {
  const auto now_s = static_cast<uint32_t>(absl::ToUnixSeconds(now_));
  Entries entries;
  std::vector<LogEntry> all;
  for (int64_t minute = 0; minute < 2'500; ++minute) {
    all.push_back(
        entries.Add("c", minute * router::kMinuteMs, "", minute == 2'400 ? 1'000 : now_s));
  }
  all.push_back(entries.Add("c", 100 * kDayS * 1'000, "", now_s));
  ASSERT_TRUE(store_->Commit(all).ok());
  for (int i = 0; i < 3; ++i) MaintainAll(*store_);
  EXPECT_EQ(store_->EventCount(), 2'500u);
  EXPECT_NE(store_->TakenThroughS(2'400), 0u);
  now_ += absl::Hours(72);
  for (int i = 0; i < 200; ++i) MaintainAll(*store_);
  EXPECT_EQ(store_->EventCount(), 1u) << "the newest one";
}

TEST_F(StoreRetentionTest, AMinuteThatThisClockFindsTooYoungIsLeftForLater) {
  Entries entries;
  ASSERT_TRUE(store_->Commit({entries.Add("c", 1, "", 99 * kDayS - 5)}).ok());
  ASSERT_TRUE(store_->AdoptTaken({Taken(0, 99 * kDayS + 1)}).ok());
  EXPECT_EQ(store_->TakenThroughS(0), 0u);
  EXPECT_EQ(store_->EventCount(), 1u);
  now_ += absl::Seconds(2);
  ASSERT_TRUE(store_->AdoptTaken({Taken(0, 99 * kDayS + 1)}).ok());
  EXPECT_EQ(store_->TakenThroughS(0), 99 * kDayS + 1);
  EXPECT_EQ(store_->EventCount(), 0u);
}

TEST_F(StoreRetentionTest, AnOlderRecordOfAPeerChangesNothing) {
  ASSERT_TRUE(store_->AdoptTaken({Taken(0, 1500)}).ok());
  view_.taken.clear();
  ASSERT_TRUE(store_->AdoptTaken({Taken(0, 1500), Taken(0, 1400)}).ok());
  EXPECT_TRUE(view_.taken.empty());
  EXPECT_EQ(store_->TakenThroughS(0), 1500u);
}

}  // namespace
}  // namespace allezon::replica
