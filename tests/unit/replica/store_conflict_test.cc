// SPDX-License-Identifier: Apache-2.0
//
// Idempotency keys that are used again with another tag: the same one is kept everywhere.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "replica/store.h"
#include "testing.h"

namespace allezon::replica {
namespace {

// A replica in a folder of its own.
class Replica {
 public:
  Replica() { Reopen(); }

  void Reopen() {
    store_.reset();
    StoreOptions options;
    options.path = folder_.path() + "/data";
    options.service = "profile";
    options.sync_wal = false;
    auto store = Store::Open(options, view_);
    if (!store.ok()) std::abort();
    store_ = *std::move(store);
  }

  Store& store() { return *store_; }
  RememberingView& view() { return view_; }

  // Pulls from `peer` what differs; how many events came.
  int PullFrom(Store& peer) {
    int pulled = 0;
    v1::ReadDigestsRequest request;
    for (ShardId shard = 0; shard < 128; ++shard) {
      if (store_->ShardDigest(shard) == peer.ShardDigest(shard)) continue;
      request.add_shards(shard);
    }
    request.set_level(v1::DIGEST_LEVEL_HOUR);
    v1::ReadDigestsResponse hours;
    EXPECT_TRUE(peer.ReadDigests(request, hours).ok());
    for (const v1::SetDigest& hour : hours.digests()) {
      request.set_level(v1::DIGEST_LEVEL_MINUTE);
      request.clear_hours();
      request.add_hours(hour.start());
      request.clear_shards();
      request.add_shards(hour.shard());
      v1::ReadDigestsResponse minutes;
      EXPECT_TRUE(peer.ReadDigests(request, minutes).ok());
      for (const v1::SetDigest& minute : minutes.digests()) {
        const Digest mine = store_->MinuteDigest(minute.shard(), minute.start());
        if (mine.count == minute.count() &&
            mine.sum == absl::MakeUint128(minute.sum_high(), minute.sum_low())) {
          continue;
        }
        pulled += PullMinute(peer, minute.shard(), minute.start());
      }
    }
    return pulled;
  }

 private:
  int PullMinute(Store& peer, ShardId shard, int64_t minute) {
    v1::ReadIdsRequest ids;
    ids.set_shard(shard);
    ids.set_minute(minute);
    v1::ReadIdsResponse there;
    EXPECT_TRUE(peer.ReadIds(ids, there).ok());
    const auto missing =
        store_->FindMissing({shard,
                             minute,
                             there.ids(),
                             {there.accepted_s().begin(), there.accepted_s().end()},
                             {there.keyed_hashes().begin(), there.keyed_hashes().end()}});
    EXPECT_TRUE(missing.ok()) << missing.status();
    if (!missing.ok() || missing->empty()) return 0;
    v1::ReadEventsRequest events;
    events.set_shard(shard);
    events.set_minute(minute);
    events.set_ids(*missing);
    v1::ReadEventsResponse response;
    EXPECT_TRUE(peer.ReadEvents(events, response).ok());
    std::vector<v1::Tag> tags(response.events_size());
    std::vector<LogEntry> entries;
    for (int i = 0; i < response.events_size(); ++i) {
      const v1::Event& event = response.events(i);
      EXPECT_TRUE(tags[i].ParseFromString(event.tag()));
      LogEntry& entry = entries.emplace_back();
      entry.shard = event.shard();
      entry.minute = router::MinuteOf(event.time_ms());
      entry.time_ms = event.time_ms();
      std::copy(event.id().begin(), event.id().end(), entry.id.begin());
      entry.accepted_s = event.accepted_s();
      entry.tag = event.tag();
      entry.parsed = &tags[i];
    }
    EXPECT_TRUE(store_->Commit(entries).ok());
    return response.events_size();
  }

  TempFolder folder_;
  RememberingView view_;
  std::unique_ptr<Store> store_;
};

void ExpectSame(Replica& a, Replica& b) {
  EXPECT_EQ(a.store().EventCount(), b.store().EventCount());
  EXPECT_TRUE(a.view().AllRows() == b.view().AllRows());
  for (ShardId shard = 0; shard < 128; ++shard) {
    EXPECT_EQ(a.store().ShardDigest(shard), b.store().ShardDigest(shard)) << "shard " << shard;
  }
  EXPECT_TRUE(a.store().CheckDigests().ok()) << a.store().CheckDigests();
  EXPECT_TRUE(b.store().CheckDigests().ok()) << b.store().CheckDigests();
  EXPECT_EQ(a.store().EventCount(), size_t(a.view().Rows()));
}

// Few keys and cookies, many bodies and times, and some events without a key.
void AddConflicting(std::mt19937& random, int count, Entries& entries) {
  for (int i = 0; i < count; ++i) {
    const std::string cookie = absl::StrCat("c", random() % 3);
    const auto time_ms = static_cast<int64_t>(random() % 4) * router::kMinuteMs;
    const std::string key = random() % 8 == 0 ? "" : absl::StrCat("k", random() % 6);
    entries.Add(cookie, time_ms, key, 1000 + random() % 3, static_cast<int>(random() % 5));
  }
}

void CommitInRandomBatches(std::mt19937& random, std::vector<LogEntry> entries, Replica& replica) {
  std::shuffle(entries.begin(), entries.end(), random);
  for (size_t at = 0; at < entries.size();) {
    const size_t size = std::min<size_t>(1 + random() % 12, entries.size() - at);
    ASSERT_TRUE(replica.store().Commit(absl::MakeSpan(entries).subspan(at, size)).ok());
    at += size;
    if (random() % 16 == 0) replica.Reopen();
  }
}

TEST(StoreConflict, TheSmallerHashIsKeptWhateverComesFirst) {
  for (const int64_t other_time_ms : {int64_t{2}, 3 * router::kMinuteMs}) {
    Entries entries;
    LogEntry small = entries.Add("c", 1, "key", 1000, 1);
    LogEntry large = entries.Add("c", other_time_ms, "key", 1001, 2);
    if (ContentHash(large.tag) < ContentHash(small.tag)) std::swap(small, large);
    Replica small_first;
    ASSERT_TRUE(small_first.store().Commit({small}).ok());
    ASSERT_TRUE(small_first.store().Commit({large}).ok());
    EXPECT_TRUE(small_first.view().lost_some.empty());
    EXPECT_EQ(small_first.view().committed, 1u);
    Replica large_first;
    ASSERT_TRUE(large_first.store().Commit({large}).ok());
    ASSERT_TRUE(large_first.store().Commit({small}).ok());
    EXPECT_THAT(large_first.view().lost_some, testing::ElementsAre(large.minute));
    Replica together;
    ASSERT_TRUE(together.store().Commit({large, small, large}).ok());
    EXPECT_TRUE(together.view().lost_some.empty());
    for (Replica* replica : {&small_first, &large_first, &together}) {
      EXPECT_EQ(replica->store().EventCount(), 1u);
      EXPECT_EQ(replica->view().AllRows(),
                (std::map<std::string, std::string>{
                    {LogKey(small.minute, small.shard, router::AsBytes(small.id)),
                     std::string(small.tag)}}));
      EXPECT_EQ(replica->store().MinuteDigest(small.minute)->count, 1u);
      replica->Reopen();
      EXPECT_EQ(replica->store().EventCount(), 1u);
      // Neither one comes again as a new event.
      ASSERT_TRUE(replica->store().Commit({large, small}).ok());
      EXPECT_EQ(replica->store().EventCount(), 1u);
      EXPECT_EQ(replica->store().NewestTimeMs(), small.minute * router::kMinuteMs)
          << "a minute that lost its only event is gone";
    }
    ExpectSame(small_first, large_first);
    ExpectSame(small_first, together);
  }
}

TEST(StoreConflict, ACopyIsNoConflictThoughItWasAcceptedLater) {
  Entries entries;
  Replica replica;
  ASSERT_TRUE(replica.store().Commit({entries.Add("c", 1, "key", 1000, 1)}).ok());
  ASSERT_TRUE(replica.store().Commit({entries.Add("c", 1, "key", 1007, 1)}).ok());
  EXPECT_EQ(replica.view().committed, 1u);
  EXPECT_TRUE(replica.view().lost_some.empty());
}

// An event that is accepted again is as young as the last time.
TEST(StoreConflict, ACopyThatWasAcceptedMuchLaterRaisesTheAcceptance) {
  Entries entries;
  Replica replica;
  const LogEntry first = entries.Add("c", 1, "key", 1000, 1);
  ASSERT_TRUE(replica.store().Commit({first}).ok());
  ASSERT_TRUE(replica.store().Commit({entries.Add("c", 1, "key", 50'000, 1)}).ok());
  // Another body too: the key says that it is the same tag.
  const LogEntry other = entries.Add("c", 2, "key", 90'000, 2);
  const bool is_kept = ContentHash(other.tag) < ContentHash(first.tag);
  ASSERT_TRUE(replica.store().Commit({other}).ok());
  EXPECT_EQ(replica.store().EventCount(), 1u);
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(replica.store().BucketOf(0, first.shard)->newest_accepted_s, 90'000u);
    int seen = 0;
    EXPECT_TRUE(replica.store()
                    .ReadMinute(0,
                                [&](const LogEntry& entry) {
                                  ++seen;
                                  EXPECT_EQ(entry.accepted_s, 90'000u);
                                  EXPECT_EQ(entry.tag, is_kept ? other.tag : first.tag);
                                })
                    .ok());
    EXPECT_EQ(seen, 1);
    EXPECT_TRUE(replica.store().CheckDigests().ok());
    replica.Reopen();
  }
  ExpireAll(replica.store(), {Range(first.shard, 0, 1, 1'500)}, /*only_whole=*/true);
  EXPECT_EQ(replica.store().EventCount(), 1u) << "it was accepted again since";
}

TEST(StoreConflict, AKeyIsFoundWithTheTagThatIsKept) {
  Entries entries;
  Replica replica;
  const LogEntry stored = entries.Add("c", 1, "key", 1000, 1);
  ASSERT_TRUE(replica.store().Commit({stored}).ok());
  const auto found = replica.store().FindByKey(stored.shard, stored.id);
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_NE(*found, nullptr);
  EXPECT_EQ((*found)->tag, stored.tag);
  EXPECT_EQ((*found)->time_ms, 1);
  EXPECT_EQ((*found)->accepted_s, 1000u);
  const auto none = replica.store().FindByKey(stored.shard, router::KeyedEventId("other", "c"));
  ASSERT_TRUE(none.ok());
  EXPECT_EQ(*none, nullptr);
}

TEST(StoreConflict, RetentionExpiresTheOneThatWasKept) {
  Entries entries;
  Replica replica;
  LogEntry small = entries.Add("c", 1, "key", 1000, 1);
  LogEntry large = entries.Add("c", 5 * router::kMinuteMs, "key", 1000, 2);
  if (ContentHash(large.tag) < ContentHash(small.tag)) std::swap(small, large);
  ASSERT_TRUE(replica.store().Commit({large}).ok());
  ASSERT_TRUE(replica.store().Commit({small}).ok());
  ExpireAll(replica.store(), {Range(small.shard, small.minute, small.minute + 1, 1000)});
  EXPECT_EQ(replica.store().EventCount(), 0u);
  // The key is free again; what was expired stays out.
  ASSERT_TRUE(replica.store().Commit({small}).ok());
  EXPECT_EQ(replica.store().EventCount(), 0u);
  ASSERT_TRUE(replica.store().Commit({large}).ok());
  EXPECT_EQ(replica.store().EventCount(), 1u);
}

class StoreConflictOrders : public testing::TestWithParam<int> {};

TEST_P(StoreConflictOrders, AnyOrderOfArrivalEndsInTheSameSet) {
  std::mt19937 random(GetParam());
  Entries entries;
  AddConflicting(random, 120, entries);
  std::vector<LogEntry> all(entries.all().begin(), entries.all().end());
  Replica a;
  Replica b;
  CommitInRandomBatches(random, all, a);
  CommitInRandomBatches(random, all, b);
  ExpectSame(a, b);
}

TEST_P(StoreConflictOrders, ReplicasThatPullFromEachOtherEndInTheSameSet) {
  std::mt19937 random(GetParam());
  Entries entries;
  AddConflicting(random, 120, entries);
  std::vector<LogEntry> of_a;
  std::vector<LogEntry> of_b;
  for (const LogEntry& entry : entries.all()) {
    const uint32_t to = random() % 3;
    if (to != 0) of_a.push_back(entry);
    if (to != 1) of_b.push_back(entry);
  }
  Replica a;
  Replica b;
  CommitInRandomBatches(random, of_a, a);
  CommitInRandomBatches(random, of_b, b);
  // The first rounds even out the ids; another one what stands under them.
  int rounds = 0;
  int pulled = 1;
  while (pulled > 0 && rounds < 5) {
    pulled = a.PullFrom(b.store()) + b.PullFrom(a.store());
    ++rounds;
  }
  EXPECT_LT(rounds, 5);
  ExpectSame(a, b);
  // And that is where every event would have led.
  Replica whole;
  ASSERT_TRUE(whole.store().Commit(entries.all()).ok());
  ExpectSame(a, whole);
}

INSTANTIATE_TEST_SUITE_P(Seeds, StoreConflictOrders, testing::Range(1, 9));

}  // namespace
}  // namespace allezon::replica
