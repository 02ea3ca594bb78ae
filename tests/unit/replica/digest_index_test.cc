// SPDX-License-Identifier: Apache-2.0
//
// The index against sums that are made anew each time, with memory for everything and for little.
#include "replica/digest_index.h"

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "replica/store_internal.h"
#include "tests/unit/replica/testing.h"

namespace allezon::replica {
namespace {

using router::ShardId;
constexpr ShardId kShards = 5;

TEST(DigestIndexTest, HoursAreRoundedDownAlsoBefore1970) {
  EXPECT_EQ(HourOf(0), 0);
  EXPECT_EQ(HourOf(59), 0);
  EXPECT_EQ(HourOf(60), 1);
  EXPECT_EQ(HourOf(-1), -1);
  EXPECT_EQ(HourOf(-60), -1);
  EXPECT_EQ(HourOf(-61), -2);
}

// An index over a RocksDB of its own, and what it is to say.
class IndexInDb {
 public:
  explicit IndexInDb(size_t bytes_max) : bytes_max_(bytes_max) { Open(); }
  ~IndexInDb() { Close(); }

  void Reopen(bool make_hours = false) {
    Close();
    Open(make_hours);
  }
  void Set(int64_t minute, ShardId shard, const Bucket& bucket, bool is_saved = false) {
    DigestChange change(*index_);
    **change.Of(minute, shard) = bucket;
    ASSERT_TRUE(change.Finish().ok());
    if (is_saved) {
      rocksdb::WriteBatch batch;
      index_->StageChange(change, batch);
      ASSERT_TRUE(db_->Write({}, &batch).ok());
    } else {
      unsaved_.insert(minute);
    }
    index_->Apply(change, is_saved);
    if (bucket.digest.count > 0) {
      model_[{minute, shard}] = bucket;
    } else {
      model_.erase({minute, shard});
    }
  }
  void Save(int64_t minute) {
    rocksdb::WriteBatch batch;
    index_->Stage(minute, batch);
    ASSERT_TRUE(db_->Write({}, &batch).ok());
    index_->Saved(minute);
    unsaved_.erase(minute);
  }
  void SaveAll() {
    while (!unsaved_.empty()) Save(*unsaved_.begin());
  }
  void ExpectAll() const {
    std::map<BucketId, Bucket> found;
    ASSERT_TRUE(index_
                    ->Visit(kFirstBucket, kLastBucket,
                            [&](const BucketId& id, const Bucket& bucket) {
                              EXPECT_TRUE(found.emplace(id, bucket).second);
                              EXPECT_FALSE(found.upper_bound(id) != found.end()) << "in order";
                              return true;
                            })
                    .ok());
    EXPECT_EQ(found.size(), model_.size());
    std::map<ShardId, Digest> shards;
    std::map<std::pair<ShardId, int64_t>, Digest> hours;
    std::map<int64_t, Digest> minutes;
    uint64_t count = 0;
    for (const auto& [id, bucket] : model_) {
      ASSERT_TRUE(found.contains(id)) << id.minute << " " << id.shard;
      EXPECT_EQ(found[id].digest, bucket.digest);
      EXPECT_EQ(index_->Find(id.minute, id.shard)->newest_accepted_s, bucket.newest_accepted_s);
      shards[id.shard].Add(bucket.digest);
      hours[{id.shard, HourOf(id.minute)}].Add(bucket.digest);
      minutes[id.minute].Add(bucket.digest);
      count += bucket.digest.count;
    }
    EXPECT_EQ(index_->event_count(), count);
    for (ShardId shard = 0; shard < kShards; ++shard) {
      EXPECT_EQ(index_->ShardDigest(shard), shards[shard]);
    }
    for (const auto& [minute, digest] : minutes) EXPECT_EQ(*index_->MinuteDigest(minute), digest);
    EXPECT_EQ(index_->Find(1 << 20, 0)->digest.count, 0u);
    const auto newest = index_->NewestMinute();
    ASSERT_TRUE(newest.ok());
    EXPECT_EQ(*newest, minutes.empty() ? std::nullopt : std::optional(minutes.rbegin()->first));
    ExpectPages(hours);
  }
  size_t resident() const { return index_->resident(); }
  DigestIndex& index() { return *index_; }
  bool Has(const BucketId& id) const { return model_.contains(id); }

 private:
  void ExpectPages(const std::map<std::pair<ShardId, int64_t>, Digest>& hours) const {
    std::map<std::pair<ShardId, int64_t>, uint64_t> told_hours, told_minutes;
    for (ShardId shard = 0; shard < kShards; ++shard) {
      std::optional<int64_t> after;
      for (bool more = true; more;) {
        DigestIndex::SetDigests page;
        ASSERT_TRUE(index_->AppendHours(shard, after, 3, page).ok());
        for (const v1::SetDigest& one : page) {
          EXPECT_TRUE(told_hours.emplace(std::pair(shard, one.start()), one.count()).second);
          after = one.start();
        }
        more = page.size() == 3;
      }
    }
    EXPECT_EQ(told_hours.size(), hours.size());
    for (const auto& [id, digest] : hours) {
      EXPECT_EQ(told_hours[id], digest.count) << id.first << " " << id.second;
      EXPECT_EQ(*index_->HourDigest(id.first, id.second), digest);
      std::optional<int64_t> after;
      for (bool more = true; more;) {
        DigestIndex::SetDigests page;
        ASSERT_TRUE(index_->AppendMinutes(id.first, id.second, after, 7, page).ok());
        for (const v1::SetDigest& one : page) {
          EXPECT_TRUE(told_minutes.emplace(std::pair(id.first, one.start()), one.count()).second);
          after = one.start();
        }
        more = page.size() == 7;
      }
    }
    EXPECT_EQ(told_minutes.size(), model_.size());
    for (const auto& [id, bucket] : model_) {
      EXPECT_EQ((told_minutes[{id.shard, id.minute}]), bucket.digest.count);
    }
  }

  void Open(bool make_hours = false) {
    rocksdb::Options options;
    options.create_if_missing = true;
    options.create_missing_column_families = true;
    rocksdb::DB* db = nullptr;
    ASSERT_TRUE(
        rocksdb::DB::Open(
            options, folder_.path() + "/db",
            {{rocksdb::kDefaultColumnFamilyName, options}, {"digest", options}, {"hours", options}},
            &families_, &db)
            .ok());
    db_.reset(db);
    index_ = std::make_unique<DigestIndex>(bytes_max_);
    index_->Open(db, families_[1], families_[2],
                 [](const rocksdb::Status& status, std::string_view what) {
                   return FromRocks(status, what);
                 });
    const auto marked = index_->Load(make_hours);
    ASSERT_TRUE(marked.ok()) << marked.status();
  }
  void Close() {
    index_.reset();
    for (auto* family : families_) db_->DestroyColumnFamilyHandle(family);
    families_.clear();
    db_.reset();
  }

  TempFolder folder_;
  const size_t bytes_max_;
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> families_;
  std::unique_ptr<DigestIndex> index_;
  std::map<BucketId, Bucket> model_;
  std::set<int64_t> unsaved_;
};

Bucket RandomBucket(std::mt19937& random) {
  Bucket bucket;
  for (uint32_t i = random() % 3; i > 0; --i) {
    bucket.Add(absl::StrCat("id", random()), random() % 1000 + 1, "tag");
  }
  return bucket;
}

class DigestIndexSizesTest : public testing::TestWithParam<size_t> {};

TEST_P(DigestIndexSizesTest, SumsAgreeWithTheBucketsAfterAnyChanges) {
  std::mt19937 random(11);
  IndexInDb db(GetParam());
  for (int step = 0; step < 2'400; ++step) {
    const int64_t minute = static_cast<int64_t>(random() % 200) - 90;
    db.Set(minute, random() % kShards, RandomBucket(random), random() % 50 == 0);
    if (random() % 4 == 0) db.Save(minute);
    if (step % 800 == 799) {
      db.ExpectAll();
      db.SaveAll();
      db.ExpectAll();
      db.Reopen(/*make_hours=*/step % 1'600 == 1'599);
      db.ExpectAll();
    }
  }
  for (int64_t minute = -90; minute < 110; ++minute) {
    for (ShardId shard = 0; shard < kShards; ++shard) {
      if (db.Has({minute, shard})) db.Set(minute, shard, {});
    }
  }
  db.ExpectAll();
  db.SaveAll();
  db.ExpectAll();
  db.Reopen();
  db.ExpectAll();
}

INSTANTIATE_TEST_SUITE_P(Memory, DigestIndexSizesTest, testing::Values(0, size_t{1} << 30));

TEST(DigestIndexTest, MemoryIsBoundedByWhatIsNotSaved) {
  constexpr size_t kMinutes = 1'000, kUnsaved = 50;
  IndexInDb db(0);
  const Bucket bucket = [] {
    Bucket made;
    made.Add("an id", 7, "tag");
    return made;
  }();
  for (size_t minute = 0; minute < kMinutes; ++minute) {
    db.Set(static_cast<int64_t>(minute) * 61, 0, bucket);
    if (minute >= kUnsaved) db.Save(static_cast<int64_t>(minute - kUnsaved) * 61);
    // Of the buckets and of the hours.
    ASSERT_LE(db.resident(), 2 * (kUnsaved + 1));
  }
  db.SaveAll();
  db.ExpectAll();
  db.Reopen();
  EXPECT_EQ(db.resident(), 0u);
  db.ExpectAll();
}

// What nobody changes is found by who reads, whatever comes and goes around it.
TEST(DigestIndexTest, ReadersFindWhatStaysWhileOthersComeAndGo) {
  std::mt19937 random(5);
  IndexInDb db(0);
  Bucket bucket;
  bucket.Add("an id", 7, "tag");
  constexpr int64_t kMinutes = 1'000;
  for (int64_t minute = 0; minute < kMinutes; minute += 2) db.Set(minute, 1, bucket);
  db.SaveAll();
  std::atomic<bool> done{false};
  std::atomic<int> walks{0};
  std::thread reader([&] {
    while (!done || walks < 3) {
      int64_t next = 0;
      ASSERT_TRUE(db.index()
                      .Visit(kFirstBucket, kLastBucket,
                             [&](const BucketId& id, const Bucket& found) {
                               if (id.shard != 1) return true;
                               EXPECT_EQ(id.minute, next);
                               EXPECT_EQ(found.digest.count, 1u);
                               next = id.minute + 2;
                               return true;
                             })
                      .ok());
      EXPECT_EQ(next, kMinutes);
      EXPECT_EQ(db.index().Find(next / 4 * 2, 1)->digest.count, 1u);
      ++walks;
    }
  });
  for (int step = 0; step < 5'000 || walks < 3; ++step) {
    const int64_t minute = static_cast<int64_t>(random() % kMinutes);
    db.Set(minute, random() % 2 == 0 ? 0 : 2, RandomBucket(random));
    db.Save(minute);
  }
  done = true;
  reader.join();
  db.ExpectAll();
}

}  // namespace
}  // namespace allezon::replica
