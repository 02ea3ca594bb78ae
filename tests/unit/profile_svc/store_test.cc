// SPDX-License-Identifier: Apache-2.0
//
// The profile view in the store that it is made for.
#include "replica/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "absl/strings/str_cat.h"
#include "profile_svc/profile_view.h"
#include "tests/unit/replica/testing.h"

namespace allezon::profile_svc {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

class ProfileStoreTest : public ::testing::Test {
 protected:
  void Open() {
    view_ = std::make_unique<ProfileView>(kRetention, [this] { return now_; });
    replica::StoreOptions options;
    options.path = folder_.path();
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
    return response.views_size();
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
  while (store_->Maintain()) {
  }
  EXPECT_EQ(store_->EventCount(), 1u) << "retention took the old event";
  EXPECT_EQ(Views("c"), 1);
  Close();
  Open();
  EXPECT_EQ(Views("c"), 1);
  Close();
}

}  // namespace
}  // namespace allezon::profile_svc
