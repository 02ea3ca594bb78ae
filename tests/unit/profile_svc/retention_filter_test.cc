// SPDX-License-Identifier: Apache-2.0
#include "profile_svc/retention_filter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "profile_svc/profile_keys.h"
#include "tests/unit/profile_svc/testing.h"

namespace allezon::profile_svc {
namespace {

constexpr absl::Duration kRetention = absl::Hours(24);
constexpr int64_t kRetentionMs = 24 * 3'600'000;
constexpr int64_t kRetentionS = 24 * 3'600;

// The times of all rows in the database, for each prefix, in key order.
std::map<std::string, std::vector<int64_t>> TimesOf(rocksdb::DB& db) {
  std::map<std::string, std::vector<int64_t>> times;
  rocksdb::ReadOptions options;
  options.total_order_seek = true;
  const std::unique_ptr<rocksdb::Iterator> it(db.NewIterator(options));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const auto key = ParseKey(it->key().ToStringView());
    times[key ? std::string(key->prefix) : "?"].push_back(key ? key->time_ms : 0);
  }
  EXPECT_TRUE(it->status().ok());
  return times;
}

std::vector<int64_t> OnlyTimesOf(rocksdb::DB& db) {
  const auto times = TimesOf(db);
  EXPECT_LE(times.size(), 1u);
  return times.empty() ? std::vector<int64_t>() : times.begin()->second;
}

// The first second of the agreed time at which what was accepted at kAcceptedS is old enough.
constexpr uint32_t kAcceptedS = 1000;
constexpr int64_t kOldEnoughS = kAcceptedS + kRetentionS + 1;

std::vector<Row> RowsOf(int count) {
  std::vector<Row> rows;
  for (int i = 0; i < count; ++i) {
    rows.push_back({.time_ms = i, .id = static_cast<uint64_t>(i), .accepted_s = kAcceptedS});
  }
  return rows;
}

void SetNewest(ViewInDb& db, int64_t newest_time_ms) {
  db.log.newest_time_ms = newest_time_ms;
  db.Tick();
}

TEST(RetentionFilterTest, FiveThousandTagsLeaveTheNewest200) {
  ViewInDb db(kRetention);
  db.Put(RowsOf(5000));
  db.SetAgreedNow(absl::FromUnixSeconds(kOldEnoughS));
  SetNewest(db, 5000 + kRetentionMs);
  db.CompactAll();
  std::vector<int64_t> expected;
  for (int64_t t = 4999; t >= 4800; --t) expected.push_back(t);
  EXPECT_EQ(OnlyTimesOf(db.db()), expected);
}

TEST(RetentionFilterTest, WhatIsYoungInTagTimeStays) {
  ViewInDb db(kRetention);
  db.Put(RowsOf(5000));
  db.SetAgreedNow(absl::FromUnixSeconds(kOldEnoughS));
  // Times below 1,000 are before T - retention; 1,000 itself is not.
  SetNewest(db, 1000 + kRetentionMs);
  db.CompactAll();
  const std::vector<int64_t> times = OnlyTimesOf(db.db());
  EXPECT_EQ(times.size(), 4000u);
  EXPECT_EQ(times.front(), 4999);
  EXPECT_EQ(times.back(), 1000);
}

TEST(RetentionFilterTest, WhatWasAcceptedLessThanTheRetentionAgoStays) {
  ViewInDb db(kRetention);
  std::vector<Row> rows = RowsOf(1000);
  for (size_t i = 0; i < rows.size(); i += 2) rows[i].accepted_s = kAcceptedS + 1;
  db.Put(rows);
  SetNewest(db, 5000 + kRetentionMs);
  // One that was accepted at second 1,000 may have been so at 1,000.999.
  db.SetAgreedNow(absl::FromUnixSeconds(kOldEnoughS) - absl::Nanoseconds(1));
  db.CompactAll();
  EXPECT_EQ(OnlyTimesOf(db.db()).size(), 1000u);
  db.SetAgreedNow(absl::FromUnixSeconds(kOldEnoughS));
  db.CompactAll();
  // The newest 200, and of the 800 others those accepted a second later.
  EXPECT_EQ(OnlyTimesOf(db.db()).size(), 200u + 400u);
  db.SetAgreedNow(absl::FromUnixSeconds(kOldEnoughS + 1));
  db.CompactAll();
  EXPECT_EQ(OnlyTimesOf(db.db()).size(), 200u);
}

TEST(RetentionFilterTest, NothingGoesBeforeAnythingWasAccepted) {
  ViewInDb db(absl::ZeroDuration());
  db.Put(RowsOf(1000));
  db.CompactAll();
  EXPECT_EQ(OnlyTimesOf(db.db()).size(), 1000u);
}

TEST(RetentionFilterTest, NothingGoesWhileNodesDoNotAgreeOnTheTime) {
  ViewInDb db(kRetention);
  db.SetAgreedNow(absl::InfinitePast());
  db.Reopen();  // so that it never knew
  db.Put(RowsOf(1000));
  SetNewest(db, 5000 + kRetentionMs);
  db.CompactAll();
  EXPECT_EQ(OnlyTimesOf(db.db()).size(), 1000u);
}

// However much time this node thinks has passed.
TEST(RetentionFilterTest, WhereTheAgreedTimeStandsStillSoDoesWhatMayGo) {
  ViewInDb db(kRetention);
  std::vector<Row> rows = RowsOf(1000);
  for (size_t i = 0; i < rows.size(); i += 2) rows[i].accepted_s = kAcceptedS + 1;
  db.Put(rows);
  SetNewest(db, 5000 + kRetentionMs);
  db.SetAgreedNow(absl::FromUnixSeconds(kOldEnoughS));
  // What was known stays known.
  db.SetAgreedNow(absl::InfinitePast());
  for (int round = 0; round < 3; ++round) {
    db.CompactAll();
    EXPECT_EQ(OnlyTimesOf(db.db()).size(), 200u + 400u);
  }
  db.SetAgreedNow(absl::FromUnixSeconds(kOldEnoughS + 1));
  db.CompactAll();
  EXPECT_EQ(OnlyTimesOf(db.db()).size(), 200u);
}

TEST(RetentionFilterTest, ALongRetentionDoesNotOverflow) {
  ViewInDb db(absl::InfiniteDuration());
  std::vector<Row> rows = RowsOf(300);
  rows[0].time_ms = std::numeric_limits<int64_t>::min();
  db.Put(rows);
  SetNewest(db, -5);
  db.CompactAll();
  EXPECT_EQ(OnlyTimesOf(db.db()).size(), 300u);
}

TEST(RetentionFilterTest, CookiesAndActionsAreCountedApart) {
  ViewInDb db(absl::ZeroDuration());
  std::vector<Row> rows;
  for (const std::string& cookie : {std::string("a"), std::string("a\0", 2), std::string("ab")}) {
    for (const v1::Action action : {v1::ACTION_VIEW, v1::ACTION_BUY}) {
      for (int i = 0; i < 150; ++i) {
        rows.push_back({.cookie = cookie, .action = action, .time_ms = i, .id = rows.size()});
      }
    }
  }
  db.Put(rows);
  SetNewest(db, 1'000'000);
  db.CompactAll();
  const auto times = TimesOf(db.db());
  EXPECT_EQ(times.size(), 6u);
  for (const auto& [prefix, of_prefix] : times) EXPECT_EQ(of_prefix.size(), 150u);
}

TEST(RetentionFilterTest, VersionsOfOneKeyCountOnceAndGoAsOne) {
  ViewInDb db(absl::ZeroDuration());
  // 201 rows, each of them in six files; snapshots keep all versions alive through compactions.
  std::vector<const rocksdb::Snapshot*> snapshots;
  for (int file = 0; file < 6; ++file) {
    db.Put(RowsOf(201));
    snapshots.push_back(db.db().GetSnapshot());
    db.Flush();
  }
  SetNewest(db, 1'000'000);
  db.CompactAll();
  EXPECT_EQ(OnlyTimesOf(db.db()).size(), 200u);
  EXPECT_EQ(OnlyTimesOf(db.db()).back(), 1) << "time 0 has 200 newer before it";
  for (const rocksdb::Snapshot* snapshot : snapshots) db.db().ReleaseSnapshot(snapshot);
  db.CompactAll();
  EXPECT_EQ(OnlyTimesOf(db.db()).size(), 200u);
}

// RocksDB asks once for each key; the filter does not depend on it.
TEST(RetentionFilterTest, AKeyThatPassesTwiceCountsOnce) {
  const auto times = std::make_shared<RetentionTimes>();
  times->newest_tag_ms = 1'000'000;
  times->agreed_now_us = absl::ToUnixMicros(absl::FromUnixSeconds(kOldEnoughS));
  RetentionFilterFactory factory(times, absl::ZeroDuration());
  const auto filter = factory.CreateCompactionFilter({});
  std::string value;
  SetAccepted(value, kAcceptedS);
  std::string new_value;
  std::string skip_until;
  for (int i = 0; i <= 200; ++i) {
    std::string key;
    SetPrefix(key, 3, "c", v1::ACTION_VIEW);
    AppendInvertedTime(key, 1000 - i);
    key.append(kEventIdBytes, 'i');
    for (int version = 0; version < 3; ++version) {
      const auto decision = filter->FilterV2(0, key, rocksdb::CompactionFilter::ValueType::kValue,
                                             value, &new_value, &skip_until);
      EXPECT_EQ(decision == rocksdb::CompactionFilter::Decision::kRemove, i == 200) << i;
    }
  }
}

TEST(RetentionFilterTest, ARowBelowDoesNotComeBackWhenItsNewVersionGoes) {
  ViewInDb db(absl::ZeroDuration());
  db.Put(RowsOf(300));
  db.CompactAll();  // nothing may go yet: all 300 are at the bottom
  ASSERT_EQ(OnlyTimesOf(db.db()).size(), 300u);
  db.Put(RowsOf(300));
  db.Flush();
  SetNewest(db, 1'000'000);
  // Only the upper file, into a level above the bottom.
  std::vector<rocksdb::LiveFileMetaData> files;
  db.db().GetLiveFilesMetaData(&files);
  std::vector<std::string> upper;
  for (const auto& file : files) {
    if (file.level == 0) upper.push_back(file.name);
  }
  ASSERT_EQ(upper.size(), 1u);
  ASSERT_LT(upper.size(), files.size());
  ViewInDb::Check(db.db().CompactFiles({}, upper, 1));
  EXPECT_EQ(OnlyTimesOf(db.db()).size(), 200u);
  db.CompactAll();
  EXPECT_EQ(OnlyTimesOf(db.db()).size(), 200u);
}

TEST(RetentionFilterTest, AnIteratorSeesItsOwnMomentThroughACompaction) {
  ViewInDb db(absl::ZeroDuration());
  db.Put(RowsOf(1000));
  db.Flush();
  SetNewest(db, 1'000'000);
  const std::unique_ptr<rocksdb::Iterator> it(db.db().NewIterator({}));
  it->SeekToFirst();
  db.CompactAll();
  int rows = 0;
  for (; it->Valid(); it->Next()) ++rows;
  EXPECT_EQ(rows, 1000);
  EXPECT_EQ(OnlyTimesOf(db.db()).size(), 200u);
}

// Against a deliberately plain second version: whatever is written, flushed, partly compacted and
// reopened in whatever order, the newest 200 are there, nothing is there that was never stored, and
// what is missing was allowed to go when it went.
class RandomCompactionsTest : public ::testing::TestWithParam<uint32_t> {};

struct Oracle {
  using Group = std::pair<std::string, v1::Action>;
  // By key order: newest first, ties by id; with the acceptance.
  std::map<Group, std::map<std::pair<int64_t, uint64_t>, uint32_t>> rows;

  void Add(const Row& row) {
    rows[{row.cookie, row.action}].try_emplace({-row.time_ms, row.id}, row.accepted_s);
  }
};

void CheckAgainst(const Oracle& oracle, ViewInDb& db, int64_t kept_from_ms, int64_t kept_from_s) {
  std::map<Oracle::Group, std::set<std::pair<int64_t, uint64_t>>> found;
  rocksdb::ReadOptions options;
  options.total_order_seek = true;
  const std::unique_ptr<rocksdb::Iterator> it(db.db().NewIterator(options));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const auto value = ParseValue(it->value().ToStringView());
    v1::Tag tag;
    ASSERT_TRUE(value && tag.ParseFromArray(value->tag.data(), value->tag.size()));
    found[{tag.cookie(), tag.action()}].emplace(-tag.time_ms(),
                                                static_cast<uint64_t>(tag.product_info().price()));
  }
  for (const auto& [group, rows] : oracle.rows) {
    const auto& here = found[group];
    size_t newer = 0;
    size_t present = 0;
    for (const auto& [key, accepted_s] : rows) {
      if (here.contains(key)) {
        ++present;
      } else {
        ASSERT_GE(newer, kProfileTagsKept) << "one of the newest 200 has gone";
        ASSERT_LT(-key.first, kept_from_ms) << "gone, though young in tag time";
        ASSERT_LT(accepted_s, kept_from_s) << "gone, though accepted a moment ago";
      }
      ++newer;
    }
    ASSERT_EQ(present, here.size()) << "rows that were never stored";
  }
}

TEST_P(RandomCompactionsTest, OnlyWhatTheRulesAllowIsEverGone) {
  SCOPED_TRACE(absl::StrCat("seed ", GetParam()));
  std::mt19937 random(GetParam());
  const auto below = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
  constexpr int64_t kRetentionShortS = 100;
  ViewInDb db(absl::Seconds(kRetentionShortS));
  db.SetAgreedNow(absl::FromUnixSeconds(10'000));
  Oracle oracle;
  std::vector<Row> stored;
  uint64_t next_id = 0;
  int64_t newest_ms = 0;
  bool something_went = false;
  for (int step = 0; step < 150; ++step) {
    std::vector<Row> batch;
    const uint32_t size = 1 + below(200);
    const std::string cookie = absl::StrCat("c", below(3));
    for (uint32_t i = 0; i < size; ++i) {
      if (!stored.empty() && below(5) == 0) {
        batch.push_back(stored[below(stored.size())]);  // put again, as a hand-over does
        continue;
      }
      Row row;
      row.cookie = cookie;
      row.action = below(4) == 0 ? v1::ACTION_BUY : v1::ACTION_VIEW;
      row.time_ms = below(20) * 50'000;  // many ties, any order
      row.id = next_id++;
      row.accepted_s = static_cast<uint32_t>(absl::ToUnixSeconds(db.agreed_now())) - below(150);
      batch.push_back(row);
      newest_ms = std::max(newest_ms, row.time_ms);
    }
    db.Put(batch);
    for (const Row& row : batch) {
      oracle.Add(row);
      stored.push_back(row);
    }
    db.Flush();
    db.SetAgreedNow(db.agreed_now() + absl::Seconds(below(3)));
    SetNewest(db, newest_ms);
    std::vector<rocksdb::LiveFileMetaData> files;
    db.db().GetLiveFilesMetaData(&files);
    std::vector<std::string> some;
    int deepest = 0;
    for (const auto& file : files) {
      if (below(3) != 0) continue;
      some.push_back(file.name);
      deepest = std::max(deepest, file.level);
    }
    switch (below(6)) {
      case 0:
        db.Reopen();
        break;
      case 1:
        if (below(8) == 0) db.CompactAll();
        break;
      default: {
        // Not every set of files makes a compaction; one that is refused changes nothing.
        const int level = std::max(deepest, 1) + (deepest < 3 ? static_cast<int>(below(2)) : 0);
        if (!some.empty())
          db.db().CompactFiles({}, some, std::min(level, 3)).PermitUncheckedError();
      }
    }
    const int64_t kept_from_ms = newest_ms - kRetentionShortS * 1000;
    const int64_t kept_from_s = absl::ToUnixSeconds(db.agreed_now()) - kRetentionShortS;
    CheckAgainst(oracle, db, kept_from_ms, kept_from_s);
    if (HasFatalFailure()) return;
    size_t here = 0;
    size_t ever = 0;
    for (const auto& [prefix, times] : TimesOf(db.db())) here += times.size();
    for (const auto& [group, rows] : oracle.rows) ever += rows.size();
    something_went = something_went || here < ever;
  }
  EXPECT_TRUE(something_went) << "the filter removed nothing: the test shows nothing";
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomCompactionsTest, ::testing::Range(1u, 7u));

}  // namespace
}  // namespace allezon::profile_svc
