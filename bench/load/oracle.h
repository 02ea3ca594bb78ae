// SPDX-License-Identifier: Apache-2.0
//
// What the platform must answer, from what it acknowledged. A tag that was sent and never
// acknowledged is uncertain: it may be stored or not, for ever.
//
// Bounds: 200 numbers for each cookie and action, kRowsMax rows of aggregates, and one bit a tag
// once a write has failed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "bench/load/stream.h"

namespace allezon::load {

inline constexpr size_t kHistoryMax = 200;  // what a profile promises to keep of each action

// The newest tags of one cookie and action that were sent, acknowledged or not.
struct History {
  std::vector<uint32_t> newest;  // tag numbers, oldest first; at most kHistoryMax
  // The time of the newest tag that `newest` has let go: only what is later is promised.
  int64_t forgotten_ms = INT64_MIN;
};

// Which rows of a minute a query counts. Each filter is an id or kAny.
struct RowFilter {
  static constexpr int kAny = -1;
  static constexpr int kNone = -2;  // a value that no tag has
  Action action = Action::kView;
  int origin = kAny;
  int brand = kAny;
  int category = kAny;
};

// What a row of an aggregate must show: exact where count_extra is 0, else bounds.
struct MinuteTotals {
  int64_t count = 0;
  int64_t sum = 0;
  int64_t count_extra = 0;   // uncertain tags that match
  int64_t sum_negative = 0;  // the sum of their negative prices
  int64_t sum_positive = 0;
};

// Not thread-safe.
class Oracle {
 public:
  // `stream` must outlive it. `lag_ns_max` is the largest lag that SettledBefore will be asked for.
  Oracle(const TagStream& stream, int64_t lag_ns_max);

  // Tags are sent in the order of their numbers, each once; completed once each, in any order.
  void Sent(uint64_t index, const Tag& tag);
  void Completed(uint64_t index, bool acknowledged);
  // Call now and then (every few dozen milliseconds) with the clock that SettledBefore is asked by.
  void Checkpoint(int64_t now_ns);

  // Every tag with a lower number was completed at least lag_ns before now_ns.
  uint64_t SettledBefore(int64_t now_ns, int64_t lag_ns) const;
  uint64_t sent() const { return sent_; }
  uint64_t completed_before() const { return completed_before_; }

  bool IsUncertain(uint64_t index) const { return index < uncertain_.size() && uncertain_[index]; }
  const History& HistoryOf(uint32_t cookie, Action action) const {
    return histories_[cookie][static_cast<int>(action)];
  }

  // Minutes (time / 60 s) whose tags are all here: [first, last]. Empty: first > last. Tags of
  // minutes before it were let go.
  std::pair<int64_t, int64_t> KeptMinutes() const;
  MinuteTotals Totals(int64_t minute, const RowFilter& filter) const;
  // The filter that matches a random acknowledged tag of the minute in all its fields; nullopt
  // where there is none.
  std::optional<RowFilter> RandomRow(int64_t minute, Random* random) const;

 private:
  static constexpr size_t kRowsMax = 8 << 20;
  static constexpr int64_t kMinutesMax = 23 * 60;  // the platform keeps 24 hours
  static constexpr int64_t kCheckpointNs = 20'000'000;

  struct Minute {
    std::vector<uint64_t> rows, uncertain;  // packed, see Pack in the source
  };
  Minute* MinuteOf(int64_t time_ms);
  void TrimMinutes();

  const TagStream& stream_;
  const int64_t lag_ns_max_;
  std::vector<std::array<History, kActions>> histories_;

  uint64_t sent_ = 0;
  uint64_t completed_before_ = 0;
  std::deque<bool> completed_;  // of the tags from completed_before_ on
  std::vector<bool> uncertain_;
  std::deque<std::pair<int64_t, uint64_t>> checkpoints_;  // (when, completed_before_)

  int64_t first_minute_;
  std::deque<Minute> minutes_;
  size_t rows_ = 0;
};

}  // namespace allezon::load
