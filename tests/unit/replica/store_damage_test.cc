// SPDX-License-Identifier: Apache-2.0
//
// Damaged folders: what is noticed, what is made of it, and what the folder then says of itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <vector>

#include "replica/damage.h"
#include "replica/scrubber.h"
#include "replica/store.h"
#include "testing.h"

namespace allezon::replica {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kShards = 4;
constexpr int kCommits = 100;

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void WriteFile(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

void Flip(const fs::path& path, size_t at) {
  std::string bytes = ReadFile(path);
  ASSERT_LT(at, bytes.size()) << path;
  bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
  WriteFile(path, bytes);
}

class StoreDamageTest : public testing::Test {
 protected:
  StoreOptions Options(const std::string& path) {
    StoreOptions options;
    options.path = path;
    options.cluster = "allezon";
    options.service = "profile";
    options.instance = "p0";
    options.shards = kShards;
    options.replication_factor = rf_;
    options.write_quorum = rf_ == 1 ? 1 : 2;
    options.sync_wal = sync_wal_;
    options.accept_data_loss = accept_;
    options.clock = [] { return absl::FromUnixSeconds(1000); };
    return options;
  }

  // As a node does it: begins anew where the store says so; how often it had to.
  absl::StatusOr<std::unique_ptr<Store>> Open(const std::string& path, int* anew = nullptr) {
    constexpr int kTriesMax = 3;
    for (int tries = 0;; ++tries) {
      view_ = std::make_unique<RememberingView>();
      auto store = Store::Open(Options(path), *view_);
      if (anew != nullptr) *anew = tries;
      if (!absl::IsAborted(store.status()) || tries == kTriesMax) return store;
    }
  }

  // A folder as a crash leaves it after some commits, each of them in the log.
  std::string Crashed() {
    const std::string live = absl::StrCat(folder_.path(), "/live", ++copies_);
    const std::string crashed = absl::StrCat(folder_.path(), "/crashed", copies_);
    RememberingView view;
    auto store = Store::Open(Options(live), view);
    EXPECT_TRUE(store.ok()) << store.status();
    std::vector<ShardId> all(kShards);
    std::iota(all.begin(), all.end(), 0);
    EXPECT_TRUE((*store)->RecordJoined(all).ok());
    EXPECT_TRUE((*store)->NoteComplete(900).ok());
    for (int i = 0; i < kCommits; ++i) {
      Entries entries;
      entries.Add(absl::StrCat("cookie", i), i, "", 1000, 1, kShards);
      EXPECT_TRUE((*store)->Commit(entries.all()).ok());
    }
    CopyAsOfACrash(live, crashed);
    return crashed;
  }

  // The same folder with all in tables.
  std::string Closed() {
    std::string path = Crashed();
    auto store = Open(path);
    EXPECT_TRUE(store.ok()) << store.status();
    return path;
  }

  static std::vector<fs::path> Files(const std::string& folder, std::string_view what) {
    std::vector<fs::path> files;
    for (const auto& file : fs::directory_iterator(folder)) {
      const std::string name = file.path().filename();
      if (name.starts_with(what) || name.ends_with(what)) files.push_back(file.path());
    }
    std::sort(files.begin(), files.end());
    return files;
  }

  // The newest log, in which the commits are.
  static fs::path Log(const std::string& folder) { return Files(folder, ".log").back(); }

  static void ExpectInDoubt(const Store& store, bool damaged) {
    EXPECT_THAT(store.record().joined, testing::Each(false));
    EXPECT_THAT(store.record().damaged, testing::Each(damaged));
    EXPECT_EQ(store.record().complete_s, 0);
  }

  TempFolder folder_;
  std::unique_ptr<RememberingView> view_;
  uint32_t rf_ = 3;
  bool sync_wal_ = true;
  bool accept_ = false;
  int copies_ = 0;
};

TEST_F(StoreDamageTest, AFolderThatACrashLeftIsTrusted) {
  int anew = 0;
  auto store = Open(Crashed(), &anew);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(anew, 0);
  EXPECT_EQ((*store)->EventCount(), uint64_t{kCommits});
  EXPECT_THAT((*store)->record().joined, testing::Each(true));
  EXPECT_THAT((*store)->record().damaged, testing::Each(false));
  EXPECT_EQ((*store)->record().complete_s, 900);
}

TEST_F(StoreDamageTest, DamageInTheMiddleOfTheLogIsNoticedAndWhatIsBeforeItKept) {
  const std::string path = Crashed();
  Flip(Log(path), ReadFile(Log(path)).size() / 2);
  int anew = 0;
  auto store = Open(path, &anew);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(anew, 1);
  EXPECT_GT((*store)->EventCount(), 0u);
  EXPECT_LT((*store)->EventCount(), uint64_t{kCommits});
  EXPECT_TRUE((*store)->CheckDigests().ok());
  ExpectInDoubt(**store, true);
}

TEST_F(StoreDamageTest, AFolderStaysInDoubtUntilItHasJoinedAgainShardByShard) {
  const std::string path = Crashed();
  Flip(Log(path), ReadFile(Log(path)).size() / 2);
  auto store = Open(path);
  ASSERT_TRUE(store.ok()) << store.status();
  store->reset();
  store = Open(path);
  ASSERT_TRUE(store.ok()) << store.status();
  ExpectInDoubt(**store, true);
  ASSERT_TRUE((*store)->RecordJoined({1}).ok());
  store->reset();
  store = Open(path);
  EXPECT_THAT((*store)->record().joined, testing::ElementsAre(false, true, false, false));
  EXPECT_THAT((*store)->record().damaged, testing::ElementsAre(true, false, true, true));
}

TEST_F(StoreDamageTest, ALogThatEndsWithinARecordIsComparedButNotDamaged) {
  const std::string path = Crashed();
  fs::resize_file(Log(path), fs::file_size(Log(path)) - 3);
  int anew = 0;
  auto store = Open(path, &anew);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(anew, 0);
  EXPECT_EQ((*store)->EventCount(), uint64_t{kCommits} - 1);
  ExpectInDoubt(**store, false);
}

// To RocksDB it is the end of a write that was cut short.
TEST_F(StoreDamageTest, ADamagedLengthThatHidesWholeRecordsIsNotTakenForTheEnd) {
  const std::string path = Crashed();
  const fs::path log = Log(path);
  std::string bytes = ReadFile(log);
  size_t at = 0;
  for (int record = 0; record < kCommits / 2; ++record) {
    at += 7 + (static_cast<unsigned char>(bytes[at + 4]) | static_cast<unsigned char>(bytes[at + 5])
                                                               << 8);
    ASSERT_LT(at + 7, std::min<size_t>(bytes.size(), 32'768)) << "all is in the first block";
  }
  bytes[at + 5] = '\x7f';  // the upper byte of a length
  WriteFile(log, bytes);
  auto store = Open(path);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_LT((*store)->EventCount(), uint64_t{kCommits});
  EXPECT_THAT((*store)->record().joined, testing::Each(false));
}

TEST_F(StoreDamageTest, WithoutOtherReplicasADamagedLogIsRefusedUntilTheLossIsAccepted) {
  rf_ = 1;
  const std::string path = Crashed();
  Flip(Log(path), ReadFile(Log(path)).size() / 2);
  for (int round = 0; round < 2; ++round) {
    auto refused = Open(path);
    ASSERT_TRUE(absl::IsDataLoss(refused.status())) << refused.status();
    EXPECT_THAT(std::string(refused.status().message()),
                testing::AllOf(testing::HasSubstr(path), testing::HasSubstr("--accept_data_loss")));
  }
  accept_ = true;
  auto store = Open(path);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_GT((*store)->EventCount(), 0u);
  EXPECT_THAT((*store)->record().damaged, testing::Each(false));
}

TEST_F(StoreDamageTest, WithoutOtherReplicasATornEndIsAnOrdinaryStart) {
  rf_ = 1;
  const std::string path = Crashed();
  fs::resize_file(Log(path), fs::file_size(Log(path)) - 3);
  auto store = Open(path);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_THAT((*store)->record().joined, testing::Each(true));
}

TEST_F(StoreDamageTest, TheFlagAcceptsALossThatWasFoundBefore) {
  const std::string path = Crashed();
  Flip(Log(path), ReadFile(Log(path)).size() / 2);
  auto store = Open(path);
  ASSERT_TRUE(store.ok()) << store.status();
  ExpectInDoubt(**store, true);
  store->reset();
  accept_ = true;
  store = Open(path);
  ASSERT_TRUE(store.ok()) << store.status();
  ExpectInDoubt(**store, false);
}

TEST_F(StoreDamageTest, ADamagedTableIsFoundAndTheFolderMadeAnew) {
  const std::string path = Closed();
  auto store = Open(path);
  ASSERT_TRUE(store.ok()) << store.status();
  const fs::path table = Files(path, ".sst").front();
  Flip(table, 3);
  int damaged = 0;
  for (const Store::TableFile& file : (*store)->TableFiles()) {
    const absl::Status status = (*store)->CheckTableFile(file);
    if (status.ok()) continue;
    ++damaged;
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(table.filename().string()));
  }
  EXPECT_EQ(damaged, 1);
  EXPECT_THAT((*store)->damage(), testing::HasSubstr(table.filename().string()));
  store->reset();

  store = Open(path);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->EventCount(), 0u);
  EXPECT_EQ((*store)->damage(), "");
  ExpectInDoubt(**store, true);
  EXPECT_TRUE(fs::exists(path + "/damaged/" + table.filename().string()));
  EXPECT_FALSE(fs::exists(path + "/DAMAGED"));

  ASSERT_TRUE((*store)->RecordJoined({0, 1, 2}).ok());
  (*store)->RemoveWhatIsBack({0, 1, 2, 3});
  EXPECT_TRUE(fs::exists(path + "/damaged")) << "one shard is not back yet";
  ASSERT_TRUE((*store)->RecordJoined({3}).ok());
  (*store)->RemoveWhatIsBack({0, 1, 2, 3});
  EXPECT_FALSE(fs::exists(path + "/damaged"));
}

TEST_F(StoreDamageTest, TheScrubFindsWhatNobodyReadsAndRestsWhereAllIsWell) {
  const std::string path = Closed();
  auto store = Open(path);
  ASSERT_TRUE(store.ok()) << store.status();
  {
    const Scrubber scrubber(**store, absl::Milliseconds(100));
    absl::SleepFor(absl::Seconds(2));  // some walks
  }
  EXPECT_EQ((*store)->damage(), "");
  Flip(Files(path, ".sst").back(), 3);
  const Scrubber scrubber(**store, absl::Milliseconds(100));
  const absl::Time end = absl::Now() + absl::Seconds(60);
  while ((*store)->damage().empty() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_THAT((*store)->damage(), testing::HasSubstr(".sst"));
}

TEST_F(StoreDamageTest, WhatWasSetAsideFirstStaysUntilAllIsBack) {
  const std::string path = Closed();
  const std::string kept = Files(path, ".sst").front().filename();
  ASSERT_TRUE(WriteDamageMark(path, {DamageMark::Extent::kData, "a test says so"}).ok());
  ASSERT_TRUE(Open(path).ok());
  ASSERT_TRUE(WriteDamageMark(path, {DamageMark::Extent::kData, "and again"}).ok());
  auto store = Open(path);
  ASSERT_TRUE(store.ok()) << store.status();
  ExpectInDoubt(**store, true);
  EXPECT_TRUE(fs::exists(path + "/damaged/" + kept));
}

// Whatever is hit: it opens in the end, and says nothing that it cannot know.
TEST_F(StoreDamageTest, WhicheverFileIsDamagedTheFolderOpensAndIsInDoubt) {
  const std::vector<std::string> kinds = {"CURRENT", "MANIFEST-", ".sst"};
  for (const std::string& kind : kinds) {
    for (const bool gone : {false, true}) {
      const std::string path = Closed();
      const fs::path hit = Files(path, kind).front();
      if (gone) {
        fs::remove(hit);
      } else {
        WriteFile(hit, std::string(ReadFile(hit).size(), '\x55'));
      }
      SCOPED_TRACE(hit.string() + (gone ? " is gone" : " is garbage"));
      auto store = Open(path);
      if (kind == "CURRENT" && gone) {
        // It may be anybody's folder.
        EXPECT_TRUE(absl::IsFailedPrecondition(store.status())) << store.status();
        continue;
      }
      ASSERT_TRUE(store.ok()) << store.status();
      ExpectInDoubt(**store, true);
    }
  }
}

TEST_F(StoreDamageTest, WithoutSyncedCommitsOnlyAnEndInOrderIsTrusted) {
  sync_wal_ = false;
  const std::string crashed = Crashed();
  {
    auto store = Open(crashed);
    ASSERT_TRUE(store.ok()) << store.status();
    ExpectInDoubt(**store, true);
    ASSERT_TRUE((*store)->RecordJoined({0, 1, 2, 3}).ok());
  }
  auto store = Open(crashed);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_THAT((*store)->record().joined, testing::Each(true)) << "it was closed in order";
  store->reset();

  rf_ = 1;
  const auto refused = Open(Crashed());
  ASSERT_TRUE(absl::IsDataLoss(refused.status())) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()), testing::HasSubstr("--wal=async"));
}

TEST_F(StoreDamageTest, AFolderThatIsInUseIsNotSetAside) {
  const std::string path = Closed();
  auto store = Open(path);
  ASSERT_TRUE(store.ok()) << store.status();
  ASSERT_TRUE(WriteDamageMark(path, {DamageMark::Extent::kData, "a test says so"}).ok());
  RememberingView other;
  EXPECT_TRUE(absl::IsUnavailable(Store::Open(Options(path), other).status()));
  EXPECT_FALSE(fs::exists(path + "/damaged"));
  EXPECT_EQ((*store)->EventCount(), uint64_t{kCommits});
}

}  // namespace
}  // namespace allezon::replica
