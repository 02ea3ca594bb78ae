// SPDX-License-Identifier: Apache-2.0
#include "aggregate_svc/segment.h"

#include <gtest/gtest.h>

#include <limits>

#include "../replica/testing.h"

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

}  // namespace
}  // namespace allezon::aggregate_svc
