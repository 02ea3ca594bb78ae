// SPDX-License-Identifier: Apache-2.0
//
// A pull between two sets in memory, answer by answer.
#include "replica/core/sync_session.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace allezon::replica {
namespace {

constexpr ShardId kShard = 3;
constexpr uint64_t kIncarnation = 7;
constexpr int64_t kMinuteMs = 60'000;
constexpr int64_t kMinutes = 10'000;  // all are before

int64_t HourOf(int64_t minute) { return minute / 60; }  // none is before 1970 here

// The events of one shard.
class Set final : public DigestSource {
 public:
  void Add(int64_t minute, std::string_view id) {
    v1::Event& event = minutes[minute][std::string(id)];
    event.set_shard(kShard);
    event.set_id(std::string(id));
    event.set_accepted_s(1);
    event.set_time_ms(minute * kMinuteMs);
  }
  // An id that is the only one so.
  void AddOne(int64_t minute) { Add(minute, absl::StrCat(absl::Dec(minute, absl::kZeroPad16))); }
  std::set<std::pair<int64_t, std::string>> all() const {
    std::set<std::pair<int64_t, std::string>> found;
    for (const auto& [minute, events] : minutes) {
      for (const auto& [id, event] : events) found.emplace(minute, id);
    }
    return found;
  }

  // Of the minutes [from, to).
  Digest DigestOf(int64_t from, int64_t to) const {
    Digest digest;
    for (auto at = minutes.lower_bound(from); at != minutes.end() && at->first < to; ++at) {
      for (const auto& [id, event] : at->second) digest.Add(id, "");
    }
    return digest;
  }
  Digest ShardDigest(ShardId) const override { return DigestOf(0, kMinutes); }
  Digest HourDigest(ShardId, int64_t hour) const override {
    return DigestOf(hour * 60, hour * 60 + 60);
  }
  Digest MinuteDigest(ShardId, int64_t minute) const override {
    return DigestOf(minute, minute + 1);
  }
  uint32_t NewestAcceptedS(ShardId, int64_t) const override { return 1; }
  uint32_t ExpiredThroughS(ShardId, int64_t) const override { return 0; }
  bool HasExpired(const v1::ExpiredRange&) const override { return false; }
  uint64_t ExpiredHash(ShardId) const override { return 0; }
  uint64_t ExpiredKeyed(ShardId) const override { return 0; }

  std::map<int64_t, std::map<std::string, v1::Event>> minutes;
};

class SyncSessionTest : public testing::Test {
 protected:
  // How many calls it took. `meanwhile` is told before each, how many came before it.
  absl::StatusOr<int> Pull(const std::function<void(int)>& meanwhile = [](int) {}) {
    SyncSession::Scope scope;
    scope.shards = {kShard};
    if (with_rows_) scope.with_rows = {kShard};
    SyncSession session(1, std::move(scope), own_);
    int calls = 0;
    SyncSession::Next next = session.Begin(1);
    while (!std::holds_alternative<std::monostate>(next)) {
      if (auto* storage = std::get_if<StorageRequest>(&next)) {
        next = session.Stored(Store(*storage));
        continue;
      }
      meanwhile(calls++);
      if (std::holds_alternative<v1::ReadRowsRequest>(std::get<PeerRequest>(next))) before_rows_();
      auto taken = session.Answered(Answer(std::get<PeerRequest>(next)));
      if (!taken.ok()) return taken.status();
      next = *std::move(taken);
    }
    EXPECT_EQ(session.TakePulled(), std::vector<ShardId>{kShard});
    return calls;
  }

  PeerResponse Answer(const PeerRequest& request) const {
    if (const auto* digests = std::get_if<v1::ReadDigestsRequest>(&request)) {
      return AnswerDigests(*digests);
    }
    if (const auto* ids = std::get_if<v1::ReadIdsRequest>(&request)) {
      v1::ReadIdsResponse response;
      for (const auto& [id, event] : EventsOf(ids->minute())) {
        response.mutable_ids()->append(id);
        response.add_accepted_s(1);
      }
      return response;
    }
    if (std::holds_alternative<v1::ReadExpiredRequest>(request)) return v1::ReadExpiredResponse();
    if (std::holds_alternative<v1::ReadRowsRequest>(request)) {
      v1::ReadRowsResponse response;
      for (const auto& [minute, id] : peer_expired_) {
        // That of an event in the log is left out.
        if (!peer_.all().contains({minute, id})) response.add_rows()->set_key(id);
      }
      return response;
    }
    const auto& asked = std::get<v1::ReadEventsRequest>(request);
    v1::ReadEventsResponse response;
    std::vector<int64_t> minutes = {asked.minute()};
    minutes.insert(minutes.end(), asked.more_minutes().begin(), asked.more_minutes().end());
    for (const int64_t minute : minutes) {
      for (const auto& [id, event] : EventsOf(minute)) {
        const bool is_asked = asked.ids().empty()
                                  ? minute != asked.minute() || id > asked.after_id()
                                  : asked.ids().find(id) != std::string::npos;
        if (!is_asked) continue;
        if (response.events_size() == events_page_) {
          response.set_has_more(true);
          return response;
        }
        *response.add_events() = event;
      }
    }
    return response;
  }

  v1::ReadDigestsResponse AnswerDigests(const v1::ReadDigestsRequest& asked) const {
    v1::ReadDigestsResponse response;
    response.set_incarnation(incarnation_);
    const auto add = [&](int64_t start, const Digest& digest) {
      v1::SetDigest& added = *response.add_digests();
      added.set_shard(kShard);
      added.set_start(start);
      added.set_count(digest.count);
      added.set_sum_low(absl::Uint128Low64(digest.sum));
      added.set_sum_high(absl::Uint128High64(digest.sum));
      added.set_newest_accepted_s(1);
    };
    if (asked.level() == v1::DIGEST_LEVEL_SHARD) {
      response.add_expired_hashes(0);
      add(0, peer_.ShardDigest(kShard));
      return response;
    }
    const std::set<int64_t> hours(asked.hours().begin(), asked.hours().end());
    std::set<int64_t> starts;
    for (const auto& [minute, events] : peer_.minutes) {
      if (asked.level() == v1::DIGEST_LEVEL_HOUR) {
        starts.insert(HourOf(minute));
      } else if (hours.contains(HourOf(minute))) {
        starts.insert(minute);
      }
    }
    for (const int64_t start : starts) {
      if (goes_on_ && asked.has_after() && start <= asked.after().start()) continue;
      if (response.digests_size() == page_) {
        response.set_has_more(true);
        return response;
      }
      add(start, asked.level() == v1::DIGEST_LEVEL_HOUR ? peer_.HourDigest(kShard, start)
                                                        : peer_.MinuteDigest(kShard, start));
    }
    return response;
  }

  std::map<std::string, v1::Event> EventsOf(int64_t minute) const {
    const auto found = peer_.minutes.find(minute);
    return found == peer_.minutes.end() ? std::map<std::string, v1::Event>() : found->second;
  }

  // The missing ids, where it was asked for them.
  std::string Store(const StorageRequest& request) {
    if (const auto* store = std::get_if<StoreEvents>(&request)) {
      for (const v1::Event& event : store->events) {
        own_.Add(event.time_ms() / kMinuteMs, event.id());
      }
      return "";
    }
    if (const auto* rows = std::get_if<StoreRows>(&request)) {
      for (const v1::ViewRow& row : rows->rows) own_rows_.insert(row.key());
      return "";
    }
    const auto& find = std::get<FindMissing>(request);
    std::string missing;
    for (size_t at = 0; at < find.ids.size(); at += 16) {
      const std::string id = find.ids.substr(at, 16);
      if (!own_.all().contains({find.minute, id})) missing += id;
    }
    return missing;
  }

  Set own_, peer_;
  int page_ = 1'000;
  int events_page_ = 1'000;
  bool with_rows_ = false;
  std::set<std::pair<int64_t, std::string>> peer_expired_;  // whose rows it has
  std::set<std::string> own_rows_;
  std::function<void()> before_rows_ = [] {};
  bool goes_on_ = true;  // pages begin after the last one
  uint64_t incarnation_ = kIncarnation;
};

TEST_F(SyncSessionTest, EveryPageOfHoursAndMinutesIsLookedAt) {
  for (int64_t minute = 0; minute < 8 * 60; minute += 7) peer_.AddOne(minute);
  own_.AddOne(14);
  own_.AddOne(5 * 60);
  own_.Add(21, "another, 16 long");
  for (page_ = 1; page_ < 20; ++page_) {
    const Set before = own_;
    const absl::StatusOr<int> calls = Pull();
    ASSERT_TRUE(calls.ok()) << calls.status();
    for (const auto& one : peer_.all()) EXPECT_TRUE(own_.all().contains(one)) << one.first;
    own_ = before;
  }
}

// What comes before the place of the page is newer than the session, and owed by others.
TEST_F(SyncSessionTest, WhatThePeerHeldAtFirstIsPulledWhateverChangesBetweenPages) {
  for (int64_t hour = 10; hour < 30; hour += 2) peer_.AddOne(hour * 60 + 5);
  const auto held = peer_.all();
  page_ = 3;
  const absl::StatusOr<int> calls = Pull([&](int call) {
    // After the first page. An hour goes on either side of where the pages are, and one comes.
    if (call == 4) peer_.minutes.erase(10 * 60 + 5), peer_.minutes.erase(20 * 60 + 5);
    if (call == 4) peer_.AddOne(60), peer_.AddOne(19 * 60);
    if (call == 5) peer_.AddOne(11 * 60), peer_.AddOne(28 * 60);
  });
  ASSERT_TRUE(calls.ok()) << calls.status();
  for (const auto& one : held) {
    if (one.first == 20 * 60 + 5) continue;  // it was gone when its page was read
    EXPECT_TRUE(own_.all().contains(one)) << one.first / 60;
  }
}

TEST_F(SyncSessionTest, APeerThatRestartsBetweenPagesEndsIt) {
  for (int64_t hour = 0; hour < 10; ++hour) peer_.AddOne(hour * 60);
  page_ = 4;
  const auto calls = Pull([&](int call) {
    if (call == 8) ++incarnation_;
  });
  EXPECT_EQ(calls.status().code(), absl::StatusCode::kAborted) << calls.status();
}

// Else it would ask for ever.
TEST_F(SyncSessionTest, PagesThatDoNotGoOnEndIt) {
  for (int64_t hour = 0; hour < 10; ++hour) peer_.AddOne(hour * 60);
  goes_on_ = false;
  page_ = 4;
  EXPECT_EQ(Pull().status().code(), absl::StatusCode::kInternal);
}

// A cookie with a tag in every minute would else cost two calls and a commit a minute.
TEST_F(SyncSessionTest, MinutesWithFewEventsArePulledTogether) {
  for (int64_t minute = 0; minute < 3'000; ++minute) peer_.AddOne(minute);
  const absl::StatusOr<int> calls = Pull();
  ASSERT_TRUE(calls.ok()) << calls.status();
  EXPECT_EQ(own_.all(), peer_.all());
  EXPECT_LT(*calls, 20);
}

TEST_F(SyncSessionTest, EventsOfSeveralMinutesComeInPages) {
  for (int64_t minute = 0; minute < 30; ++minute) {
    for (int64_t i = minute % 4; i >= 0; --i) {
      peer_.Add(minute,
                absl::StrCat(absl::Dec(minute, absl::kZeroPad8), absl::Dec(i, absl::kZeroPad8)));
    }
    // Some are pulled by their ids.
    if (minute % 7 == 3) own_.minutes[minute] = peer_.minutes[minute], own_.AddOne(minute);
  }
  for (events_page_ = 1; events_page_ < 12; ++events_page_) {
    const Set before = own_;
    const absl::StatusOr<int> calls = Pull();
    ASSERT_TRUE(calls.ok()) << calls.status();
    for (const auto& one : peer_.all()) EXPECT_TRUE(own_.all().contains(one)) << one.first;
    own_ = before;
  }
}

// The tag of a key moves to an earlier minute where another body of it comes.
TEST_F(SyncSessionTest, WhatMovesToAMinuteThatWasPassedIsPulled) {
  for (const int64_t minute : {60, 120, 180, 300}) peer_.AddOne(minute);
  constexpr char kMoving[] = "a key that moves";
  for (page_ = 1; page_ < 6; ++page_) {
    for (int at = 0; at < 20; ++at) {
      own_ = {};
      peer_.minutes.erase(120);
      peer_.AddOne(120);
      peer_.Add(240, kMoving);
      const absl::StatusOr<int> calls = Pull([&](int call) {
        if (call != at) return;
        peer_.minutes.erase(240);
        peer_.Add(120, kMoving);
      });
      ASSERT_TRUE(calls.ok()) << calls.status();
      const auto has = [&](int64_t minute) { return own_.all().contains({minute, kMoving}); };
      EXPECT_TRUE(has(120) || has(240)) << "moved before call " << at;
    }
  }
}

// An expired tag that is accepted again is an event, whose row is not given as one.
TEST_F(SyncSessionTest, WhatIsAcceptedAgainBeforeItsRowIsReadIsPulled) {
  with_rows_ = true;
  constexpr char kExpired[] = "an expired one__", kAgain[] = "accepted again__";
  for (int64_t hour = 0; hour < 5; ++hour) peer_.AddOne(hour * 60);
  peer_expired_ = {{61, kExpired}, {62, kAgain}};
  before_rows_ = [&] { peer_.Add(62, kAgain); };
  for (page_ = 1; page_ < 8; ++page_) {
    own_ = {};
    own_rows_.clear();
    peer_.minutes.erase(62);
    const absl::StatusOr<int> calls = Pull();
    ASSERT_TRUE(calls.ok()) << calls.status();
    EXPECT_EQ(own_.all(), peer_.all());
    EXPECT_EQ(own_rows_, std::set<std::string>{kExpired});
  }
}

}  // namespace
}  // namespace allezon::replica
