// SPDX-License-Identifier: Apache-2.0
#include "replica/bucket_index.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "absl/strings/str_cat.h"

namespace allezon::replica {
namespace {

TEST(BucketIndex, HoursAreRoundedDownAlsoBefore1970) {
  EXPECT_EQ(BucketIndex::HourOf(0), 0);
  EXPECT_EQ(BucketIndex::HourOf(59), 0);
  EXPECT_EQ(BucketIndex::HourOf(60), 1);
  EXPECT_EQ(BucketIndex::HourOf(-1), -1);
  EXPECT_EQ(BucketIndex::HourOf(-60), -1);
  EXPECT_EQ(BucketIndex::HourOf(-61), -2);
}

// Against sums that are made anew each time.
TEST(BucketIndex, SumsAgreeWithTheBucketsAfterAnyChanges) {
  std::mt19937 random(11);
  BucketIndex index;
  std::map<std::pair<router::ShardId, int64_t>, Bucket> model;
  for (int step = 0; step < 3'000; ++step) {
    const router::ShardId shard = random() % 5;
    const int64_t minute = static_cast<int64_t>(random() % 200) - 100;
    Bucket bucket;
    for (uint32_t i = random() % 3; i > 0; --i) {
      bucket.Add(absl::StrCat("id", random()), random() % 1000, "tag");
    }
    index.Set(minute, shard, bucket);
    model[{shard, minute}] = bucket;
  }
  std::map<router::ShardId, Digest> shards;
  std::map<std::pair<router::ShardId, int64_t>, Digest> hours;
  uint64_t count = 0;
  for (const auto& [key, bucket] : model) {
    EXPECT_EQ(index.Find(key.second, key.first).digest, bucket.digest);
    shards[key.first].Add(bucket.digest);
    hours[{key.first, BucketIndex::HourOf(key.second)}].Add(bucket.digest);
    count += bucket.digest.count;
  }
  EXPECT_EQ(index.event_count(), count);
  for (const auto& [shard, digest] : shards) EXPECT_EQ(index.ShardDigest(shard), digest);
  for (const auto& [key, digest] : hours) {
    EXPECT_EQ(index.HourDigest(key.first, key.second), digest);
  }
  for (const auto& [key, bucket] : model) index.Set(key.second, key.first, {});
  EXPECT_EQ(index.event_count(), 0u);
  EXPECT_TRUE(index.minutes().empty());
  EXPECT_EQ(index.ShardDigest(0), Digest{});
  EXPECT_EQ(index.HourDigest(0, -1), Digest{});
}

}  // namespace
}  // namespace allezon::replica
