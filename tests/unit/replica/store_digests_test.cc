// SPDX-License-Identifier: Apache-2.0
//
// Digests over crashes and restarts: whatever was saved of them, a start finds those of the log.
#include <gmock/gmock.h>

#include <map>

#include "replica/log_format.h"
#include "tests/unit/replica/testing.h"

namespace allezon::replica {
namespace {

constexpr absl::Duration kQuiet = absl::Seconds(11);

// With room in memory for no digests that are on disk, and for all.
class StoreDigestsTest : public testing::TestWithParam<size_t> {
 protected:
  using Digests = std::map<std::pair<int64_t, ShardId>, std::pair<uint64_t, absl::uint128>>;

  void SetUp() override { Open(); }

  void Open() {
    store_.reset();
    StoreOptions options;
    options.path = path_;
    options.service = "profile";
    options.digests_bytes = GetParam();
    options.clock = [this] { return now_; };
    auto store = Store::Open(options, view_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  // Goes on from what is on the disk at this moment.
  void Crash() {
    const std::string copy = path_ + "'";
    CopyAsOfACrash(path_, copy);
    path_ = copy;
    Open();
  }
  void Commit(const Entries& entries) {
    const absl::Status status = store_->Commit(entries.all());
    ASSERT_TRUE(status.ok()) << status;
  }
  void SaveQuiet() {
    now_ += kQuiet;
    MaintainAll(*store_);
  }
  Digests All() const {
    Digests all;
    for (const int64_t minute : MinutesOf(*store_)) {
      for (ShardId shard = 0; shard < router::kShardsDefault; ++shard) {
        const Digest digest = store_->MinuteDigest(shard, minute);
        if (digest.count > 0) all[{minute, shard}] = {digest.count, digest.sum};
      }
    }
    return all;
  }
  // What is in memory, what a crash leaves, and what an orderly end leaves are the same.
  void ExpectKept() {
    const Digests before = All();
    const uint64_t events = store_->EventCount();
    Crash();
    EXPECT_EQ(All(), before);
    EXPECT_EQ(store_->EventCount(), events);
    EXPECT_TRUE(store_->CheckDigests().ok()) << store_->CheckDigests();
    Open();
    EXPECT_EQ(All(), before);
    EXPECT_TRUE(store_->CheckDigests().ok()) << store_->CheckDigests();
  }

  TempFolder folder_;
  std::string path_ = folder_.path() + "/data";
  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);
  RememberingView view_;
  std::unique_ptr<Store> store_;
};

TEST_P(StoreDigestsTest, WhatWasNeverSavedIsMadeFromTheLog) {
  Entries entries;
  for (int i = 0; i < 500; ++i) entries.Add(absl::StrCat("c", i), i * 500);
  Commit(entries);
  ExpectKept();
}

TEST_P(StoreDigestsTest, AMinuteThatWasSavedMayBeWrittenToAgain) {
  Entries early, late;
  for (int i = 0; i < 100; ++i) early.Add(absl::StrCat("c", i), i);
  for (int i = 50; i < 150; ++i) late.Add(absl::StrCat("c", i), i);
  Commit(early);
  SaveQuiet();
  ExpectKept();
  Commit(late);
  ExpectKept();
  SaveQuiet();
  ExpectKept();
}

TEST_P(StoreDigestsTest, AShardThatLostItsOnlyEventOfAMinuteStaysEmpty) {
  // Two bodies under one key, of which the one that comes second is kept.
  Entries entries;
  const LogEntry first = entries.Add("c", 0, "key", 1000, 1);
  int price = 2;
  LogEntry second = entries.Add("c", 60'000, "key", 1000, price);
  while (ContentHash(second.tag) > ContentHash(first.tag)) {
    second = entries.Add("c", 60'000, "key", 1000, ++price);
  }
  ASSERT_TRUE(store_->Commit({&first, 1}).ok());
  SaveQuiet();
  ASSERT_TRUE(store_->Commit({&second, 1}).ok());
  EXPECT_THAT(MinutesOf(*store_), testing::ElementsAre(1));
  ExpectKept();
  SaveQuiet();
  ExpectKept();
  EXPECT_THAT(MinutesOf(*store_), testing::ElementsAre(1));
}

TEST_P(StoreDigestsTest, ManyMinutesAtATimeAreSavedAsTheyCome) {
  for (int round = 0; round < 3; ++round) {
    Entries entries;
    for (int i = 0; i < 1500; ++i) entries.Add("c", int64_t{i} * 60'000);
    Commit(entries);
  }
  ExpectKept();
}

TEST_P(StoreDigestsTest, AMinuteThatRetentionExpiredLeavesNothingBehind) {
  const auto accepted_s = static_cast<uint32_t>(absl::ToUnixSeconds(now_));
  Entries entries;
  entries.Add("old", 0, "", accepted_s);
  entries.Add("new", absl::ToInt64Milliseconds(absl::Hours(48)), "", accepted_s);
  Commit(entries);
  ExpireOld(*store_, accepted_s);
  MaintainAll(*store_);
  EXPECT_THAT(MinutesOf(*store_), testing::ElementsAre(48 * 60));
  ExpectKept();
}

TEST_P(StoreDigestsTest, AFolderWithoutDigestsOfHoursIsConverted) {
  Entries entries;
  for (int i = 0; i < 300; ++i) entries.Add(absl::StrCat("c", i), int64_t{i} * 500'000);
  Commit(entries);
  SaveQuiet();
  const Digests before = All();
  store_.reset();
  {
    RawFolder folder(path_);
    folder.Drop("hours");
    folder.Put("default", "format", absl::StrCat(kFormatVersionNoHours));
  }
  for (int round = 0; round < 2; ++round) {
    Open();
    EXPECT_EQ(All(), before);
    EXPECT_TRUE(store_->CheckDigests().ok()) << store_->CheckDigests();
  }
}

// A start makes hours anew where a minute of them was written to before a crash.
TEST_P(StoreDigestsTest, HoursAreSumsOfTheirMinutesWhicheverWereSavedBeforeACrash) {
  for (int round = 0; round < 4; ++round) {
    Entries entries;
    for (int i = 0; i < 50; ++i) {
      entries.Add(absl::StrCat("c", i, "/", round), (int64_t{i} % 3 + round) * 60'000);
    }
    Commit(entries);
    if (round % 2 == 0) SaveQuiet();
    ExpectKept();
  }
}

INSTANTIATE_TEST_SUITE_P(Memory, StoreDigestsTest, testing::Values(0, size_t{64} << 20));

}  // namespace
}  // namespace allezon::replica
