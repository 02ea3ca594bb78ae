// SPDX-License-Identifier: Apache-2.0
//
// What retention has expired of one shard, by minute, in as few ranges as say it. Records of two
// replicas are joined by the larger of each number, in any order and however often: so replicas
// that have told each other everything have the same ranges. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/container/btree_map.h"

namespace allezon::replica {

// Of a minute. Seconds since 1970.
struct ExpiredMark {
  uint32_t through_s = 0;          // what was accepted up to then is removed, and stays so
  uint32_t removed_through_s = 0;  // views may keep what was accepted up to then
  uint32_t expired_at_s = 0;       // when that was decided

  bool empty() const { return *this == ExpiredMark(); }
  void Join(const ExpiredMark& other);
  friend bool operator==(const ExpiredMark&, const ExpiredMark&) = default;
};

class ExpiredRanges {
 public:
  struct Range {
    int64_t to = 0;  // the minute after the last
    ExpiredMark mark;
    friend bool operator==(const Range&, const Range&) = default;
  };
  using Map = absl::btree_map<int64_t, Range>;  // by the first minute; apart from each other

  // Joins `mark` to every minute of [from, to).
  void Join(int64_t from, int64_t to, const ExpiredMark& mark);
  // Of the minute; empty where it never was expired.
  ExpiredMark Find(int64_t minute) const;
  // Whether joining `mark` to [from, to) would change nothing.
  bool Has(int64_t from, int64_t to, const ExpiredMark& mark) const;
  // The first range that reaches beyond `to`, the end of another one; of all where there is none.
  // So whoever goes on there passes over nothing, also where that one has grown meanwhile.
  Map::const_iterator Beyond(std::optional<int64_t> to) const;
  // The ranges that touch [from, to): what Join may change or grow together with.
  ExpiredRanges Touching(int64_t from, int64_t to) const;
  // Puts `now` in the place of `before`, which Touching gave.
  void Replace(const ExpiredRanges& before, const ExpiredRanges& now);

  const Map& ranges() const { return ranges_; }
  // Equal where the ranges are.
  uint64_t hash() const { return hash_; }

 private:
  // Makes a range begin at the minute where one goes across it.
  void Split(int64_t minute);
  void Set(int64_t from, const Range& range);
  void Erase(Map::iterator at);

  Map ranges_;
  uint64_t hash_ = 0;  // a sum over the ranges
};

}  // namespace allezon::replica
