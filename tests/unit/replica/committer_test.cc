// SPDX-License-Identifier: Apache-2.0
#include "replica/committer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <latch>

#include "testing.h"

namespace allezon::replica {
namespace {

class TestSubmission final : public Submission {
 public:
  TestSubmission(absl::Span<const LogEntry> entries, std::function<void(const absl::Status&)> done)
      : entries_(entries.begin(), entries.end()), done_(std::move(done)) {}
  absl::Span<const LogEntry> entries() const override { return entries_; }
  void Done(const absl::Status& status) override { done_(status); }

 private:
  std::vector<LogEntry> entries_;
  std::function<void(const absl::Status&)> done_;
};

class CommitterTest : public testing::Test {
 protected:
  void SetUp() override {
    StoreOptions options;
    options.path = folder_.path();
    options.service = "profile";
    auto store = Store::Open(options, view_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  TempFolder folder_;
  RememberingView view_;
  std::unique_ptr<Store> store_;
};

TEST_F(CommitterTest, AnswersEverySubmissionOfManyThreadsOnceItIsInTheSet) {
  constexpr int kThreads = 4;
  constexpr int kEach = 200;
  Entries entries;
  for (int i = 0; i < kThreads * kEach; ++i) entries.Add(absl::StrCat("c", i), i);
  Committer committer(*store_, {}, [] {});
  std::latch done(kThreads * kEach);
  std::atomic<int> failed = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < kEach; ++i) {
          auto submission = std::make_unique<TestSubmission>(
              entries.all().subspan(t * kEach + i, 1), [&](const absl::Status& status) {
                if (!status.ok()) ++failed;
                done.count_down();
              });
          ASSERT_TRUE(committer.Submit(std::move(submission)).ok());
        }
      });
    }
  }
  done.wait();
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(store_->EventCount(), size_t{kThreads * kEach});
}

TEST_F(CommitterTest, StopCommitsWhatIsQueuedAndRefusesWhatComesLater) {
  Entries entries;
  for (int i = 0; i < 5000; ++i) entries.Add(absl::StrCat("c", i), i);
  Committer committer(*store_, {}, [] {});
  std::atomic<int> answered = 0;
  for (int i = 0; i < 5000; ++i) {
    ASSERT_TRUE(committer
                    .Submit(std::make_unique<TestSubmission>(
                        entries.all().subspan(i, 1),
                        [&](const absl::Status& status) { answered += status.ok(); }))
                    .ok());
  }
  committer.Stop();
  EXPECT_EQ(answered, 5000);
  EXPECT_EQ(store_->EventCount(), 5000u);
  const absl::Status late = committer.Submit(std::make_unique<TestSubmission>(
      entries.all().subspan(0, 1), [](const absl::Status&) { FAIL(); }));
  EXPECT_EQ(late.code(), absl::StatusCode::kUnavailable);
}

TEST_F(CommitterTest, AFullQueueRefusesInsteadOfGrowing) {
  Entries entries;
  for (int i = 0; i < 20; ++i) entries.Add(absl::StrCat("c", i), i);
  std::latch blocked(1);
  std::latch release(1);
  std::atomic<int> answered = 0;
  Committer committer(*store_, {.queue_events_max = 10}, [] {});
  // The first one holds the committer's thread in its Done.
  ASSERT_TRUE(committer
                  .Submit(std::make_unique<TestSubmission>(entries.all().subspan(0, 1),
                                                           [&](const absl::Status&) {
                                                             blocked.count_down();
                                                             release.wait();
                                                           }))
                  .ok());
  blocked.wait();
  const auto submit = [&](int first, int count) {
    return committer.Submit(std::make_unique<TestSubmission>(
        entries.all().subspan(first, count), [&](const absl::Status&) { ++answered; }));
  };
  EXPECT_TRUE(submit(1, 6).ok());
  EXPECT_EQ(submit(7, 5).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(submit(7, 4).ok());
  EXPECT_EQ(committer.queued_events(), 10u);
  release.count_down();
  committer.Stop();
  EXPECT_EQ(answered, 2);
  EXPECT_EQ(store_->EventCount(), 11u);
}

TEST_F(CommitterTest, TasksRunInOrderOnTheThreadThatCommits) {
  Entries entries;
  for (int i = 0; i < 100; ++i) entries.Add(absl::StrCat("c", i), i);
  Committer committer(*store_, {.batch_events_max = 1}, [] {});
  std::atomic<int> answered = 0;
  std::thread::id committing;
  std::vector<int> ran;
  std::vector<std::thread::id> threads;
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(committer
                    .Submit(std::make_unique<TestSubmission>(entries.all().subspan(i, 1),
                                                             [&](const absl::Status& status) {
                                                               answered += status.ok();
                                                               committing =
                                                                   std::this_thread::get_id();
                                                             }))
                    .ok());
    ASSERT_TRUE(committer
                    .Run([&, i] {
                      ran.push_back(i);
                      threads.push_back(std::this_thread::get_id());
                    })
                    .ok());
  }
  committer.Stop();
  EXPECT_EQ(answered, 100);
  ASSERT_EQ(ran.size(), 100u);
  EXPECT_TRUE(std::is_sorted(ran.begin(), ran.end()));
  for (const std::thread::id thread : threads) EXPECT_EQ(thread, committing);
}

TEST_F(CommitterTest, TooManyTasksAreRefusedAndThoseThatWaitAtStopAreRun) {
  std::latch blocked(1);
  std::latch release(1);
  int ran = 0;
  Committer committer(*store_, {.tasks_max = 3}, [] {});
  ASSERT_TRUE(committer
                  .Run([&] {
                    blocked.count_down();
                    release.wait();
                  })
                  .ok());
  blocked.wait();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(committer.Run([&] { ++ran; }).ok());
  EXPECT_EQ(committer.Run([] { FAIL(); }).code(), absl::StatusCode::kResourceExhausted);
  std::jthread stopper([&] { committer.Stop(); });
  // Once Stop is heard, nothing more is taken.
  while (committer.Run([] { FAIL(); }).code() != absl::StatusCode::kUnavailable) {
    std::this_thread::yield();
  }
  release.count_down();
  stopper.join();
  EXPECT_EQ(ran, 3);
}

TEST_F(CommitterTest, TicksComeByThemselves) {
  std::latch ticked(3);
  std::atomic<int> left = 3;
  Committer committer(*store_, {.maintain_period = absl::Milliseconds(1)}, [&] {
    if (left.fetch_sub(1) > 0) ticked.count_down();
  });
  ticked.wait();
}

}  // namespace
}  // namespace allezon::replica
