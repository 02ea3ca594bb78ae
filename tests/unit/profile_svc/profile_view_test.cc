// SPDX-License-Identifier: Apache-2.0
#include "profile_svc/profile_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "absl/strings/str_cat.h"
#include "profile_svc/profile_keys.h"
#include "router/stored_tags.h"
#include "tests/unit/profile_svc/testing.h"

namespace allezon::profile_svc {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

// The ids of the rows of an action, by number.
std::vector<uint64_t> Ids(const v1::StoredTags& columns) {
  const auto rows = router::ReadStoredTags(columns);
  EXPECT_TRUE(rows.ok()) << rows.status();
  std::vector<uint64_t> ids;
  for (const router::StoredTag& row : rows.value_or(std::vector<router::StoredTag>())) {
    v1::Tag tag;
    EXPECT_TRUE(tag.ParseFromArray(row.tag.data(), static_cast<int>(row.tag.size())));
    EXPECT_EQ(tag.time_ms(), row.time_ms);
    const auto number = static_cast<uint64_t>(tag.product_info().price());
    EXPECT_EQ(row.event_id, router::AsBytes(IdOf(number)));
    ids.push_back(number);
  }
  return ids;
}

class ProfileViewTest : public ::testing::Test {
 protected:
  v1::ReadProfileResponse Read(std::string_view cookie, int64_t from_ms = kMin,
                               int64_t to_ms = kMax, uint32_t limit = 200,
                               replica::ShardId shard = 3) {
    v1::ReadProfileResponse response;
    const absl::Status status = db_.view().Read(shard, cookie, from_ms, to_ms, limit, response);
    EXPECT_TRUE(status.ok()) << status;
    return response;
  }
  std::vector<uint64_t> Views(std::string_view cookie, int64_t from_ms = kMin, int64_t to_ms = kMax,
                              uint32_t limit = 200) {
    return Ids(Read(cookie, from_ms, to_ms, limit).views());
  }

  ViewInDb db_{absl::Hours(24)};
};

TEST_F(ProfileViewTest, UnknownCookieHasTwoEmptyLists) {
  const v1::ReadProfileResponse response = Read("nobody");
  EXPECT_THAT(Ids(response.views()), IsEmpty());
  EXPECT_THAT(Ids(response.buys()), IsEmpty());
}

TEST_F(ProfileViewTest, NewestFirstAndActionsApart) {
  db_.Put({{.time_ms = 10, .id = 1},
           {.time_ms = 30, .id = 2},
           {.action = v1::ACTION_BUY, .time_ms = 25, .id = 3},
           {.time_ms = 20, .id = 4},
           {.action = v1::ACTION_BUY, .time_ms = 35, .id = 5}});
  const v1::ReadProfileResponse response = Read("c");
  EXPECT_THAT(Ids(response.views()), ElementsAre(2, 4, 1));
  EXPECT_THAT(Ids(response.buys()), ElementsAre(5, 3));
}

TEST_F(ProfileViewTest, TiesGoByEventIdHoweverTheyCame) {
  db_.Put({{.time_ms = 10, .id = 300}});
  db_.Flush();
  db_.Put({{.time_ms = 10, .id = 2}, {.time_ms = 11, .id = 9}});
  db_.Flush();
  db_.Put({{.time_ms = 10, .id = 17}});
  EXPECT_THAT(Views("c"), ElementsAre(9, 2, 17, 300));
  db_.CompactAll();
  EXPECT_THAT(Views("c"), ElementsAre(9, 2, 17, 300));
  db_.Reopen();
  EXPECT_THAT(Views("c"), ElementsAre(9, 2, 17, 300));
}

TEST_F(ProfileViewTest, TheSameEventTwiceStandsOnce) {
  db_.Put({{.time_ms = 10, .id = 1}});
  db_.Put({{.time_ms = 10, .id = 1}});
  EXPECT_THAT(Views("c"), ElementsAre(1));
}

// Of an event whose bucket has expired, and of one that is there and was accepted once more.
TEST_F(ProfileViewTest, WhatIsStagedAgainStandsOnceWithItsLaterAcceptance) {
  db_.Put({{.time_ms = 10, .id = 1, .accepted_s = 1000}});
  std::vector<std::string> bytes;
  std::vector<v1::Tag> tags(2);
  std::vector<replica::LogEntry> entries(2);
  for (uint64_t i = 0; i < 2; ++i) {
    bytes.push_back(TagOf({.time_ms = static_cast<int64_t>(10 * (i + 1)), .id = i + 1}));
    tags[i].ParseFromString(bytes[i]);
  }
  for (uint64_t i = 0; i < 2; ++i) {
    entries[i].shard = 3;
    entries[i].time_ms = static_cast<int64_t>(10 * (i + 1));
    entries[i].id = IdOf(i + 1);
    entries[i].accepted_s = 2000;
    entries[i].tag = bytes[i];
    entries[i].parsed = &tags[i];
  }
  rocksdb::WriteBatch batch;
  db_.view().StageAgain(entries, batch);
  ViewInDb::Check(db_.db().Write({}, &batch));
  EXPECT_THAT(Views("c"), ElementsAre(2, 1));
  db_.log.removed_through_s = {{{3, 0}, 1999}};
  std::vector<v1::ViewRow> rows;
  std::string last_key;
  ASSERT_TRUE(db_.view().ReadRows(3, "", 1 << 20, &rows, &last_key).ok());
  EXPECT_TRUE(rows.empty()) << "the log still has the one, as accepted later";
}

TEST_F(ProfileViewTest, RangesAreHalfOpen) {
  db_.Put({{.time_ms = 10, .id = 1}, {.time_ms = 20, .id = 2}, {.time_ms = 30, .id = 3}});
  EXPECT_THAT(Views("c", 10, 30), ElementsAre(2, 1));
  EXPECT_THAT(Views("c", 11, 31), ElementsAre(3, 2));
  EXPECT_THAT(Views("c", 20, 21), ElementsAre(2));
  EXPECT_THAT(Views("c", 20, 20), IsEmpty());
  EXPECT_THAT(Views("c", 30, 10), IsEmpty());
  EXPECT_THAT(Views("c", 31, kMax), IsEmpty());
  EXPECT_THAT(Views("c", kMin, 10), IsEmpty());
}

TEST_F(ProfileViewTest, EveryInt64IsAFineBound) {
  // The largest event id stands right before the next time.
  db_.Put({{.time_ms = kMin, .id = 1},
           {.time_ms = kMin, .id = 0x7fffffff},
           {.time_ms = -1, .id = 2},
           {.time_ms = 0, .id = 3},
           {.time_ms = kMax - 1, .id = 4},
           {.time_ms = kMax, .id = 5}});
  EXPECT_THAT(Views("c", kMin, kMax), ElementsAre(4, 3, 2, 1, 0x7fffffff));
  EXPECT_THAT(Views("c", kMin, kMin), IsEmpty());
  EXPECT_THAT(Views("c", kMin, kMin + 1), ElementsAre(1, 0x7fffffff));
  EXPECT_THAT(Views("c", kMax, kMin), IsEmpty());
  EXPECT_THAT(Views("c", kMax - 1, kMax), ElementsAre(4));
  EXPECT_THAT(Views("c", -1, 1), ElementsAre(3, 2));
}

TEST_F(ProfileViewTest, TheLargestEventIdIsInTheRange) {
  rocksdb::WriteBatch batch;
  replica::LogEntry entry;
  const std::string bytes = TagOf({.time_ms = 7});
  v1::Tag tag;
  tag.ParseFromString(bytes);
  entry.shard = 3;
  entry.time_ms = 7;
  entry.id.fill('\xff');
  entry.tag = bytes;
  entry.parsed = &tag;
  db_.view().Stage({&entry, 1}, batch);
  ViewInDb::Check(db_.db().Write({}, &batch));
  EXPECT_EQ(Read("c", 7, 8).views().time_ms_size(), 1);
  EXPECT_EQ(Read("c", kMin, 8).views().time_ms_size(), 1);
}

TEST_F(ProfileViewTest, LimitAppliesToEachActionAfterTheRange) {
  std::vector<Row> rows;
  for (uint64_t i = 0; i < 300; ++i) {
    rows.push_back({.time_ms = static_cast<int64_t>(i), .id = i});
    rows.push_back({.action = v1::ACTION_BUY, .time_ms = static_cast<int64_t>(i), .id = 1000 + i});
  }
  db_.Put(rows);
  const v1::ReadProfileResponse all = Read("c");
  EXPECT_EQ(all.views().time_ms_size(), 200);
  EXPECT_EQ(all.buys().time_ms_size(), 200);
  EXPECT_EQ(all.views().time_ms(0), 299);
  EXPECT_EQ(all.views().time_ms(199), 100);
  EXPECT_THAT(Views("c", 50, 60, 3), ElementsAre(59, 58, 57));
  EXPECT_THAT(Ids(Read("c", 50, 60, 3).buys()), ElementsAre(1059, 1058, 1057));
  EXPECT_THAT(Views("c", 50, 60, 0), IsEmpty());
  EXPECT_THAT(Views("c", 50, 52, 200), ElementsAre(51, 50));
}

TEST_F(ProfileViewTest, CookiesThatBeginOtherCookiesStayApart) {
  const std::vector<std::string> cookies = {"a",
                                            "ab",
                                            "abc",
                                            std::string("a\0", 2),
                                            std::string("a\0b", 3),
                                            std::string("\0", 1),
                                            std::string("\0\0", 2),
                                            "\u07ff",
                                            std::string(256, 'a'),
                                            std::string(255, 'a')};
  std::vector<Row> rows;
  for (size_t i = 0; i < cookies.size(); ++i) {
    rows.push_back({.cookie = cookies[i], .time_ms = 5, .id = i});
    rows.push_back({.shard = 4, .cookie = cookies[i], .time_ms = 5, .id = 100 + i});
  }
  db_.Put(rows);
  for (const bool on_disk : {false, true}) {
    if (on_disk) db_.Flush();
    for (size_t i = 0; i < cookies.size(); ++i) {
      EXPECT_THAT(Views(cookies[i]), ElementsAre(i)) << "cookie " << i;
      EXPECT_THAT(Ids(Read(cookies[i], kMin, kMax, 200, 4).views()), ElementsAre(100 + i));
    }
  }
}

TEST_F(ProfileViewTest, ManyCookiesOverManyFilesAndAReopen) {
  constexpr int kCookies = 500;
  for (uint64_t round = 0; round < 4; ++round) {
    std::vector<Row> rows;
    for (uint64_t c = 0; c < kCookies; ++c) {
      rows.push_back({.shard = static_cast<replica::ShardId>(c % 7),
                      .cookie = absl::StrCat("cookie-", c),
                      .time_ms = static_cast<int64_t>(round),
                      .id = c * 10 + round});
    }
    db_.Put(rows);
    if (round < 3) db_.Flush();
    if (round == 1) db_.CompactAll();
  }
  for (const bool reopened : {false, true}) {
    if (reopened) db_.Reopen();
    for (uint64_t c = 0; c < kCookies; ++c) {
      const v1::ReadProfileResponse response =
          Read(absl::StrCat("cookie-", c), kMin, kMax, 200, static_cast<replica::ShardId>(c % 7));
      EXPECT_THAT(Ids(response.views()), ElementsAre(c * 10 + 3, c * 10 + 2, c * 10 + 1, c * 10));
      EXPECT_THAT(Ids(response.buys()), IsEmpty());
    }
  }
}

TEST_F(ProfileViewTest, ARowThatCannotBeReadIsAnErrorNotAGap) {
  db_.Put({{.time_ms = 10, .id = 1}, {.time_ms = 30, .id = 2}});
  std::string key;
  SetPrefix(key, 3, "c", v1::ACTION_VIEW);
  AppendInvertedTime(key, 20);
  const std::string short_key = key + "short";
  const std::string whole_key = key + std::string(kEventIdBytes, 'x');
  v1::ReadProfileResponse response;
  for (const auto& [bad_key, bad_value] :
       {std::pair(short_key, std::string("abcdtag")), std::pair(whole_key, std::string("abc"))}) {
    ViewInDb::Check(db_.db().Put({}, bad_key, bad_value));
    EXPECT_EQ(db_.view().Read(3, "c", kMin, kMax, 200, response).code(),
              absl::StatusCode::kDataLoss);
    // Outside of what was asked for it does not matter.
    EXPECT_THAT(Views("c", 21, kMax), ElementsAre(2));
    db_.CompactAll();
    EXPECT_EQ(db_.view().Read(3, "c", kMin, kMax, 200, response).code(),
              absl::StatusCode::kDataLoss)
        << "compaction must not hide it";
    ViewInDb::Check(db_.db().Delete({}, bad_key));
  }
  EXPECT_THAT(Views("c"), ElementsAre(2, 1));
}

TEST_F(ProfileViewTest, MemoryOnlyReadsSayWhereTheDiskIsNeeded) {
  db_.Put({{.time_ms = 10, .id = 1}});
  v1::ReadProfileResponse response;
  using Tier = ProfileView::Tier;
  ASSERT_TRUE(db_.view().Read(3, "c", kMin, kMax, 200, response, Tier::kMemoryOnly).ok());
  EXPECT_THAT(Ids(response.views()), ElementsAre(1));
  db_.Flush();
  db_.Reopen();
  EXPECT_EQ(db_.view().Read(3, "c", kMin, kMax, 200, response, Tier::kMemoryOnly).code(),
            absl::StatusCode::kAborted);
  ASSERT_TRUE(db_.view().Read(3, "c", kMin, kMax, 200, response).ok());
  EXPECT_THAT(Ids(response.views()), ElementsAre(1));
  // Now it is cached.
  ASSERT_TRUE(db_.view().Read(3, "c", kMin, kMax, 200, response, Tier::kMemoryOnly).ok());
  EXPECT_THAT(Ids(response.views()), ElementsAre(1));
}

}  // namespace
}  // namespace allezon::profile_svc
