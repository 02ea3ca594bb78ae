// SPDX-License-Identifier: Apache-2.0
#include "aggregate_svc/segment.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <cstring>
#include <limits>
#include <random>

#include "tests/unit/aggregate_svc/testing.h"

namespace allezon::aggregate_svc {
namespace {

Segment Sample(int events) {
  Segment segment;
  for (int i = 0; i < events; ++i) {
    v1::Tag tag;
    tag.set_action(i % 3 ? v1::ACTION_VIEW : v1::ACTION_BUY);
    tag.set_origin(absl::StrCat("o", i % 5));
    tag.mutable_product_info()->set_brand_id(absl::StrCat("b", i % 7));
    tag.mutable_product_info()->set_price(i % 2 ? std::numeric_limits<int32_t>::min()
                                                : std::numeric_limits<int32_t>::max());
    const std::string bytes = tag.SerializeAsString();
    replica::LogEntry entry;
    entry.shard = i % 4;
    entry.id[0] = static_cast<char>(i);
    entry.accepted_s = 100 + i;
    entry.tag = bytes;
    entry.parsed = &tag;
    segment.Append(entry);
  }
  return segment;
}

TEST(Segment, ComesBackFromItsEncodingAsItWas) {
  const Segment segment = Sample(5000);
  const auto again = Segment::Decode(segment.Encode());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->digest(), segment.digest());
  EXPECT_EQ(again->Encode(), segment.Encode());
  EXPECT_EQ(*Segment::DigestOf(segment.Encode()), segment.digest());
  const Filter filter{.action = v1::ACTION_VIEW, .brand_id = "b3"};
  EXPECT_EQ(again->Scan({0, 1, 2, 3}, filter).count, segment.Scan({0, 1, 2, 3}, filter).count);
  EXPECT_EQ(again->Scan({0, 1, 2, 3}, filter).sum_price,
            segment.Scan({0, 1, 2, 3}, filter).sum_price);
  EXPECT_EQ(again->OldestAcceptedS({3, 2}), 102u);
}

TEST(Segment, SumsExtremePricesExactlyInChunksOfAnyLength) {
  for (const int events : {1, 4 * 1023, 4 * 1024, 4 * 1025, 9000}) {
    const Segment segment = Sample(events);
    uint64_t count = 0;
    int64_t sum = 0;
    for (int i = 0; i < events; ++i) {
      if (i % 3 == 0 || i % 5 != 1 || i % 4 == 2) continue;
      ++count;
      sum += i % 2 ? std::numeric_limits<int32_t>::min() : std::numeric_limits<int32_t>::max();
    }
    const Filter filter{.action = v1::ACTION_VIEW, .origin = "o1"};
    const Totals totals = segment.Scan({0, 1, 3}, filter);
    EXPECT_EQ(totals.count, count);
    EXPECT_EQ(static_cast<int64_t>(totals.sum_price), sum);
  }
}

TEST(Segment, EveryCutAndEveryFlippedByteIsRefused) {
  const std::string bytes = Sample(20).Encode();
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(Segment::Decode(std::string_view(bytes).substr(0, size)).ok());
  }
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string flipped = bytes;
    flipped[i] ^= 0x40;
    EXPECT_EQ(Segment::Decode(flipped).status().code(), absl::StatusCode::kDataLoss) << i;
  }
  EXPECT_FALSE(Segment::Decode(bytes + "x").ok());
}

// What a fault of our own, or someone who can count, may write: the checksum holds.
TEST(Segment, BytesWithARightChecksumAreReadOrRefusedButNeverTrusted) {
  constexpr size_t kHeader = 12;
  const std::string bytes = Sample(20).Encode();
  const auto sign = [](std::string& some) {
    const uint64_t checksum = XXH3_64bits(some.data() + kHeader, some.size() - kHeader);
    std::memcpy(some.data() + 4, &checksum, sizeof(checksum));
  };
  const auto use = [](const std::string& some) {
    const auto segment = Segment::Decode(some);
    if (!segment.ok()) {
      EXPECT_EQ(segment.status().code(), absl::StatusCode::kDataLoss);
      return;
    }
    for (const v1::Action action : {v1::ACTION_VIEW, v1::ACTION_BUY}) {
      const Filter filter{.action = action, .origin = "o1", .brand_id = "b1", .category_id = ""};
      EXPECT_LE(segment->Scan({0, 1, 2, 3}, filter).count, segment->digest().count);
    }
    // What was read can be written and read again.
    EXPECT_EQ(Segment::Decode(segment->Encode())->Encode(), segment->Encode());
    Segment merged = Sample(20);
    merged.Merge(*segment);
  };
  for (size_t size = kHeader; size < bytes.size(); ++size) {
    std::string cut = bytes.substr(0, size);
    sign(cut);
    EXPECT_FALSE(Segment::Decode(cut).ok()) << size;
  }
  std::mt19937 random(5);
  for (size_t i = kHeader; i < bytes.size(); ++i) {
    for (const int value : {0, 1, 0x7f, 0x80, 0xff, static_cast<int>(random() & 0xff)}) {
      std::string changed = bytes;
      changed[i] = static_cast<char>(value);
      sign(changed);
      use(changed);
    }
  }
  for (int round = 0; round < 20'000; ++round) {
    std::string changed = bytes;
    for (size_t n = 1 + random() % 4; n > 0; --n) {
      changed[kHeader + random() % (bytes.size() - kHeader)] = static_cast<char>(random());
    }
    sign(changed);
    use(changed);
  }
}

// 70,000 origins: codes of the first blocks stay narrow, later ones are wide, one block is both.
TEST(Segment, CodesBeyondSixteenBitsCountAsOthersDo) {
  constexpr int kOrigins = 70'000;
  Segment segment;
  for (int i = 0; i < kOrigins; ++i) {
    const uint32_t shard = i < 1000 ? 1 : i % 2 ? 2 : 3;
    segment.Append(MakeOwned(0, shard, v1::ACTION_VIEW, absl::StrCat("o", i), "b", "c", i)->entry);
  }
  segment.Append(MakeOwned(0, 2, v1::ACTION_VIEW, "o5", "b", "c", 7)->entry);
  Segment merged;
  for (int i = kOrigins - 1; i >= 0; i -= 7'000) {
    merged.Append(MakeOwned(0, 3, v1::ACTION_VIEW, absl::StrCat("x", i), "b", "c", 1)->entry);
  }
  const uint64_t before = merged.digest().count;
  merged.Merge(segment);
  EXPECT_EQ(merged.digest().count, before + kOrigins + 1);
  const auto decoded = Segment::Decode(segment.Encode());
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  for (const Segment* one : std::vector<const Segment*>{&segment, &*decoded, &merged}) {
    for (const int i : {0, 5, 999, 1000, 65'535, 65'536, 65'537, kOrigins - 1}) {
      const std::string origin = absl::StrCat("o", i);
      const Totals totals =
          one->Scan({1, 2, 3}, Filter{.action = v1::ACTION_VIEW, .origin = origin});
      EXPECT_EQ(totals.count, i == 5 ? 2u : 1u) << origin;
      EXPECT_EQ(totals.sum_price, i == 5 ? 12u : static_cast<uint64_t>(i)) << origin;
      // A wide code is none of a narrow block's.
      EXPECT_EQ(one->Scan({1}, Filter{.action = v1::ACTION_VIEW, .origin = origin}).count,
                i < 1000 ? 1u : 0u)
          << origin;
    }
  }
}

TEST(Segment, AMergeIsWhatAppendingAllWouldHaveBeen) {
  std::mt19937 random(3);
  for (int round = 0; round < 30; ++round) {
    std::vector<std::unique_ptr<OwnedEvent>> events;
    Segment all, one, other;
    for (int i = 0; i < 300; ++i) {
      const auto name = [&](const char* kind) { return absl::StrCat(kind, random() % 6); };
      events.push_back(MakeOwned(0, random() % 5, random() % 2 ? v1::ACTION_VIEW : v1::ACTION_BUY,
                                 name("o"), name("b"), name("c"), static_cast<int32_t>(random()),
                                 100 + random() % 50));
      all.Append(events.back()->entry);
      (random() % 4 ? one : other).Append(events.back()->entry);
    }
    one.Merge(other);
    EXPECT_EQ(one.digest(), all.digest());
    for (uint32_t shard = 0; shard < 6; ++shard) {
      EXPECT_EQ(one.OldestAcceptedS({shard}), all.OldestAcceptedS({shard}));
      for (int mask = 0; mask < 16; ++mask) {
        Filter filter{.action = mask & 8 ? v1::ACTION_VIEW : v1::ACTION_BUY};
        if (mask & 1) filter.origin = "o1";
        if (mask & 2) filter.brand_id = "b2";
        if (mask & 4) filter.category_id = "c3";
        EXPECT_EQ(one.Scan({shard}, filter).count, all.Scan({shard}, filter).count);
        EXPECT_EQ(one.Scan({shard}, filter).sum_price, all.Scan({shard}, filter).sum_price);
      }
    }
  }
}

}  // namespace
}  // namespace allezon::aggregate_svc
