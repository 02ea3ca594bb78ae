// SPDX-License-Identifier: Apache-2.0
//
// Services that are not there: writers and readers that answer what a test says.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gateway/api.h"
#include "router/readers.h"
#include "router/writer.h"

namespace allezon::gateway {

// Keeps what it is given. Answers at once with what `outcome` says, or, while it holds, not at all.
class FakeWriter final : public router::Writer {
 public:
  void Write(router::EventRef event, absl::Time, std::shared_ptr<router::WriteDone> done) override {
    absl::Status status;
    {
      absl::MutexLock lock(&mutex_);
      events_.push_back(event);
      if (hold_) {
        held_.push_back(std::move(done));
        return;
      }
      if (outcome_) status = outcome_(*event);
    }
    done->Done(status);
  }

  void SetOutcome(std::function<absl::Status(const router::Event&)> outcome) {
    absl::MutexLock lock(&mutex_);
    outcome_ = std::move(outcome);
  }
  void Hold() {
    absl::MutexLock lock(&mutex_);
    hold_ = true;
  }
  void Release(const absl::Status& status) {
    std::vector<std::shared_ptr<router::WriteDone>> held;
    {
      absl::MutexLock lock(&mutex_);
      hold_ = false;
      held.swap(held_);
    }
    for (const auto& done : held) done->Done(status);
  }
  // Waits for so many events in all.
  bool WaitForEvents(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return events_.size() >= count;
    };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(20));
  }
  std::vector<router::EventRef> events() const {
    absl::MutexLock lock(&mutex_);
    return events_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::vector<router::EventRef> events_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<router::WriteDone>> held_ ABSL_GUARDED_BY(mutex_);
  std::function<absl::Status(const router::Event&)> outcome_ ABSL_GUARDED_BY(mutex_);
  bool hold_ ABSL_GUARDED_BY(mutex_) = false;
};

// Queries come from many threads at once; what to do with them is said while none is on its way.
class FakeProfileReader final : public router::ProfileReader {
 public:
  absl::StatusOr<router::Profile> Read(const router::ProfileQuery& query, absl::Time) override {
    {
      absl::MutexLock lock(&mutex_);
      last_ = query;
    }
    if (before) before();
    return answer;
  }
  router::ProfileQuery last() const {
    absl::MutexLock lock(&mutex_);
    return last_;
  }
  std::function<void()> before;
  absl::StatusOr<router::Profile> answer = router::Profile{};

 private:
  mutable absl::Mutex mutex_;
  router::ProfileQuery last_ ABSL_GUARDED_BY(mutex_);
};

class FakeAggregateReader final : public router::AggregateReader {
 public:
  absl::StatusOr<std::vector<router::AggregateBucket>> Query(const router::AggregateQuery& query,
                                                             absl::Time) override {
    ++calls;
    if (!answer.ok()) return answer.status();
    std::vector<router::AggregateBucket> buckets;
    for (int64_t m = query.from_minute; m < query.to_minute; ++m) buckets.push_back({m, 0, 0});
    for (const router::AggregateBucket& bucket : *answer) {
      for (auto& b : buckets) {
        if (b.minute == bucket.minute) b = bucket;
      }
    }
    return buckets;
  }
  absl::StatusOr<std::vector<router::AggregateBucket>> answer =
      std::vector<router::AggregateBucket>{};
  std::atomic<int> calls{0};
};

struct FakeServices {
  FakeWriter profile_writer;
  FakeWriter aggregate_writer;
  FakeProfileReader profile_reader;
  FakeAggregateReader aggregate_reader;
  absl::Status ready;

  Backends backends() {
    return {profile_writer, aggregate_writer, profile_reader, aggregate_reader,
            [this](absl::Time) { return ready; }};
  }
};

// Text with the room behind it that parsers need.
class Padded {
 public:
  explicit Padded(std::string_view text) : bytes_(text), size_(text.size()) {
    bytes_.resize(size_ + 64);
  }
  std::string_view text() const { return std::string_view(bytes_).substr(0, size_); }

 private:
  std::string bytes_;
  size_t size_;
};

inline Response HandleAndWait(Api& api, const Plan& plan, const std::vector<std::string>& keys,
                              std::string_view body) {
  std::promise<Response> answer;
  api.Handle(plan, keys, body, [&](Response response) { answer.set_value(std::move(response)); });
  return answer.get_future().get();
}

inline constexpr char kTagJson[] =
    R"({"time":"2022-03-22T12:15:00.000Z","cookie":"c1","country":"PL","device":"PC","action":"VIEW",)"
    R"("origin":"campaign","product_info":{"product_id":7,"brand_id":"Nike","category_id":"shoes",)"
    R"("price":1299}})";

inline std::string Replaced(std::string text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

}  // namespace allezon::gateway
