// SPDX-License-Identifier: Apache-2.0
#include "bench/load/query.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "bench/load/text.h"

namespace allezon::load {
namespace {

constexpr int kLimitMax = 200;
constexpr int64_t kMinutesAskedMax = 10;
constexpr int kTries = 8;
constexpr std::string_view kUnknownValue = "a value that no tag has";

// One query in so many is spelt or put in an unusual way that the contract allows.
constexpr uint64_t kUnusualOneIn = 32;

}  // namespace

QueryMaker::QueryMaker(const TagStream& stream, const Oracle& oracle, uint64_t seed)
    : stream_(stream), oracle_(oracle), random_(Mix(seed ^ 0x7175657279)) {}

QueryMaker::Range QueryMaker::PromisedRange(uint32_t cookie, int64_t horizon_ms) const {
  int64_t from_ms = stream_.options().start_ms;
  for (const Action action : {Action::kView, Action::kBuy}) {
    const int64_t forgotten_ms = oracle_.HistoryOf(cookie, action).forgotten_ms;
    if (forgotten_ms != INT64_MIN) from_ms = std::max(from_ms, forgotten_ms + 1);
  }
  return {from_ms, horizon_ms};
}

std::optional<ProfileQuery> QueryMaker::Profile(uint64_t settled) {
  if (settled == 0) return std::nullopt;
  const int64_t horizon_ms = stream_.EarliestMs(settled);
  ProfileQuery query;
  Range range{stream_.options().start_ms, horizon_ms};
  if (random_.OneIn(kUnusualOneIn)) {
    query.cookie_name =
        stream_.CookieName(stream_.options().cookies);  // the first that is not there
  } else {
    // By a tag, so that popular cookies are asked for often. One whose 200 newest are all too
    // young is left alone.
    for (int i = 0; i < kTries; ++i) {
      query.cookie = stream_.At(random_.Below(settled)).cookie;
      range = PromisedRange(*query.cookie, horizon_ms);
      if (range.from_ms < range.to_ms) break;
    }
    query.cookie_name = stream_.CookieName(*query.cookie);
  }
  if (range.from_ms >= range.to_ms) return std::nullopt;

  const auto span = static_cast<uint64_t>(range.to_ms - range.from_ms);
  if (random_.OneIn(2)) range.from_ms += static_cast<int64_t>(random_.Below(span));
  if (random_.OneIn(2)) {
    range.to_ms -=
        static_cast<int64_t>(random_.Below(static_cast<uint64_t>(range.to_ms - range.from_ms) + 1));
  }

  std::string limit;
  query.limit = static_cast<int>(random_.Below(kLimitMax + 1));
  if (random_.OneIn(4)) query.limit = kLimitMax;
  const uint64_t unusual = random_.Below(kUnusualOneIn);
  if (unusual == 0) query.limit = 0;
  if (unusual == 1 || unusual == 2) query.limit = kLimitMax;
  if (unusual == 1) limit = "100000";  // more is taken as 200
  if (unusual > 2) AppendInt(query.limit, &limit);
  if (unusual == 0) limit = "0";
  // unusual == 2: none is given, which is 200.
  Expect(range, &query);
  Spell(range, limit, &query);
  return query;
}

ProfileQuery QueryMaker::WholeProfile(uint32_t cookie, uint64_t settled) {
  ProfileQuery query;
  query.cookie = cookie;
  query.cookie_name = stream_.CookieName(cookie);
  query.limit = kLimitMax;
  // Past the latest time that a tag can have.
  Range range =
      PromisedRange(cookie, stream_.EarliestMs(settled) + stream_.options().step_us / 1000 +
                                stream_.options().jitter_ms + kMsPerMinute);
  Expect(range, &query);
  Spell(range, "200", &query);
  return query;
}

void QueryMaker::Expect(const Range& range, ProfileQuery* query) {
  bool certain = true;
  query->answer = "{\"cookie\":";
  AppendJsonString(query->cookie_name, &query->answer);
  for (const Action action : {Action::kView, Action::kBuy}) {
    query->answer += action == Action::kView ? ",\"views\":[" : ",\"buys\":[";
    auto& expected = query->expected[static_cast<int>(action)];
    int64_t before_ms = INT64_MAX;
    if (query->cookie.has_value()) {
      const std::vector<uint32_t>& newest = oracle_.HistoryOf(*query->cookie, action).newest;
      for (auto index = newest.rbegin(); index != newest.rend(); ++index) {
        const int64_t time_ms = stream_.TimeMs(*index);
        if (time_ms < range.from_ms) break;
        if (time_ms >= range.to_ms) continue;
        const bool uncertain = oracle_.IsUncertain(*index);
        certain = certain && !uncertain && time_ms != before_ms;
        before_ms = time_ms;
        if (certain && static_cast<int>(expected.size()) < query->limit) {
          if (!expected.empty()) query->answer.push_back(',');
          stream_.AppendAnswer(stream_.At(*index), &query->answer);
        }
        expected.push_back({*index, uncertain});
      }
    }
    query->answer.push_back(']');
  }
  query->answer.push_back('}');
  if (!certain) query->answer.clear();
}

void QueryMaker::AppendBound(int64_t time_ms, bool may_shorten, std::string* out) {
  std::string text;
  if (may_shorten && time_ms % kMsPerSecond == 0) {
    AppendSeconds(time_ms, &text);
  } else {
    AppendMillis(time_ms, &text);
  }
  if (random_.OneIn(kUnusualOneIn)) {
    AppendPercentEncoded(text, out);
  } else {
    out->append(text);
  }
}

void QueryMaker::Spell(const Range& range, std::string_view limit, ProfileQuery* query) {
  std::string& target = query->request.target;
  target = "/user_profiles/";
  AppendPercentEncoded(query->cookie_name, &target);
  target += "?time_range=";
  AppendBound(range.from_ms, random_.OneIn(2), &target);
  target.push_back('_');
  AppendBound(range.to_ms, random_.OneIn(2), &target);
  if (!limit.empty()) {
    // The assignment writes a second question mark where it means an ampersand.
    target += random_.OneIn(kUnusualOneIn) ? "?limit=" : "&limit=";
    target += limit;
  }
  query->request.get = random_.OneIn(kUnusualOneIn);
  if (!query->request.get) query->request.body = query->answer;
}

std::optional<AggregateQuery> QueryMaker::Aggregate(uint64_t settled) {
  if (settled == 0) return std::nullopt;
  const int64_t first = oracle_.KeptMinutes().first;
  const int64_t end = stream_.EarliestMs(settled) / kMsPerMinute;
  if (end <= first) return std::nullopt;

  // The newest minutes half of the time, else any that are kept.
  const auto span = static_cast<uint64_t>(end - first);
  const int64_t to = random_.OneIn(2) ? end : first + 1 + static_cast<int64_t>(random_.Below(span));
  const int64_t longest = std::min(kMinutesAskedMax, to - first);
  int64_t from = to - 1 - static_cast<int64_t>(random_.Below(static_cast<uint64_t>(longest)));
  if (random_.OneIn(kUnusualOneIn)) from = to;  // an empty range has no rows

  const int64_t sample =
      std::min(from, end - 1) +
      static_cast<int64_t>(random_.Below(static_cast<uint64_t>(std::max<int64_t>(to - from, 1))));
  RowFilter filter = oracle_.RandomRow(sample, &random_).value_or(RowFilter{});
  if (random_.OneIn(2)) filter.origin = RowFilter::kAny;
  if (random_.OneIn(2)) filter.brand = RowFilter::kAny;
  if (random_.OneIn(2)) filter.category = RowFilter::kAny;
  if (random_.OneIn(kUnusualOneIn)) filter.origin = static_cast<int>(random_.Below(kOrigins));
  if (random_.OneIn(kUnusualOneIn)) filter.brand = RowFilter::kNone;

  std::vector<bool> sums{random_.OneIn(2)};
  if (random_.OneIn(2)) sums.push_back(!sums[0]);
  return Count(from, to, filter, sums);
}

AggregateQuery QueryMaker::WholeAggregate(int64_t from_minute, int64_t to_minute, Action action) {
  RowFilter filter;
  filter.action = action;
  return Count(from_minute, to_minute, filter, {false, true});
}

void QueryMaker::AppendAggregates(const std::vector<bool>& sums, std::string* out) {
  const uint64_t unusual = random_.Below(kUnusualOneIn);
  const auto name = [&](bool sum) {
    if (unusual == 0) return sum ? "sum_price" : "count";
    return sum ? "SUM_PRICE" : "COUNT";
  };
  for (size_t i = 0; i < sums.size(); ++i) {
    if (unusual == 1 && i > 0) {
      out->append(",");
    } else {
      out->append(unusual == 2 ? "&aggregates[]=" : "&aggregates=");
    }
    out->append(name(sums[i]));
  }
}

AggregateQuery QueryMaker::Count(int64_t from_minute, int64_t to_minute, const RowFilter& filter,
                                 const std::vector<bool>& sums) {
  AggregateQuery query;
  query.sums = sums;
  query.columns = {"1m_bucket", "action"};
  query.fixed = {std::string(ActionName(filter.action))};
  std::string& target = query.request.target;
  target = "/aggregates?time_range=";
  AppendBound(from_minute * kMsPerMinute, !random_.OneIn(kUnusualOneIn), &target);
  target.push_back('_');
  AppendBound(to_minute * kMsPerMinute, !random_.OneIn(kUnusualOneIn), &target);
  target.append("&action=").append(ActionName(filter.action));
  AppendAggregates(sums, &target);
  const auto add_filter = [&](std::string_view name, int id, const auto& value_of) {
    if (id == RowFilter::kAny) return;
    const std::string value = id == RowFilter::kNone ? std::string(kUnknownValue) : value_of(id);
    target.append("&").append(name).append("=");
    AppendPercentEncoded(value, &target);
    query.columns.emplace_back(name);
    query.fixed.push_back(value);
  };
  add_filter("origin", filter.origin, [&](int id) { return stream_.Origin(id); });
  add_filter("brand_id", filter.brand, [&](int id) { return stream_.Brand(id); });
  add_filter("category_id", filter.category, [&](int id) { return stream_.Category(id); });
  for (const bool sum : sums) query.columns.emplace_back(sum ? "sum_price" : "count");

  for (int64_t minute = from_minute; minute < to_minute; ++minute) {
    query.rows.push_back({minute, oracle_.Totals(minute, filter)});
    query.certain = query.certain && query.rows.back().totals.count_extra == 0;
  }
  query.request.get = random_.OneIn(kUnusualOneIn);
  if (!query.certain) return query;

  std::string& answer = query.answer;
  answer = "{\"columns\":[";
  for (const std::string& column : query.columns) {
    AppendJsonString(column, &answer);
    answer.push_back(',');
  }
  answer.back() = ']';
  answer += ",\"rows\":[";
  for (const AggregateQuery::Row& row : query.rows) {
    answer += "[\"";
    AppendSeconds(row.minute * kMsPerMinute, &answer);
    answer += "\"";
    for (const std::string& value : query.fixed) {
      answer.push_back(',');
      AppendJsonString(value, &answer);
    }
    for (const bool sum : sums) {
      answer += ",\"";
      AppendInt(sum ? row.totals.sum : row.totals.count, &answer);
      answer += "\"";
    }
    answer += "],";
  }
  if (!query.rows.empty()) answer.pop_back();
  answer += "]}";
  if (!query.request.get) query.request.body = answer;
  return query;
}

}  // namespace allezon::load
