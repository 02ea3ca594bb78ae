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
    options.cluster = "allezon";
    options.service = "profile";
    options.instance = "p0";
    options.replication_factor = 3;
    options.write_quorum = 2;
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
    EXPECT_EQ(MinutesOf(*store).size(), 17u);
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
  EXPECT_EQ(digest, *store->MinuteDigest(1));
}

TEST_F(StoreTest, RetentionExpiresABucketOnlyWhenTagTimeAndWallTimeHaveBothPassed) {
  Entries entries;
  auto store = OpenStore();
  const LogEntry old_keyed = entries.Add("c", 1, "key", 1000);
  ASSERT_TRUE(store->Commit({old_keyed, entries.Add("c", 2, "", 1005)}).ok());
  ASSERT_TRUE(store->Commit({entries.Add("c", kDayMs + 59'999, "", 1000)}).ok());
  EXPECT_EQ(ExpireOld(*store, 2000), 0) << "the newest tag is not yet a day younger";
  ASSERT_TRUE(store->Commit({entries.Add("c", kDayMs + 60'000, "", 1000)}).ok());
  EXPECT_EQ(ExpireOld(*store, 1004), 0) << "one event was accepted later";
  EXPECT_EQ(store->EventCount(), 4u);
  EXPECT_EQ(ExpireOld(*store, 1005), 1);
  EXPECT_THAT(view_.emptied, testing::ElementsAre(0));
  EXPECT_EQ(store->EventCount(), 2u);
  EXPECT_TRUE(store->CheckDigests().ok()) << store->CheckDigests();
  EXPECT_EQ(store->ExpiredThroughS(old_keyed.shard, 0), 1005u);

  // A late copy of what went stays out, and a new event begins the bucket anew; also after a
  // restart.
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(store->Commit({old_keyed}).ok());
    EXPECT_EQ(store->MinuteDigest(0)->count, 0u);
    store = nullptr;
    store = OpenStore();
  }
  ASSERT_TRUE(store->Commit({entries.Add("c", 1, "key", 90'000)}).ok());
  EXPECT_EQ(store->MinuteDigest(0)->count, 1u);
  EXPECT_TRUE(store->CheckDigests().ok());
}

TEST_F(StoreTest, AFolderOfSomebodyElseOrOfOtherSettingsIsRefusedByName) {
  OpenStore();
  const auto expect = [this](const std::function<void(StoreOptions&)>& change,
                             const std::string& message) {
    StoreOptions other = Options();
    change(other);
    const absl::Status status = OpenError(other);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(message));
  };
  const std::string what_to_do = ": name the right folder with --data, or an empty one";
  expect([](StoreOptions& o) { o.cluster = "other"; },
         "belongs to cluster allezon, not other" + what_to_do);
  expect([](StoreOptions& o) { o.service = "aggregate"; },
         "belongs to service profile, not aggregate" + what_to_do);
  expect([](StoreOptions& o) { o.instance = "p1"; }, "belongs to instance p0, not p1" + what_to_do);
  expect([](StoreOptions& o) { o.shards = 64; }, "was written with --shards=128, not --shards=64");
  expect(
      [](StoreOptions& o) {
        o.replication_factor = 2;
        o.write_quorum = 1;
      },
      "was written with --rf=3 --write_quorum=2, not --rf=2 --write_quorum=1: ");
  expect([](StoreOptions& o) { o.write_quorum = 3; },
         "was written with --write_quorum=2, not --write_quorum=3");
  EXPECT_NE(OpenStore(), nullptr) << "they left it as it was";
}

TEST_F(StoreTest, AFolderThatDoesNotSayWhoseItIsBelongsToWhoOpensItFirst) {
  OpenStore();
  {
    // As an older version left it.
    std::vector<std::string> names;
    ASSERT_TRUE(rocksdb::DB::ListColumnFamilies({}, Options().path, &names).ok());
    std::vector<rocksdb::ColumnFamilyDescriptor> families;
    for (const std::string& name : names) families.push_back({name, {}});
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    rocksdb::DB* opened = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open({}, Options().path, families, &handles, &opened).ok());
    const std::unique_ptr<rocksdb::DB> db(opened);
    for (const char* key : {"cluster", "instance", "rf", "write_quorum", "incarnation"}) {
      ASSERT_TRUE(db->Delete({}, key).ok());
    }
    for (rocksdb::ColumnFamilyHandle* handle : handles) {
      ASSERT_TRUE(db->DestroyColumnFamilyHandle(handle).ok());
    }
  }
  StoreOptions other = Options();
  other.instance = "p1";
  EXPECT_EQ(OpenError(other), absl::OkStatus());
  EXPECT_THAT(std::string(OpenError(Options()).message()),
              testing::HasSubstr("belongs to instance p1, not p0"));
}

TEST_F(StoreTest, IncarnationsRiseWithEachStartWhateverTheClockSays) {
  auto store = OpenStore();
  EXPECT_EQ(store->previous_incarnation(), 0u);
  uint64_t last = store->incarnation();
  EXPECT_EQ(last, 1'000'000'000'000u);
  for (const int64_t now_s : {1000, 10, -10, 2000}) {
    now_ = absl::FromUnixSeconds(now_s);
    store.reset();
    store = OpenStore();
    EXPECT_EQ(store->previous_incarnation(), last);
    EXPECT_GT(store->incarnation(), last);
    last = store->incarnation();
  }
  EXPECT_EQ(last, 2'000'000'000'000u) << "the clock's, where that is higher";
  ASSERT_TRUE(store->RecordIncarnation(last + 5).ok());
  store.reset();
  EXPECT_EQ(OpenStore()->incarnation(), last + 6);
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

TEST_F(StoreTest, ACorruptFolderIsMarked) {
  Entries entries;
  OpenStore()->Commit({entries.Add("c", 1)}).IgnoreError();
  for (const auto& file : std::filesystem::directory_iterator(Options().path)) {
    if (file.path().filename().string().starts_with("MANIFEST")) {
      std::ofstream(file.path(), std::ios::trunc) << "no manifest at all";
    }
  }
  const absl::Status status = OpenError(Options());
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
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
