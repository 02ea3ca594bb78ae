// SPDX-License-Identifier: Apache-2.0
#include "replica/expired_ranges.h"

#include <xxhash.h>

#include <algorithm>
#include <iterator>

namespace allezon::replica {
namespace {

uint64_t HashOf(int64_t from, const ExpiredRanges::Range& range) {
  const uint64_t words[] = {static_cast<uint64_t>(from), static_cast<uint64_t>(range.to),
                            uint64_t{range.mark.through_s} << 32 | range.mark.removed_through_s,
                            range.mark.expired_at_s};
  return XXH3_64bits(words, sizeof(words));
}

}  // namespace

void ExpiredMark::Join(const ExpiredMark& other) {
  through_s = std::max(through_s, other.through_s);
  removed_through_s = std::max(removed_through_s, other.removed_through_s);
  expired_at_s = std::max(expired_at_s, other.expired_at_s);
}

void ExpiredRanges::Set(int64_t from, const Range& range) {
  const auto [at, is_new] = ranges_.try_emplace(from, range);
  if (!is_new) {
    hash_ -= HashOf(from, at->second);
    at->second = range;
  }
  hash_ += HashOf(from, range);
}

void ExpiredRanges::Erase(Map::iterator at) {
  hash_ -= HashOf(at->first, at->second);
  ranges_.erase(at);
}

void ExpiredRanges::Split(int64_t minute) {
  auto at = ranges_.lower_bound(minute);
  if (at == ranges_.begin()) return;
  --at;
  const Range whole = at->second;
  if (at->first >= minute || whole.to <= minute) return;
  Set(at->first, {minute, whole.mark});
  Set(minute, whole);
}

void ExpiredRanges::Join(int64_t from, int64_t to, const ExpiredMark& mark) {
  if (from >= to || mark.empty()) return;
  Split(from);
  Split(to);
  // In pieces: what is there is joined, and the gaps are filled.
  int64_t minute = from;
  while (minute < to) {
    const auto at = ranges_.lower_bound(minute);
    if (at == ranges_.end() || at->first >= to) {
      Set(minute, {to, mark});
      break;
    }
    const int64_t begin = at->first;
    Range joined = at->second;
    if (begin > minute) Set(minute, {begin, mark});
    joined.mark.Join(mark);
    Set(begin, joined);
    minute = joined.to;
  }
  // Neighbours that say the same grow together.
  auto at = ranges_.lower_bound(from);
  if (at != ranges_.begin()) --at;
  while (at != ranges_.end() && at->first <= to) {
    const auto next = std::next(at);
    if (next == ranges_.end()) break;
    if (at->second.to != next->first || at->second.mark != next->second.mark) {
      at = next;
      continue;
    }
    const int64_t begin = at->first;
    const Range grown{next->second.to, at->second.mark};
    Erase(next);
    Set(begin, grown);
    at = ranges_.find(begin);
  }
}

ExpiredMark ExpiredRanges::Find(int64_t minute) const {
  auto at = ranges_.upper_bound(minute);
  if (at == ranges_.begin()) return {};
  --at;
  return minute < at->second.to ? at->second.mark : ExpiredMark();
}

bool ExpiredRanges::Has(int64_t from, int64_t to, const ExpiredMark& mark) const {
  auto at = ranges_.upper_bound(from);
  if (at != ranges_.begin()) --at;
  for (int64_t minute = from; minute < to; ++at) {
    if (at == ranges_.end() || at->first > minute || at->second.to <= minute) return false;
    ExpiredMark joined = at->second.mark;
    joined.Join(mark);
    if (joined != at->second.mark) return false;
    minute = at->second.to;
  }
  return true;
}

ExpiredRanges::Map::const_iterator ExpiredRanges::Beyond(std::optional<int64_t> to) const {
  if (!to) return ranges_.begin();
  const auto at = ranges_.lower_bound(*to);
  return at != ranges_.begin() && std::prev(at)->second.to > *to ? std::prev(at) : at;
}

ExpiredRanges ExpiredRanges::Touching(int64_t from, int64_t to) const {
  ExpiredRanges touching;
  auto at = ranges_.lower_bound(from);
  if (at != ranges_.begin() && std::prev(at)->second.to >= from) --at;
  for (; at != ranges_.end() && at->first <= to; ++at) touching.Set(at->first, at->second);
  return touching;
}

void ExpiredRanges::Replace(const ExpiredRanges& before, const ExpiredRanges& now) {
  for (const auto& [from, range] : before.ranges_) Erase(ranges_.find(from));
  for (const auto& [from, range] : now.ranges_) Set(from, range);
}

}  // namespace allezon::replica
