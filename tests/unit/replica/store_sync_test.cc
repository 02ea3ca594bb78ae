// SPDX-License-Identifier: Apache-2.0
//
// What a store offers to peers, and takes from them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <thread>

#include "replica/store.h"
#include "testing.h"

namespace allezon::replica {
namespace {

using testing::ElementsAre;

std::string IdOf(const LogEntry& entry) { return std::string(router::AsBytes(entry.id)); }

class StoreSyncTest : public testing::Test {
 protected:
  void SetUp() override { Reopen(); }
  void Reopen() {
    store_.reset();
    StoreOptions options;
    options.path = folder_.path() + "/data";
    options.service = "profile";
    options.sync_wal = false;
    auto store = Store::Open(options, view_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  v1::ReadDigestsResponse Digests(v1::DigestLevel level, std::vector<uint32_t> shards,
                                  std::vector<int64_t> hours = {},
                                  std::optional<v1::SetDigest> after = {}) {
    v1::ReadDigestsRequest request;
    request.set_level(level);
    request.mutable_shards()->Assign(shards.begin(), shards.end());
    request.mutable_hours()->Assign(hours.begin(), hours.end());
    if (after) *request.mutable_after() = *after;
    v1::ReadDigestsResponse response;
    const absl::Status status = store_->ReadDigests(request, response);
    EXPECT_TRUE(status.ok()) << status;
    return response;
  }

  TempFolder folder_;
  RememberingView view_;
  std::unique_ptr<Store> store_;
};

TEST_F(StoreSyncTest, DigestsOfEveryLevelAreThoseOfTheLogAlsoAfterAReopen) {
  Entries entries;
  const std::vector<int64_t> minutes = {-61, -1, 0, 59, 60, 61};
  std::map<std::pair<ShardId, int64_t>, Digest> by_minute;
  std::map<std::pair<ShardId, int64_t>, Digest> by_hour;
  std::map<ShardId, Digest> by_shard;
  for (int i = 0; i < 300; ++i) {
    const LogEntry& entry =
        entries.Add(absl::StrCat("c", i), minutes[i % minutes.size()] * router::kMinuteMs + i);
    const std::string id = IdOf(entry);
    by_minute[{entry.shard, entry.minute}].Add(id, entry.tag);
    by_hour[{entry.shard, HourOf(entry.minute)}].Add(id, entry.tag);
    by_shard[entry.shard].Add(id, entry.tag);
  }
  ASSERT_TRUE(store_->Commit(entries.all()).ok());
  std::vector<uint32_t> all_shards(128);
  for (uint32_t shard = 0; shard < 128; ++shard) all_shards[shard] = 127 - shard;
  for (int round = 0; round < 2; ++round) {
    const auto check = [](const v1::SetDigest& got, const Digest& want) {
      EXPECT_EQ(got.count(), want.count);
      EXPECT_EQ(got.sum_low(), absl::Uint128Low64(want.sum));
      EXPECT_EQ(got.sum_high(), absl::Uint128High64(want.sum));
    };
    const auto shards = Digests(v1::DIGEST_LEVEL_SHARD, all_shards);
    ASSERT_EQ(size_t(shards.digests_size()), by_shard.size()) << "only those that are not empty";
    int at = 0;
    for (const auto& [shard, digest] : by_shard) {
      EXPECT_EQ(shards.digests(at).shard(), shard);
      check(shards.digests(at++), digest);
      EXPECT_EQ(store_->ShardDigest(shard), digest);
    }
    const auto hours = Digests(v1::DIGEST_LEVEL_HOUR, all_shards);
    ASSERT_EQ(size_t(hours.digests_size()), by_hour.size());
    at = 0;
    for (const auto& [key, digest] : by_hour) {
      EXPECT_EQ(std::pair(hours.digests(at).shard(), hours.digests(at).start()), key);
      check(hours.digests(at++), digest);
      EXPECT_EQ(store_->HourDigest(key.first, key.second), digest);
    }
    for (const auto& [key, digest] : by_minute) {
      EXPECT_EQ(store_->MinuteDigest(key.first, key.second), digest);
    }
    std::vector<std::pair<ShardId, int64_t>> of_hours;
    for (const auto& [key, digest] : by_minute) {
      const int64_t hour = HourOf(key.second);
      if (hour == 1 || hour == -2) of_hours.push_back(key);
    }
    std::vector<std::pair<ShardId, int64_t>> got;
    const auto response = Digests(v1::DIGEST_LEVEL_MINUTE, all_shards, {1, -2});
    for (const v1::SetDigest& digest : response.digests()) {
      got.emplace_back(digest.shard(), digest.start());
      check(digest, by_minute[got.back()]);
    }
    EXPECT_EQ(got, of_hours);
    EXPECT_EQ(Digests(v1::DIGEST_LEVEL_MINUTE, all_shards, {17}).digests_size(), 0);
    Reopen();
  }
}

// How many hours and minutes there are, whoever sends tags decides.
TEST_F(StoreSyncTest, DigestsOfHoursAndMinutesComeInPages) {
  Entries entries;
  for (int i = 0; i < 2'500; ++i) entries.Add("c", i * 60 * router::kMinuteMs);
  for (int i = 1; i < 32 * 60; ++i) entries.Add("c", i * router::kMinuteMs);
  for (int i = 0; i < 32 * 60; ++i) entries.Add("another", i * router::kMinuteMs);
  ASSERT_TRUE(store_->Commit(entries.all()).ok());
  const ShardId one = entries.all().front().shard, other = entries.all().back().shard;
  ASSERT_NE(one, other);
  std::vector<int64_t> hours(32);
  std::iota(hours.begin(), hours.end(), 0);
  const auto pages_of = [&](v1::DigestLevel level, const std::vector<int64_t>& of) {
    std::vector<int> sizes;
    std::map<std::pair<ShardId, int64_t>, uint64_t> counts;
    std::optional<v1::SetDigest> after;
    bool has_more = true;
    while (has_more) {
      const v1::ReadDigestsResponse page = Digests(level, {one, other}, of, after);
      sizes.push_back(page.digests_size());
      for (const v1::SetDigest& digest : page.digests()) {
        EXPECT_TRUE(
            counts.emplace(std::pair(digest.shard(), digest.start()), digest.count()).second);
        after = digest;
      }
      has_more = page.has_more();
    }
    return std::pair(sizes, counts);
  };
  const auto [sizes, by_hour] = pages_of(v1::DIGEST_LEVEL_HOUR, {});
  EXPECT_THAT(sizes, ElementsAre(2'000, 532));
  EXPECT_EQ(by_hour.at({one, 2'499}), 1u);
  EXPECT_EQ(by_hour.at({one, 17}), 60u + 1);
  EXPECT_EQ(by_hour.at({other, 31}), 60u);
  const auto [minute_sizes, by_minute] = pages_of(v1::DIGEST_LEVEL_MINUTE, hours);
  EXPECT_THAT(minute_sizes, ElementsAre(2'000, 1'840));
  EXPECT_EQ(by_minute.size(), 2u * 32 * 60);
  hours.push_back(32);
  v1::ReadDigestsRequest request;
  request.set_level(v1::DIGEST_LEVEL_MINUTE);
  request.mutable_hours()->Assign(hours.begin(), hours.end());
  v1::ReadDigestsResponse response;
  EXPECT_EQ(store_->ReadDigests(request, response).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(StoreSyncTest, RequestsThatNameNothingThatExistsAreRefused) {
  const auto invalid = [](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  };
  v1::ReadDigestsRequest digests;
  v1::ReadDigestsResponse no_digests;
  invalid(store_->ReadDigests(digests, no_digests));
  digests.set_level(v1::DIGEST_LEVEL_SHARD);
  digests.add_shards(128);
  invalid(store_->ReadDigests(digests, no_digests));
  v1::ReadIdsRequest ids;
  v1::ReadIdsResponse no_ids;
  ids.set_after_id("short");
  invalid(store_->ReadIds(ids, no_ids));
  v1::ReadEventsRequest events;
  v1::ReadEventsResponse no_events;
  events.set_ids("short");
  invalid(store_->ReadEvents(events, no_events));
  events.set_shard(128);
  invalid(store_->ReadEvents(events, no_events));
  v1::ReadRowsRequest rows;
  v1::ReadRowsResponse no_rows;
  rows.set_shard(128);
  invalid(store_->ReadRows(rows, no_rows));
  invalid(store_->FindMissing({0, 0, std::string(16, 'x'), {}, {}}).status());
  invalid(store_->FindMissing({0, 0, "short", {}, {}}).status());
  invalid(store_->FindMissing({0, 0, std::string(16, '\x80'), {1}, {}}).status());
  invalid(store_->FindMissing({128, 0, "", {}, {}}).status());
  v1::ReadExpiredRequest expired;
  v1::ReadExpiredResponse no_expired;
  expired.add_shards(128);
  invalid(store_->ReadExpired(expired, no_expired));
  v1::ReadNewestRequest newest;
  newest.add_shards(1);
  invalid(store_->ReadNewest(newest).status());
  newest.set_shards(0, 128);
  newest.add_minutes(0);
  invalid(store_->ReadNewest(newest).status());
  invalid(store_->RecordJoined({5, 128}));
  EXPECT_THAT(store_->record().joined, testing::Each(false));
}

TEST_F(StoreSyncTest, IdsComeInOrderFromTheirBucketOnlyAndInPages) {
  Entries entries;
  std::set<std::string> want;
  constexpr int kEvents = 50'100;
  for (int i = 0; i < kEvents; ++i) want.insert(IdOf(entries.Add("c", 60'000 + i % 60'000)));
  entries.Add("c", 59'999);
  entries.Add("c", 120'000);
  entries.Add("another cookie", 60'000);
  ASSERT_NE(entries.all().back().shard, entries.all().front().shard);
  ASSERT_TRUE(store_->Commit(entries.all()).ok());
  v1::ReadIdsRequest request;
  request.set_shard(entries.all().front().shard);
  request.set_minute(1);
  v1::ReadIdsResponse response;
  std::string got;
  std::vector<int> pages;
  do {
    ASSERT_TRUE(store_->ReadIds(request, response).ok());
    pages.push_back(response.accepted_s_size());
    EXPECT_EQ(response.ids().size(), response.accepted_s_size() * 16u);
    EXPECT_THAT(response.accepted_s(), testing::Each(1000));
    got += response.ids();
    request.set_after_id(got.substr(got.size() - 16));
  } while (response.has_more());
  EXPECT_THAT(pages, ElementsAre(50'000, 100));
  std::string wanted;
  for (const std::string& id : want) wanted += id;
  EXPECT_TRUE(got == wanted);
}

TEST_F(StoreSyncTest, EventsComeByRangeInPagesOfAMegabyte) {
  Entries entries;
  std::map<std::string, LogEntry> want;
  constexpr int kEvents = 30'000;
  for (int i = 0; i < kEvents; ++i) {
    const LogEntry& entry = entries.Add("c", 60'000 + i, i % 7 == 0 ? absl::StrCat(i) : "", 5 + i);
    want[IdOf(entry)] = entry;
  }
  ASSERT_TRUE(store_->Commit(entries.all()).ok());
  v1::ReadEventsRequest request;
  request.set_shard(entries.all().front().shard);
  request.set_minute(1);
  v1::ReadEventsResponse response;
  auto next = want.begin();
  int pages = 0;
  do {
    ASSERT_TRUE(store_->ReadEvents(request, response).ok());
    EXPECT_LT(response.ByteSizeLong(), 1'200'000u);
    for (const v1::Event& event : response.events()) {
      ASSERT_NE(next, want.end());
      EXPECT_EQ(event.id(), next->first);
      EXPECT_EQ(event.shard(), next->second.shard);
      EXPECT_EQ(event.time_ms(), next->second.time_ms);
      EXPECT_EQ(event.accepted_s(), next->second.accepted_s);
      EXPECT_EQ(event.tag(), next->second.tag);
      ++next;
    }
    request.set_after_id(response.events(response.events_size() - 1).id());
    ++pages;
  } while (response.has_more());
  EXPECT_EQ(next, want.end());
  EXPECT_GT(pages, 1);
}

TEST_F(StoreSyncTest, EventsComeByIdInTheOrderAskedAndSayWhatWasNotLookedAt) {
  Entries entries;
  std::string ids;
  const std::string unknown(16, '\x01');
  constexpr int kEvents = 30'000;
  for (int i = 0; i < kEvents; ++i) {
    ids += IdOf(entries.Add("c", 60'000 + i));
    if (i % 3 == 0) ids += unknown;
  }
  ASSERT_TRUE(store_->Commit(entries.all()).ok());
  v1::ReadEventsRequest request;
  request.set_shard(entries.all().front().shard);
  request.set_minute(1);
  v1::ReadEventsResponse response;
  size_t seen = 0;
  bool has_more = true;
  while (has_more) {
    request.set_ids(ids);
    ASSERT_TRUE(store_->ReadEvents(request, response).ok());
    for (const v1::Event& event : response.events()) {
      ASSERT_LT(seen, entries.all().size());
      EXPECT_EQ(event.id(), IdOf(entries.all()[seen]));
      EXPECT_EQ(event.tag(), entries.all()[seen].tag);
      ++seen;
    }
    has_more = response.has_more();
    if (has_more) {
      const std::string& last = response.events(response.events_size() - 1).id();
      size_t at = 0;
      while (ids.compare(at, 16, last) != 0) at += 16;
      ids.erase(0, at + 16);
    }
  }
  EXPECT_EQ(seen, size_t{kEvents});
}

TEST_F(StoreSyncTest, MissingIsWhatTheLogOfTheMinuteLacksAndRetentionDidNotExpire) {
  Entries entries;
  const LogEntry here = entries.Add("c", 1);
  const LogEntry keyed = entries.Add("c", 2, "key");
  const LogEntry not_here = entries.Add("c", 3);
  const LogEntry not_here_keyed = entries.Add("c", 4, "other");
  entries.Add("c", 5, "", 600);  // too old
  ASSERT_TRUE(store_->Commit({here, keyed}).ok());
  ExpireAll(*store_, {Range(here.shard, 0, 1, 600)});
  FindMissing find{here.shard, 0, "", {}, {}};
  for (const LogEntry& entry : entries.all()) {
    find.ids += IdOf(entry);
    find.accepted_s.push_back(entry.accepted_s);
    if (router::IsKeyed(IdOf(entry))) find.keyed_hashes.push_back(ContentHash(entry.tag));
  }
  auto missing = store_->FindMissing(find);
  ASSERT_TRUE(missing.ok()) << missing.status();
  EXPECT_EQ(*missing, IdOf(not_here) + IdOf(not_here_keyed));
  // A tag that wins over the one that is here is missing, one that loses is not.
  find.keyed_hashes[0] = ContentHash(keyed.tag) - 1;
  EXPECT_EQ(*store_->FindMissing(find), IdOf(keyed) + IdOf(not_here) + IdOf(not_here_keyed));
  find.keyed_hashes[0] = ContentHash(keyed.tag) + 1;
  EXPECT_EQ(*store_->FindMissing(find), IdOf(not_here) + IdOf(not_here_keyed));
}

TEST_F(StoreSyncTest, IdsOfKeysComeWithTheHashesOfTheirTags) {
  Entries entries;
  entries.Add("c", 1);
  const LogEntry keyed = entries.Add("c", 2, "key");
  ASSERT_TRUE(store_->Commit(entries.all()).ok());
  v1::ReadIdsRequest request;
  request.set_shard(keyed.shard);
  v1::ReadIdsResponse response;
  ASSERT_TRUE(store_->ReadIds(request, response).ok());
  EXPECT_EQ(response.accepted_s_size(), 2);
  EXPECT_THAT(response.keyed_hashes(), ElementsAre(ContentHash(keyed.tag)));
}

TEST_F(StoreSyncTest, WhatRetentionExpiredComesInPagesAndByWhenItWasDecided) {
  std::vector<v1::ExpiredRange> ranges;
  for (int64_t i = 0; i < 10'500; ++i) {
    ranges.push_back(Range(static_cast<ShardId>(i % 2), i - 5'000, i - 4'999,
                           static_cast<uint32_t>(100 + i), static_cast<uint32_t>(1'000 + i)));
  }
  ExpireAll(*store_, ranges);
  Reopen();
  std::sort(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) {
    return std::pair(a.shard(), a.from_minute()) < std::pair(b.shard(), b.from_minute());
  });
  v1::ReadExpiredRequest request;
  request.add_shards(1);
  request.add_shards(0);
  v1::ReadExpiredResponse response;
  std::vector<int> pages;
  size_t next = 0;
  do {
    ASSERT_TRUE(store_->ReadExpired(request, response).ok());
    pages.push_back(response.ranges_size());
    for (const v1::ExpiredRange& range : response.ranges()) {
      ASSERT_LT(next, ranges.size());
      EXPECT_EQ(range.SerializeAsString(), ranges[next].SerializeAsString());
      ++next;
    }
    *request.mutable_after() = *response.ranges().rbegin();
  } while (response.has_more());
  EXPECT_THAT(pages, ElementsAre(10'000, 500));
  request.clear_after();
  request.set_since_s(1'000 + 10'490);
  ASSERT_TRUE(store_->ReadExpired(request, response).ok());
  EXPECT_EQ(response.ranges_size(), 10);
  v1::ReadDigestsRequest digests;
  digests.set_level(v1::DIGEST_LEVEL_SHARD);
  for (const uint32_t shard : {7, 1, 0}) digests.add_shards(shard);
  v1::ReadDigestsResponse answer;
  ASSERT_TRUE(store_->ReadDigests(digests, answer).ok());
  EXPECT_THAT(answer.expired_hashes(),
              ElementsAre(0, store_->ExpiredHash(1), store_->ExpiredHash(0)));
  EXPECT_NE(store_->ExpiredHash(1), store_->ExpiredHash(0));
}

TEST_F(StoreSyncTest, EventsOfSeveralMinutesComeInOrderAndInPages) {
  Entries entries;
  const std::string cookie(2'000, 'c');
  for (int i = 0; i < 3'000; ++i) entries.Add(cookie, (i % 300) * 2 * router::kMinuteMs + i);
  ASSERT_TRUE(store_->Commit(entries.all()).ok());
  v1::ReadEventsRequest request;
  request.set_shard(entries.all().front().shard);
  request.set_minute(-5);
  for (int minute = 0; minute < 400; ++minute) request.add_more_minutes(minute);
  std::vector<std::pair<int64_t, std::string>> found, want;
  for (const LogEntry& entry : entries.all()) {
    if (entry.minute < 400) want.emplace_back(entry.minute, IdOf(entry));
  }
  std::sort(want.begin(), want.end());
  int pages = 0;
  v1::ReadEventsResponse response;
  do {
    ASSERT_TRUE(store_->ReadEvents(request, response).ok());
    ASSERT_LT(++pages, 100);
    for (const v1::Event& event : response.events()) {
      found.emplace_back(router::MinuteOf(event.time_ms()), event.id());
    }
    request.set_minute(found.back().first);
    request.set_after_id(found.back().second);
    request.clear_more_minutes();
    for (int64_t minute = found.back().first + 1; minute < 400; ++minute) {
      request.add_more_minutes(minute);
    }
  } while (response.has_more());
  EXPECT_EQ(found, want);
  EXPECT_GE(pages, 4) << "an answer has about 1 MiB";
  for (const auto& wrong : std::vector<std::vector<int64_t>>{{1}, {3, 2}, {3, 3}}) {
    request.set_minute(1);
    request.mutable_more_minutes()->Assign(wrong.begin(), wrong.end());
    EXPECT_EQ(store_->ReadEvents(request, response).code(), absl::StatusCode::kInvalidArgument);
  }
  request.clear_more_minutes();
  for (int minute = 2; minute < 1'003; ++minute) request.add_more_minutes(minute);
  EXPECT_EQ(store_->ReadEvents(request, response).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(StoreSyncTest, TheNewestAcceptanceOfABucketIsTold) {
  Entries entries;
  const LogEntry entry = entries.Add("c", 1, "", 700);
  ASSERT_TRUE(store_->Commit({entry, entries.Add("c", 2, "", 600)}).ok());
  v1::ReadNewestRequest request;
  for (const int64_t minute : {0, 1}) {
    request.add_shards(entry.shard);
    request.add_minutes(minute);
  }
  const auto newest = store_->ReadNewest(request);
  ASSERT_TRUE(newest.ok()) << newest.status();
  EXPECT_THAT(*newest, ElementsAre(700, 0));
  const auto digests = Digests(v1::DIGEST_LEVEL_MINUTE, {entry.shard}, {0});
  ASSERT_EQ(digests.digests_size(), 1);
  EXPECT_EQ(digests.digests(0).newest_accepted_s(), 700u);
}

TEST_F(StoreSyncTest, JoinedAndCompleteStayOverARestart) {
  EXPECT_EQ(store_->record().joined, std::vector<bool>(128, false));
  EXPECT_EQ(store_->record().complete_s, 0);
  ASSERT_TRUE(store_->RecordJoined({3, 127}).ok());
  ASSERT_TRUE(store_->RecordJoined({0}).ok());
  ASSERT_TRUE(store_->NoteComplete(12'345).ok());
  std::vector<bool> want(128, false);
  want[0] = want[3] = want[127] = true;
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(store_->record().joined, want);
    EXPECT_EQ(store_->record().complete_s, 12'345);
    Reopen();
  }
}

TEST_F(StoreSyncTest, RowsOfAViewThatKeepsNoneAreRefused) {
  v1::ReadRowsRequest request;
  v1::ReadRowsResponse response;
  ASSERT_TRUE(store_->ReadRows(request, response).ok());
  EXPECT_EQ(response.rows_size(), 0);
  EXPECT_EQ(response.last_key(), "");
  v1::ViewRow row;
  EXPECT_EQ(store_->PutRows(0, {row}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(store_->PutRows(0, {}).ok());
}

TEST_F(StoreSyncTest, PeersReadWhileEventsAreCommitted) {
  Entries entries;
  for (int i = 0; i < 2'000; ++i) entries.Add("c", i);
  const ShardId shard = entries.all().front().shard;
  std::atomic<bool> stop = false;
  std::jthread reader([&] {
    uint64_t last = 0;
    while (!stop) {
      const auto digests = Digests(v1::DIGEST_LEVEL_SHARD, {shard});
      const uint64_t count = digests.digests_size() == 0 ? 0 : digests.digests(0).count();
      EXPECT_GE(count, last);
      v1::ReadIdsRequest request;
      request.set_shard(shard);
      v1::ReadIdsResponse response;
      EXPECT_TRUE(store_->ReadIds(request, response).ok());
      EXPECT_GE(size_t(response.accepted_s_size()), count) << "what is counted can be read";
      last = count;
    }
  });
  for (size_t i = 0; i < entries.all().size(); i += 10) {
    ASSERT_TRUE(store_->Commit(entries.all().subspan(i, 10)).ok());
  }
  stop = true;
}

}  // namespace
}  // namespace allezon::replica
