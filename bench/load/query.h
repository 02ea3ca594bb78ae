// SPDX-License-Identifier: Apache-2.0
//
// Random queries, each with the answer that the contract promises for it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench/load/oracle.h"
#include "bench/load/stream.h"

namespace allezon::load {

// What goes over the wire.
struct QueryRequest {
  bool get = false;    // GET without a body, else POST
  std::string target;  // path and query
  std::string body;    // the expected answer; empty where more than one answer is right
};

struct ProfileQuery {
  struct Entry {
    uint32_t index;  // of the tag
    bool uncertain;  // the answer may show it or not
  };
  QueryRequest request;
  std::optional<uint32_t> cookie;  // none: a cookie that was never sent
  std::string cookie_name;
  int limit = 0;                          // as the contract takes it: 0 to 200
  std::vector<Entry> expected[kActions];  // newest first, not yet cut to the limit
  // The whole answer where it is certain, whatever is sent as the body.
  std::string answer;
};

struct AggregateQuery {
  struct Row {
    int64_t minute;
    MinuteTotals totals;
  };
  QueryRequest request;
  std::vector<std::string> columns;
  std::vector<std::string>
      fixed;               // the values of the columns between the bucket and the aggregates
  std::vector<bool> sums;  // each aggregate in order: SUM_PRICE, else COUNT
  std::vector<Row> rows;
  bool certain = true;
  std::string answer;
};

// Makes queries about what is settled. Not thread-safe; what it is given must outlive it.
class QueryMaker {
 public:
  QueryMaker(const TagStream& stream, const Oracle& oracle, uint64_t seed);

  // A profile query about tags numbered below `settled`; nullopt where nothing can be asked yet.
  std::optional<ProfileQuery> Profile(uint64_t settled);
  // The whole profile of a cookie, as far as the contract promises it. `settled` is all.
  ProfileQuery WholeProfile(uint32_t cookie, uint64_t settled);

  std::optional<AggregateQuery> Aggregate(uint64_t settled);
  // Everything of one action in the minutes [from, to), at most 10.
  AggregateQuery WholeAggregate(int64_t from_minute, int64_t to_minute, Action action);

 private:
  struct Range {
    int64_t from_ms, to_ms;  // [from, to)
  };
  // [the earliest time that both actions' histories promise, before which all is settled).
  Range PromisedRange(uint32_t cookie, int64_t horizon_ms) const;
  void Expect(const Range& range, ProfileQuery* query);
  void Spell(const Range& range, std::string_view limit, ProfileQuery* query);
  AggregateQuery Count(int64_t from_minute, int64_t to_minute, const RowFilter& filter,
                       const std::vector<bool>& sums);
  void AppendBound(int64_t time_ms, bool may_shorten, std::string* out);
  void AppendAggregates(const std::vector<bool>& sums, std::string* out);

  const TagStream& stream_;
  const Oracle& oracle_;
  Random random_;
};

}  // namespace allezon::load
