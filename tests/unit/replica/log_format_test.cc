// SPDX-License-Identifier: Apache-2.0
#include "replica/log_format.h"

#include <gtest/gtest.h>

#include <limits>

namespace allezon::replica {
namespace {

const std::string kId = "0123456789abcdef";

TEST(LogFormat, KeysSortByMinuteThenShardAlsoBefore1970) {
  const int64_t minutes[] = {std::numeric_limits<int64_t>::min(), -2, -1, 0, 1, 27'000'000,
                             std::numeric_limits<int64_t>::max()};
  std::string previous;
  for (const int64_t minute : minutes) {
    for (const router::ShardId shard : {0u, 1u, 255u, 256u, 4095u}) {
      const std::string key = LogKey(minute, shard, kId);
      EXPECT_LT(previous, key);
      previous = key;
      const auto parsed = ParseLogKey(key);
      ASSERT_TRUE(parsed);
      EXPECT_EQ(parsed->minute, minute);
      EXPECT_EQ(parsed->shard, shard);
      EXPECT_EQ(parsed->event_id, kId);
    }
  }
}

TEST(LogFormat, ABucketComesBackAsItWasWritten) {
  Bucket bucket;
  bucket.Add(kId, 77, "a tag");
  bucket.Add("fedcba9876543210", 55, "another");
  const auto parsed = ParseBucketValue(BucketValue(bucket));
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->digest, bucket.digest);
  EXPECT_EQ(parsed->digest.count, 2u);
  EXPECT_EQ(parsed->oldest_accepted_s, 55u);
  EXPECT_EQ(parsed->newest_accepted_s, 77u);
}

TEST(LogFormat, WhatIsKnownOfAKeyComesBackAndItsHashIsFixedForEver) {
  const auto parsed = ParseKeyedValue(KeyedValue(-7, ContentHash("a tag")));
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->minute, -7);
  EXPECT_EQ(parsed->content_hash, ContentHash("a tag"));
  EXPECT_EQ(ContentHash(""), 0x2d06800538d394c2u) << "XXH3-64 of nothing";
  EXPECT_FALSE(ParseKeyedValue(MinuteKey(1))) << "what format 1 had";
}

TEST(LogFormat, ABucketThatLosesWhatItHeldIsEmpty) {
  Bucket bucket;
  bucket.Add(kId, 77, "a tag");
  const Bucket one = bucket;
  bucket.Add("fedcba9876543210", 55, "another");
  bucket.Remove("fedcba9876543210", "another");
  EXPECT_EQ(bucket.digest, one.digest);
  bucket.Remove(kId, "a tag");
  EXPECT_EQ(bucket.digest, Digest{});
  EXPECT_EQ(bucket.newest_accepted_s, 0u);
  EXPECT_EQ(bucket.oldest_accepted_s, 0u);
}

TEST(LogFormat, WhatIsCutShortIsRefused) {
  const std::string key = LogKey(1, 2, kId);
  for (size_t size = 0; size < key.size(); ++size) {
    EXPECT_FALSE(ParseLogKey(std::string_view(key).substr(0, size)));
  }
  const std::string value = BucketValue({});
  EXPECT_FALSE(ParseBucketValue(std::string_view(value).substr(1)));
  EXPECT_FALSE(ParseBucketValue(value + "x"));
  EXPECT_FALSE(ParseLogValue("abc"));
  EXPECT_FALSE(ParseMinuteKey("abc"));
  EXPECT_FALSE(ParseSecondsValue("abcde"));
}

TEST(Digest, DoesNotDependOnTheOrderAndSeesEveryDifference) {
  Digest ab;
  ab.Add(kId, "a");
  ab.Add(kId, "b");
  Digest ba;
  ba.Add(kId, "b");
  ba.Add(kId, "a");
  EXPECT_EQ(ab, ba);
  Digest other_tag;
  other_tag.Add(kId, "a");
  other_tag.Add(kId, "c");
  EXPECT_FALSE(ab == other_tag);
  Digest sum;
  sum.Add(ab);
  sum.Add(Digest{});
  EXPECT_EQ(sum, ab);
}

TEST(Digest, IsTheSameForTagsLargerThanItsBuffer) {
  // The two ways of hashing must agree: data on disk depends on it.
  const std::string tag(5000, 'x');
  Digest large;
  large.Add(kId, tag);
  Digest again;
  again.Add(kId, tag);
  EXPECT_EQ(large, again);
  Digest shorter;
  shorter.Add(kId, tag.substr(1));
  EXPECT_FALSE(large == shorter);
}

}  // namespace
}  // namespace allezon::replica
