// SPDX-License-Identifier: Apache-2.0
//
// The profile view in the store that it is made for.
#include "replica/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "profile_svc/profile_view.h"
#include "tests/unit/replica/testing.h"

namespace allezon::profile_svc {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

class ProfileStoreTest : public ::testing::Test {
 protected:
  void Open() { OpenIn(""); }
  void OpenIn(const std::string& subfolder) {
    view_ = std::make_unique<ProfileView>(kRetention);
    replica::StoreOptions options;
    options.path = folder_.path() + subfolder;
    options.service = "profile";
    options.retention = kRetention;
    options.clock = [this] { return now_; };
    auto store = replica::Store::Open(options, *view_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  void Close() {
    store_.reset();
    view_.reset();
  }
  int Views(const std::string& cookie) {
    v1::ReadProfileResponse response;
    const absl::Status status =
        view_->Read(router::ShardOf(cookie, 128), cookie, 0, kMax, 200, response);
    EXPECT_TRUE(status.ok()) << status;
    return response.views().time_ms_size();
  }

  static constexpr absl::Duration kRetention = absl::Minutes(10);
  replica::TempFolder folder_;
  absl::Time now_ = absl::FromUnixSeconds(2000);
  std::unique_ptr<ProfileView> view_;
  std::unique_ptr<replica::Store> store_;
};

TEST_F(ProfileStoreTest, WhatIsCommittedIsReadAlsoAfterAReopen) {
  Open();
  replica::Entries entries;
  for (int i = 0; i < 20; ++i) entries.Add(absl::StrCat("c", i % 2), 1000 + i);
  ASSERT_TRUE(store_->Commit(entries.all()).ok());
  ASSERT_TRUE(store_->Commit(entries.all()).ok()) << "a retry";
  EXPECT_EQ(Views("c0"), 10);
  EXPECT_EQ(Views("c1"), 10);
  Close();
  Open();
  EXPECT_EQ(Views("c0"), 10);
  EXPECT_EQ(Views("c1"), 10);
  EXPECT_EQ(Views("c2"), 0);
  Close();
}

TEST_F(ProfileStoreTest, ProfilesOutliveTheLog) {
  Open();
  replica::Entries entries;
  entries.Add("c", 0, "", 1000);
  entries.Add("other", 60 * 60'000, "", 2000);
  ASSERT_TRUE(store_->Commit(entries.all()).ok());
  replica::ExpireOld(*store_, 1000);
  EXPECT_EQ(store_->EventCount(), 1u) << "retention took the old event";
  EXPECT_EQ(Views("c"), 1);
  Close();
  Open();
  EXPECT_EQ(Views("c"), 1);
  Close();
}

// The same price in the same profile, whichever came first, also when the rows' keys are the same.
TEST_F(ProfileStoreTest, AKeyThatIsUsedAgainWithAnotherTagLeavesTheSameRowInAnyOrder) {
  int number = 0;
  for (const int64_t other_time_ms : {1000, 1500, 10 * 60'000}) {
    std::set<std::string> outcomes;
    for (const bool swapped : {false, true}) {
      const std::string folder = absl::StrCat("/", number++);
      OpenIn(folder);
      replica::Entries entries;
      replica::LogEntry first = entries.Add("c", 1000, "key", 1000, 1);
      replica::LogEntry second = entries.Add("c", other_time_ms, "key", 1000, 2);
      if (swapped) std::swap(first, second);
      ASSERT_TRUE(store_->Commit({first}).ok());
      ASSERT_TRUE(store_->Commit({second}).ok());
      EXPECT_EQ(Views("c"), 1);
      Close();
      OpenIn(folder);
      v1::ReadProfileResponse response;
      ASSERT_TRUE(view_->Read(router::ShardOf("c", 128), "c", 0, kMax, 200, response).ok());
      ASSERT_EQ(response.views().time_ms_size(), 1);
      outcomes.insert(response.views().SerializeAsString());
      Close();
    }
    EXPECT_EQ(outcomes.size(), 1u) << other_time_ms;
  }
}

TEST_F(ProfileStoreTest, AnEmptyDiskGetsWhatTheLogNoLongerHas) {
  OpenIn("/full");
  replica::Entries entries;
  entries.Add("c", 0, "", 1000);
  entries.Add("c", 60 * 60'000, "", 2000);
  ASSERT_TRUE(store_->Commit(entries.all()).ok());
  replica::ExpireOld(*store_, 1000);
  v1::ReadRowsRequest request;
  request.set_shard(router::ShardOf("c", 128));
  v1::ReadExpiredRequest of_shard;
  of_shard.add_shards(request.shard());
  v1::ReadExpiredResponse expired;
  ASSERT_TRUE(store_->ReadExpired(of_shard, expired).ok());
  v1::ReadRowsResponse rows;
  ASSERT_TRUE(store_->ReadRows(request, rows).ok());
  EXPECT_EQ(rows.rows_size(), 1);
  EXPECT_EQ(rows.last_key(), "");
  Close();
  for (int round = 0; round < 2; ++round) {
    OpenIn("/empty");
    replica::ExpireAll(*store_, {expired.ranges().begin(), expired.ranges().end()});
    const std::vector<v1::ViewRow> got(rows.rows().begin(), rows.rows().end());
    ASSERT_TRUE(store_->PutRows(request.shard(), got).ok());
    ASSERT_TRUE(store_->Commit({entries.all()[1]}).ok());
    EXPECT_EQ(Views("c"), 2);
    // It can hand them over in turn.
    v1::ReadRowsResponse again;
    ASSERT_TRUE(store_->ReadRows(request, again).ok());
    EXPECT_EQ(again.SerializeAsString(), rows.SerializeAsString());
    Close();
  }
}

}  // namespace
}  // namespace allezon::profile_svc
