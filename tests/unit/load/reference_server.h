// SPDX-License-Identifier: Apache-2.0
//
// A platform in memory, as plain as the contract allows and with faults to order: it shows that the
// load generator accepts what is right and reports what is wrong. It uses nothing of the load
// generator, whose own mistakes it could not find otherwise.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "tests/unit/load/plain_http_server.h"

namespace allezon::load {

enum class Fault {
  kNone,
  kOtherSpelling,    // none: other field order, blanks and escapes, all of it right
  kCutTo200,         // none: keeps only what a profile must keep
  kDropTag,          // one in 100 is acknowledged and forgotten
  kCountTwice,       // one in 100 is counted twice by aggregates
  kTwiceInProfile,   // one in 100 stands twice in its profile
  kOldestFirst,      // profiles in the wrong order
  kIgnoreLimit,      // profiles of any length
  kProductIdText,    // 7 comes back as "7"
  kNoEmptyMinutes,   // minutes without tags have no row
  kNumbersNotText,   // counts as JSON numbers
  kFail500,          // one tag in 50
  kFailAfterStore,   // one tag in 50 is stored and answered 503
  kFailFirstTry,     // the first try of each second tag is stored, then answered 503
  kSlow,             // one tag in 50 is answered after 400 ms, stored before
  kCloseAfterEach,   // none: Connection: close on every answer
  kCloseUnanswered,  // one tag in 50 is stored, and its connection closed without an answer
  kRejectLine,       // one line of every batch
  kBadQueryStatus,   // one query in 10 is answered 500
};

class ReferenceServer {
 public:
  explicit ReferenceServer(Fault fault);

  int port() const { return server_->port(); }
  std::string address() const { return "127.0.0.1:" + std::to_string(port()); }
  uint64_t tags() const ABSL_LOCKS_EXCLUDED(mutex_);
  uint64_t expected_bodies() const { return expected_bodies_; }
  uint64_t queries() const { return queries_; }

 private:
  struct Stored {
    uint64_t number;  // of its arrival: breaks ties
    std::string time, cookie, country, device, action, origin, product_id, brand, category;
    int64_t price;
  };

  PlainResponse Handle(const PlainRequest& request);
  PlainResponse AddTag(const PlainRequest& request);
  PlainResponse AddBatch(const PlainRequest& request);
  // An error for the client, or empty.
  std::string Store(const std::string& body, const std::string& key)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  PlainResponse Profile(const PlainRequest& request);
  PlainResponse Aggregate(const PlainRequest& request);
  std::string TagJson(const Stored& tag) const;
  bool OneIn(uint64_t n) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return ++faults_ % n == 0; }

  const Fault fault_;
  std::atomic<uint64_t> expected_bodies_{0};
  std::atomic<uint64_t> queries_{0};

  mutable absl::Mutex mutex_;
  std::map<std::string, std::vector<Stored>> profiles_ ABSL_GUARDED_BY(mutex_);  // by cookie
  std::vector<Stored> counted_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> keys_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> tried_ ABSL_GUARDED_BY(mutex_);
  uint64_t stored_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t faults_ ABSL_GUARDED_BY(mutex_) = 0;

  std::unique_ptr<PlainHttpServer> server_;  // last, so that it ends first
};

}  // namespace allezon::load
