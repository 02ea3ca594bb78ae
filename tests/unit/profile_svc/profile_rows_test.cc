// SPDX-License-Identifier: Apache-2.0
//
// Handing profiles over: what one view gives, another one takes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "absl/strings/str_cat.h"
#include "profile_svc/profile_keys.h"
#include "profile_svc/profile_view.h"
#include "tests/unit/profile_svc/testing.h"

namespace allezon::profile_svc {
namespace {

constexpr int64_t kMinute = router::kMinuteMs;

class ProfileRowsTest : public ::testing::Test {
 protected:
  // All pages; their sizes go to `pages`.
  std::vector<v1::ViewRow> ReadAll(replica::ShardId shard, size_t bytes_max,
                                   std::vector<size_t>* pages = nullptr) {
    std::vector<v1::ViewRow> all;
    std::vector<v1::ViewRow> rows;
    std::string last_key;
    do {
      const std::string after = last_key;
      const absl::Status status = db_.view().ReadRows(shard, after, bytes_max, &rows, &last_key);
      EXPECT_TRUE(status.ok()) << status;
      if (pages != nullptr) pages->push_back(rows.size());
      EXPECT_TRUE(last_key.empty() || last_key > after) << "it would not go on";
      all.insert(all.end(), rows.begin(), rows.end());
    } while (!last_key.empty());
    return all;
  }

  static std::vector<uint64_t> Ids(const std::vector<v1::ViewRow>& rows) {
    std::vector<uint64_t> ids;
    for (const v1::ViewRow& row : rows) {
      const auto value = ParseValue(row.value());
      v1::Tag tag;
      EXPECT_TRUE(value && tag.ParseFromArray(value->tag.data(), value->tag.size()));
      ids.push_back(static_cast<uint64_t>(tag.product_info().price()));
    }
    return ids;
  }

  static absl::Status Put(ViewInDb& db, replica::ShardId shard,
                          const std::vector<v1::ViewRow>& rows) {
    rocksdb::WriteBatch batch;
    const absl::Status status = db.view().StageRows(shard, rows, batch);
    if (status.ok()) ViewInDb::Check(db.db().Write({}, &batch));
    return status;
  }

  ViewInDb db_{absl::Hours(24)};
};

TEST_F(ProfileRowsTest, ExactlyTheRowsThatRetentionTookFromTheLogAreGiven) {
  db_.Put({{.cookie = "a", .time_ms = 1, .id = 1, .accepted_s = 1000},
           {.cookie = "a", .time_ms = 2, .id = 2, .accepted_s = 1001},
           {.cookie = "a", .time_ms = kMinute, .id = 3, .accepted_s = 999},
           {.cookie = "b", .action = v1::ACTION_BUY, .time_ms = 3, .id = 4, .accepted_s = 500},
           {.cookie = "b", .time_ms = -1, .id = 5, .accepted_s = 7},
           {.shard = 2, .cookie = "a", .time_ms = 1, .id = 6, .accepted_s = 1},
           {.shard = 2, .cookie = "a", .time_ms = 1, .id = 7, .accepted_s = 2},
           {.shard = 4, .cookie = "a", .time_ms = 1, .id = 8, .accepted_s = 1}});
  EXPECT_TRUE(ReadAll(3, 1 << 20).empty()) << "the log has them all";
  db_.log.removed_through_s = {{{3, 0}, 1000}, {{3, -1}, 7}, {{2, 0}, 1}};
  for (const bool on_disk : {false, true}) {
    if (on_disk) db_.Flush();
    EXPECT_THAT(Ids(ReadAll(3, 1 << 20)), ::testing::ElementsAre(1, 5, 4));
    EXPECT_THAT(Ids(ReadAll(2, 1 << 20)), ::testing::ElementsAre(6));
    EXPECT_TRUE(ReadAll(4, 1 << 20).empty()) << "its bucket was not expired";
    EXPECT_TRUE(ReadAll(5, 1 << 20).empty());
  }
}

TEST_F(ProfileRowsTest, PagesPutTogetherAreAllRowsAndAnEmptyReplicaReadsTheSame) {
  std::vector<Row> rows;
  for (uint64_t i = 0; i < 3'000; ++i) {
    rows.push_back({.cookie = absl::StrCat("cookie", i % 40),
                    .action = i % 3 == 0 ? v1::ACTION_BUY : v1::ACTION_VIEW,
                    .time_ms = static_cast<int64_t>(i % 977),
                    .id = i,
                    .accepted_s = i % 2 == 0 ? 1000u : 3000u});
  }
  db_.Put(rows);
  db_.log.removed_through_s = {{{3, 0}, 1000}};
  const std::vector<v1::ViewRow> whole = ReadAll(3, 1 << 30);
  EXPECT_EQ(whole.size(), 1'500u);
  std::vector<size_t> pages;
  const std::vector<v1::ViewRow> paged = ReadAll(3, 10'000, &pages);
  EXPECT_GT(pages.size(), 5u);
  ASSERT_EQ(paged.size(), whole.size());
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_EQ(paged[i].SerializeAsString(), whole[i].SerializeAsString());
  }
  ViewInDb empty(absl::Hours(24));
  for (int round = 0; round < 2; ++round) {  // again changes nothing
    ASSERT_TRUE(Put(empty, 3, paged).ok());
    size_t found = 0;
    for (int cookie = 0; cookie < 40; ++cookie) {
      v1::ReadProfileResponse response;
      ASSERT_TRUE(
          empty.view().Read(3, absl::StrCat("cookie", cookie), 0, 1'000, 200, response).ok());
      found += response.views().time_ms_size() + response.buys().time_ms_size();
    }
    EXPECT_EQ(found, 1'500u);
  }
}

TEST_F(ProfileRowsTest, APageEndsAfterABoundedNumberOfRowsAlsoWithNone) {
  std::vector<Row> rows;
  const auto kept = static_cast<uint64_t>(kPageRowsScannedMax + 1'000);
  rows.push_back({.cookie = "c1", .time_ms = 5, .id = 0, .accepted_s = 1});
  for (uint64_t i = 1; i <= kept; ++i) {
    rows.push_back({.cookie = "c2", .time_ms = 5, .id = i, .accepted_s = 3000});
  }
  for (uint64_t i = 0; i < kept; ++i) {
    rows.push_back({.cookie = "c3", .time_ms = 5, .id = i, .accepted_s = 3000});
  }
  rows.push_back({.cookie = "c4", .time_ms = 5, .id = kept + 1, .accepted_s = 1});
  db_.Put(rows);
  db_.log.removed_through_s = {{{3, 0}, 1000}};
  std::vector<size_t> pages;
  EXPECT_THAT(Ids(ReadAll(3, 1 << 20, &pages)), ::testing::ElementsAre(0, kept + 1));
  EXPECT_THAT(pages, ::testing::ElementsAre(1, 0, 1));
}

TEST_F(ProfileRowsTest, WhatIsNoRowOfTheShardIsRefused) {
  db_.Put({{.cookie = "c", .time_ms = 5, .id = 1, .accepted_s = 10}});
  db_.log.removed_through_s = {{{3, 0}, 1000}};
  const std::vector<v1::ViewRow> rows = ReadAll(3, 1 << 20);
  ASSERT_EQ(rows.size(), 1u);
  const v1::ViewRow& good = rows[0];
  const auto refused = [&](replica::ShardId shard, const v1::ViewRow& bad) {
    EXPECT_EQ(Put(db_, shard, {good, bad}).code(), absl::StatusCode::kInvalidArgument);
  };
  refused(4, good);
  v1::ViewRow bad = good;
  bad.set_key("");
  refused(3, bad);
  bad.set_key(good.key() + "x");
  refused(3, bad);
  for (const char* field : {"cookie", "action", "time"}) {
    std::string key;
    SetPrefix(key, 3, field == std::string("cookie") ? "d" : "c",
              field == std::string("action") ? v1::ACTION_BUY : v1::ACTION_VIEW);
    AppendInvertedTime(key, field == std::string("time") ? 6 : 5);
    key.append(kEventIdBytes, 'x');
    bad.set_key(key);
    refused(3, bad);
  }
  bad = good;
  bad.set_value("abc");
  refused(3, bad);
  bad.set_value(good.value() + "no tag");
  refused(3, bad);
  bad.set_value(good.value().substr(0, kAcceptedBytes));  // a tag of no action
  refused(3, bad);
  EXPECT_TRUE(Put(db_, 3, {good}).ok());
}

TEST_F(ProfileRowsTest, ReadingAfterAKeyOfAnotherShardOrOverABrokenRowIsAnError) {
  std::vector<v1::ViewRow> rows;
  std::string last_key;
  EXPECT_EQ(db_.view().ReadRows(3, ShardPrefix(4), 1000, &rows, &last_key).code(),
            absl::StatusCode::kInvalidArgument);
  ViewInDb::Check(db_.db().Put({}, ShardPrefix(3) + "broken", "abcd"));
  EXPECT_EQ(db_.view().ReadRows(3, "", 1000, &rows, &last_key).code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace allezon::profile_svc
