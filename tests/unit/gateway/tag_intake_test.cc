// SPDX-License-Identifier: Apache-2.0
//
// How much of several batches is on its way at a time.
#include "gateway/tag_intake.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

namespace allezon::gateway {
namespace {

constexpr int kBatches = 20;
constexpr size_t kLines = 6'000;
constexpr char kFirstCookie[] = "the-first-line";

// Takes as long as a test wants, and counts.
class SlowWriter final : public router::Writer {
 public:
  void Write(router::EventRef event, absl::Time, std::shared_ptr<router::WriteDone> done) override {
    absl::MutexLock lock(&mutex_);
    if (event->tag.find(kFirstCookie) != std::string::npos) ++batches_;
    waiting_.push_back(std::move(done));
    most_ = std::max(most_, waiting_.size());
  }
  // Ends up to so many.
  size_t End(size_t count) {
    std::vector<std::shared_ptr<router::WriteDone>> ended;
    {
      absl::MutexLock lock(&mutex_);
      for (; count > 0 && !waiting_.empty(); --count) {
        ended.push_back(std::move(waiting_.front()));
        waiting_.pop_front();
      }
    }
    for (const auto& done : ended) done->Done(absl::OkStatus());
    return ended.size();
  }
  void AwaitWaiting(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto wait = [this, count]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return waiting_.size() >= count;
    };
    mutex_.Await(absl::Condition(&wait));
  }
  void AwaitBatches(int count) {
    absl::MutexLock lock(&mutex_);
    const auto begun = [this, count]()
                           ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return batches_ >= count; };
    mutex_.Await(absl::Condition(&begun));
  }
  size_t most() {
    absl::MutexLock lock(&mutex_);
    return most_;
  }
  void ForgetMost() {
    absl::MutexLock lock(&mutex_);
    most_ = 0;
  }

 private:
  absl::Mutex mutex_;
  std::deque<std::shared_ptr<router::WriteDone>> waiting_ ABSL_GUARDED_BY(mutex_);
  size_t most_ ABSL_GUARDED_BY(mutex_) = 0;
  int batches_ ABSL_GUARDED_BY(mutex_) = 0;  // whose first line has come
};

class TagIntakeTest : public testing::Test {
 protected:
  static std::string Batch() {
    std::string body;
    for (size_t i = 0; i < kLines; ++i) {
      absl::StrAppend(&body, R"({"time":"2022-03-22T12:15:00.000Z","cookie":")",
                      i == 0 ? kFirstCookie : "c",
                      R"(","country":"PL","device":"PC","action":"VIEW","origin":"o",)",
                      R"("product_info":{"product_id":1,"brand_id":"b","category_id":"k",)",
                      R"("price":1}})", "\n");
    }
    body.reserve(body.size() + 64);  // kJsonPaddingBytes
    return body;
  }

  SlowWriter profiles_, aggregates_;
  TagIntake intake_{profiles_, aggregates_, {.batch_timeout = absl::Minutes(5)}};
};

TEST_F(TagIntakeTest, ABatchAloneMayHaveManyLinesOnTheirWay) {
  const std::string body = Batch();
  std::thread batch([&] { EXPECT_EQ(intake_.AddBatch(body, "").status, 200); });
  profiles_.AwaitWaiting(kBatchLinesInFlightMax);
  EXPECT_EQ(profiles_.most(), kBatchLinesInFlightMax);
  for (size_t ended = 0; ended < 2 * kLines;) {
    ended += profiles_.End(kLines) + aggregates_.End(kLines);
  }
  batch.join();
}

TEST_F(TagIntakeTest, ManyBatchesShareWhatMayBeOnItsWayAndAreAllStored) {
  const std::string body = Batch();
  std::vector<std::thread> batches;
  for (int i = 0; i < kBatches; ++i) {
    batches.emplace_back([&] {
      const Response response = intake_.AddBatch(body, "");
      EXPECT_EQ(response.status, 200) << response.body;
    });
  }
  profiles_.AwaitBatches(kBatches);
  // What was let in while there were fewer batches goes first.
  size_t ended = 0;
  const auto end = [&](size_t lines) {
    for (const size_t until = ended + 2 * lines; ended < until;) {
      ended += profiles_.End(100) + aggregates_.End(100);
    }
  };
  end(kBatches * kBatchLinesInFlightMax / 2);
  profiles_.ForgetMost();
  profiles_.AwaitWaiting(kLinesInFlightMax - kBatches);
  EXPECT_LE(profiles_.most(), kLinesInFlightMax);
  end(kBatches * kLines - ended / 2);
  for (std::thread& batch : batches) batch.join();
}

}  // namespace
}  // namespace allezon::gateway
