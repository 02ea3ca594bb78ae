// SPDX-License-Identifier: Apache-2.0
#include "router/shard.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace allezon::router {
namespace {

std::string Hex(const EventId& id) {
  return absl::BytesToHexString(absl::string_view(id.data(), id.size()));
}

// Data on disk depends on these: they must never change.
TEST(Shard, TestVectors) {
  EXPECT_EQ(ShardOf("", 128), 66u);
  EXPECT_EQ(ShardOf("c1", 128), 2u);
  EXPECT_EQ(ShardOf("za\xc5\xbc\xc3\xb3\xc5\x82\xc4\x87", 128), 113u);
  EXPECT_EQ(ShardOf(std::string(256, 'x'), 4096), 3785u);
  EXPECT_EQ(Hex(KeyedEventId("key", "c1")), "f47515cb6100b958d225843c815f491e");
  EXPECT_EQ(Hex(KeyedEventId("k", "eyc1")), "b4ac20e2507bb591c1a53ee8636ac4b2");
}

TEST(Shard, SpreadsCookiesEvenly) {
  std::vector<int> load(128);
  for (int i = 0; i < 128'000; ++i) ++load[ShardOf(absl::StrCat("cookie", i), 128)];
  for (const int cookies : load) {
    EXPECT_GT(cookies, 800);
    EXPECT_LT(cookies, 1200);
  }
}

TEST(EventIds, KeyedAndRandomOnesNeverMeet) {
  std::set<EventId> ids;
  for (int i = 0; i < 1000; ++i) {
    const EventId random = NewEventId(absl::Now());
    const EventId keyed = KeyedEventId(absl::StrCat(i), "c");
    EXPECT_FALSE(IsKeyed(AsBytes(random)));
    EXPECT_TRUE(IsKeyed(AsBytes(keyed)));
    EXPECT_EQ(keyed, KeyedEventId(absl::StrCat(i), "c"));
    ids.insert(random);
    ids.insert(keyed);
  }
  EXPECT_EQ(ids.size(), 2000u);
}

TEST(EventIds, NewOnesAreInTheOrderOfTheirTime) {
  const absl::Time now = absl::FromUnixSeconds(1'700'000'000);
  std::set<EventId> ids;
  EventId last = NewEventId(now);
  for (int i = 1; i < 1000; ++i) {
    const EventId next = NewEventId(now + absl::Microseconds(i));
    EXPECT_LT(AsBytes(last), AsBytes(next));
    ids.insert(NewEventId(now));
    last = next;
  }
  EXPECT_EQ(ids.size(), 999u);
}

TEST(MinuteOf, FloorsAlsoBefore1970) {
  EXPECT_EQ(MinuteOf(0), 0);
  EXPECT_EQ(MinuteOf(59'999), 0);
  EXPECT_EQ(MinuteOf(60'000), 1);
  EXPECT_EQ(MinuteOf(-1), -1);
  EXPECT_EQ(MinuteOf(-60'000), -1);
  EXPECT_EQ(MinuteOf(-60'001), -2);
}

TEST(ContentHash, IsFixedForEver) { EXPECT_EQ(ContentHash(""), 0x2d06800538d394c2u); }

}  // namespace
}  // namespace allezon::router
