// SPDX-License-Identifier: Apache-2.0
#include "replica/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "testing.h"

namespace allezon::replica {
namespace {

constexpr int64_t kDayMs = 86'400'000;

class StoreTest : public testing::Test {
 protected:
  std::unique_ptr<Store> OpenStore() {
    auto store = Store::Open(Options(), view_);
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }

  StoreOptions Options() {
    StoreOptions options;
    options.path = folder_.path() + "/data";
    options.service = "profile";
    options.clock = [this] { return now_; };
    return options;
  }

  absl::Status OpenError(const StoreOptions& options) {
    RememberingView view;
    return Store::Open(options, view).status();
  }

  TempFolder folder_;
  RememberingView view_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
};

TEST_F(StoreTest, CommitsLogDigestAndViewTogetherAndKeepsThemOverARestart) {
  Entries entries;
  for (int i = 0; i < 100; ++i) entries.Add(absl::StrCat("cookie", i), i * 10'000);
  auto store = OpenStore();
  ASSERT_TRUE(store->Commit(entries.all()).ok());
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(store->EventCount(), 100u);
    EXPECT_EQ(view_.Rows(), 100);
    EXPECT_TRUE(store->CheckDigests().ok()) << store->CheckDigests();
    EXPECT_EQ(store->Minutes().size(), 17u);
    EXPECT_EQ(store->NewestTimeMs(), 16 * router::kMinuteMs);
    store.reset();
    store = OpenStore();
  }
}

TEST_F(StoreTest, TheSameEventCountsOnceInOneBatchInTwoAndAfterARestart) {
  Entries entries;
  const LogEntry first = entries.Add("c", 1);
  const LogEntry keyed = entries.Add("c", 1, "key");
  const std::vector<LogEntry> twice = {first, keyed, first, keyed};
  auto store = OpenStore();
  ASSERT_TRUE(store->Commit(twice).ok());
  ASSERT_TRUE(store->Commit(twice).ok());
  EXPECT_EQ(store->EventCount(), 2u);
  store = nullptr;
  store = OpenStore();
  ASSERT_TRUE(store->Commit(twice).ok());
  EXPECT_EQ(store->EventCount(), 2u);
  EXPECT_EQ(view_.committed, 2u);
  EXPECT_TRUE(store->CheckDigests().ok());
}

TEST_F(StoreTest, AnIdempotencyKeyCountsOnceAlsoWithAnotherTimeOrBody) {
  Entries entries;
  auto store = OpenStore();
  ASSERT_TRUE(store->Commit({entries.Add("c", 1, "key", 1000, 5)}).ok());
  ASSERT_TRUE(store->Commit({entries.Add("c", 999'999, "key", 1000, 5)}).ok());
  ASSERT_TRUE(store->Commit({entries.Add("c", 1, "key", 1001, 6)}).ok());
  EXPECT_EQ(store->EventCount(), 1u);
  ASSERT_TRUE(store->Commit({entries.Add("d", 1, "key")}).ok());
  EXPECT_EQ(store->EventCount(), 2u) << "another cookie is another event";
}

TEST_F(StoreTest, TwoEventsWithoutKeysAreTwoAlsoWhenTheirTagsAreTheSame) {
  Entries entries;
  auto store = OpenStore();
  ASSERT_TRUE(store->Commit({entries.Add("c", 1)}).ok());
  ASSERT_TRUE(store->Commit({entries.Add("c", 1)}).ok());
  EXPECT_EQ(store->EventCount(), 2u);
}

TEST_F(StoreTest, RandomBatchesWithRepeatsLeaveDigestsThatTheLogConfirms) {
  Entries entries;
  for (int i = 0; i < 500; ++i) {
    entries.Add(absl::StrCat("c", i % 37), (i % 11) * 60'000 - 120'000,
                i % 3 == 0 ? absl::StrCat("k", i) : "");
  }
  std::mt19937 random(7);
  auto store = OpenStore();
  for (int batch = 0; batch < 40; ++batch) {
    std::vector<LogEntry> some;
    for (int i = 0; i < 60; ++i) some.push_back(entries.all()[random() % entries.all().size()]);
    ASSERT_TRUE(store->Commit(some).ok());
    if (batch % 10 == 9) {
      store = nullptr;
      store = OpenStore();
    }
  }
  ASSERT_TRUE(store->Commit(entries.all()).ok());
  EXPECT_EQ(store->EventCount(), 500u);
  EXPECT_EQ(view_.Rows(), 500);
  EXPECT_TRUE(store->CheckDigests().ok()) << store->CheckDigests();
}

TEST_F(StoreTest, ReadMinuteGivesEveryEntryOfThatMinuteInKeyOrder) {
  Entries entries;
  for (int i = 0; i < 50; ++i) entries.Add(absl::StrCat("c", i), 60'000 + i, "", 10 + i);
  entries.Add("before", 59'999);
  entries.Add("after", 120'000);
  auto store = OpenStore();
  ASSERT_TRUE(store->Commit(entries.all()).ok());
  Digest digest;
  std::string previous;
  ASSERT_TRUE(store
                  ->ReadMinute(1,
                               [&](const LogEntry& entry) {
                                 const std::string key =
                                     LogKey(entry.minute, entry.shard, router::AsBytes(entry.id));
                                 EXPECT_LT(previous, key);
                                 previous = key;
                                 EXPECT_EQ(entry.parsed->time_ms(), entry.time_ms);
                                 EXPECT_GE(entry.accepted_s, 10u);
                                 digest.Add(router::AsBytes(entry.id), entry.tag);
                               })
                  .ok());
  EXPECT_EQ(digest.count, 50u);
  EXPECT_EQ(digest, store->MinuteDigest(1));
}

TEST_F(StoreTest, RetentionTakesAMinuteOnlyWhenTagTimeAndWallTimeHaveBothPassed) {
  Entries entries;
  auto store = OpenStore();
  const LogEntry old_keyed = entries.Add("c", 1, "key", 1000);
  ASSERT_TRUE(store->Commit({old_keyed, entries.Add("d", 2, "", 1005)}).ok());
  ASSERT_TRUE(store->Commit({entries.Add("c", kDayMs + 59'999, "", 1000)}).ok());
  now_ = absl::FromUnixSeconds(1000 + 10 * 86'400);
  MaintainAll(*store);
  EXPECT_EQ(store->EventCount(), 3u) << "the newest tag is not yet a day younger";
  ASSERT_TRUE(store->Commit({entries.Add("c", kDayMs + 60'000, "", 1000)}).ok());
  now_ = absl::FromUnixSeconds(1005 + 86'400 + 3'600);
  MaintainAll(*store);
  EXPECT_EQ(store->EventCount(), 4u) << "one event was accepted just a day and the margin ago";
  now_ += absl::Seconds(1);
  MaintainAll(*store);
  EXPECT_THAT(view_.taken, testing::ElementsAre(0));
  EXPECT_EQ(store->EventCount(), 2u);
  EXPECT_TRUE(store->CheckDigests().ok()) << store->CheckDigests();
  EXPECT_EQ(store->TakenThroughS(0), 1006u + 3'600);

  // A late copy of what went stays out, also one that a client's retry had accepted later, and a
  // new event begins the minute anew; also after a restart.
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(store->Commit({old_keyed, entries.Add("c", 1, "key", 1000 + 3'600)}).ok());
    EXPECT_EQ(store->MinuteDigest(0).count, 0u);
    store = nullptr;
    store = OpenStore();
  }
  ASSERT_TRUE(store->Commit({entries.Add("c", 1, "key", 90'000)}).ok());
  EXPECT_EQ(store->MinuteDigest(0).count, 1u);
  EXPECT_TRUE(store->CheckDigests().ok());
}

TEST_F(StoreTest, AFolderOfAnotherKindIsRefusedByName) {
  OpenStore();
  StoreOptions other = Options();
  other.service = "aggregate";
  EXPECT_EQ(OpenError(other).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(OpenError(other).message()),
              testing::HasSubstr("belongs to service profile, not aggregate"));
  other = Options();
  other.shards = 64;
  EXPECT_THAT(std::string(OpenError(other).message()),
              testing::HasSubstr("belongs to shards 128, not 64"));
}

TEST_F(StoreTest, AForeignFolderIsRefusedAndLeftAlone) {
  StoreOptions options = Options();
  options.path = folder_.path();
  std::ofstream(folder_.path() + "/thesis.txt") << "years of work";
  EXPECT_EQ(OpenError(options).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(OpenError(options).message()), testing::HasSubstr(folder_.path()));
  options.path = folder_.path() + "/thesis.txt";
  EXPECT_EQ(OpenError(options).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}), 1);
}

TEST_F(StoreTest, ACorruptFolderIsRefused) {
  Entries entries;
  OpenStore()->Commit({entries.Add("c", 1)}).IgnoreError();
  for (const auto& file : std::filesystem::directory_iterator(Options().path)) {
    if (file.path().filename().string().starts_with("MANIFEST")) {
      std::ofstream(file.path(), std::ios::trunc) << "no manifest at all";
    }
  }
  const absl::Status status = OpenError(Options());
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr(Options().path));
}

TEST_F(StoreTest, AFolderThatIsOpenElsewhereIsRefused) {
  auto store = OpenStore();
  EXPECT_EQ(OpenError(Options()).code(), absl::StatusCode::kUnavailable);
}

TEST_F(StoreTest, TheIdOfAFolderIsItsOwnAndStays) {
  auto store = OpenStore();
  const std::string id = store->store_id();
  EXPECT_EQ(id.size(), 32u);
  store = nullptr;
  EXPECT_EQ(OpenStore()->store_id(), id);
  std::filesystem::remove_all(Options().path);
  EXPECT_NE(OpenStore()->store_id(), id) << "an empty disk under an old name is another folder";
}

}  // namespace
}  // namespace allezon::replica
