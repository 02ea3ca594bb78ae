// SPDX-License-Identifier: Apache-2.0
#include "bench/load/check.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <optional>

#include "bench/load/text.h"

namespace allezon::load {
namespace {

using simdjson::dom::element;

constexpr size_t kShownBytesMax = 300;  // of a value in a diff
constexpr size_t kTimeAt = 9;           // in {"time":"2022-…
constexpr size_t kTimeBytes = 24;

std::string Short(std::string_view text) {
  if (text.size() <= kShownBytesMax) return std::string(text);
  return std::string(text.substr(0, kShownBytesMax)) + "…";
}

Verdict Wrong(std::string diff) { return {Verdict::Kind::kWrong, std::move(diff)}; }

bool AppendString(const simdjson::dom::object& object, std::string_view name, std::string* out) {
  std::string_view value;
  if (object.at_key(name).get(value) != simdjson::SUCCESS) return false;
  out->append(out->back() == '{' ? "\"" : ",\"").append(name).append("\":");
  AppendJsonString(value, out);
  return true;
}

bool AppendProductId(const simdjson::dom::object& object, std::string* out) {
  element id;
  if (object.at_key("product_id").get(id) != simdjson::SUCCESS) return false;
  int64_t number = 0;
  std::string_view text;
  out->append("\"product_id\":");
  if (id.is_int64() && id.get(number) == simdjson::SUCCESS) {
    AppendInt(number, out);
  } else if (id.get(text) == simdjson::SUCCESS) {
    AppendJsonString(text, out);
  } else {
    return false;
  }
  return true;
}

// The tag in the spelling of TagStream::AppendAnswer; nullopt where it is not the shape of a tag.
std::optional<std::string> Canonical(const element& shown) {
  simdjson::dom::object tag, product;
  int64_t price = 0;
  if (shown.get(tag) != simdjson::SUCCESS || tag.size() != 7) return std::nullopt;
  std::string out = "{";
  for (const std::string_view name : {"time", "cookie", "country", "device", "action", "origin"}) {
    if (!AppendString(tag, name, &out)) return std::nullopt;
  }
  if (tag.at_key("product_info").get(product) != simdjson::SUCCESS || product.size() != 4) {
    return std::nullopt;
  }
  out += ",\"product_info\":{";
  if (!AppendProductId(product, &out) || !AppendString(product, "brand_id", &out) ||
      !AppendString(product, "category_id", &out) || !product.at_key("price").is_int64() ||
      product.at_key("price").get(price) != simdjson::SUCCESS) {
    return std::nullopt;
  }
  out += ",\"price\":";
  AppendInt(price, &out);
  out += "}}";
  return out;
}

// The strings of a JSON array of strings; nullopt for anything else.
std::optional<std::vector<std::string_view>> Strings(const element& list) {
  simdjson::dom::array array;
  if (list.get(array) != simdjson::SUCCESS) return std::nullopt;
  std::vector<std::string_view> values;
  for (const element value : array) {
    std::string_view text;
    if (value.get(text) != simdjson::SUCCESS) return std::nullopt;
    values.push_back(text);
  }
  return values;
}

// A decimal number as the contract writes it, in its one spelling.
std::optional<int64_t> Decimal(std::string_view text) {
  int64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) return std::nullopt;
  std::string again;
  AppendInt(value, &again);
  if (again != text) return std::nullopt;
  return value;
}

std::string CheckRow(const AggregateQuery& query, const AggregateQuery::Row& row,
                     const std::vector<std::string_view>& shown) {
  std::string bucket;
  AppendSeconds(row.minute * kMsPerMinute, &bucket);
  if (shown.size() != query.columns.size()) {
    return "the row of " + bucket + " has " + std::to_string(shown.size()) + " values, not " +
           std::to_string(query.columns.size());
  }
  const auto differs = [&](size_t column, const std::string& expected) {
    return "row " + bucket + ", " + query.columns[column] + ": \"" + Short(shown[column]) +
           "\" is not " + expected;
  };
  if (shown[0] != bucket) return differs(0, '"' + bucket + '"');
  size_t column = 1;
  for (const std::string& value : query.fixed) {
    if (shown[column] != value) return differs(column, '"' + Short(value) + '"');
    ++column;
  }
  const MinuteTotals& totals = row.totals;
  for (const bool sum : query.sums) {
    const int64_t low = sum ? totals.sum + totals.sum_negative : totals.count;
    const int64_t high = sum ? totals.sum + totals.sum_positive : totals.count + totals.count_extra;
    const std::optional<int64_t> value = Decimal(shown[column]);
    if (!value.has_value() || *value < low || *value > high) {
      std::string expected = "\"" + std::to_string(low) + "\"";
      if (low != high) expected = "within " + expected + " and \"" + std::to_string(high) + "\"";
      return differs(column, expected);
    }
    ++column;
  }
  return "";
}

}  // namespace

// The expected tags with one time stand in any order, an uncertain or forgotten one may lack, and
// once the limit is reached the rest may lack.
std::string Checker::CheckList(const ProfileQuery& query, Action action,
                               const std::vector<std::string>& shown) const {
  struct Candidate {
    std::string text;
    bool may_lack;
    bool taken = false;
  };
  const auto& expected = query.expected[static_cast<int>(action)];
  const int64_t forgotten_ms =
      query.cookie.has_value() ? oracle_.HistoryOf(*query.cookie, action).forgotten_ms : INT64_MIN;
  if (static_cast<int>(shown.size()) > query.limit) {
    return std::to_string(shown.size()) + " tags, the limit is " + std::to_string(query.limit);
  }
  size_t next = 0;  // in shown
  for (size_t begin = 0, end = 0; begin < expected.size(); begin = end) {
    std::vector<Candidate> group;
    const int64_t time_ms = stream_.TimeMs(expected[begin].index);
    for (; end < expected.size() && stream_.TimeMs(expected[end].index) == time_ms; ++end) {
      std::string text;
      stream_.AppendAnswer(stream_.At(expected[end].index), &text);
      group.push_back({std::move(text), expected[end].uncertain || time_ms <= forgotten_ms});
    }
    // Of two that look the same, the one that must be there is taken first.
    std::stable_sort(group.begin(), group.end(), [](const Candidate& a, const Candidate& b) {
      return a.may_lack < b.may_lack;
    });
    const std::string time = group[0].text.substr(kTimeAt, kTimeBytes);
    for (; next < shown.size() && shown[next].compare(kTimeAt, kTimeBytes, time) == 0; ++next) {
      const auto match = std::find_if(group.begin(), group.end(), [&](const Candidate& candidate) {
        return !candidate.taken && candidate.text == shown[next];
      });
      if (match == group.end()) {
        return "number " + std::to_string(next) + " is " + Short(shown[next]) + ", expected " +
               Short(group[0].text);
      }
      match->taken = true;
    }
    if (static_cast<int>(shown.size()) == query.limit && next == shown.size()) return "";
    for (const Candidate& candidate : group) {
      if (!candidate.taken && !candidate.may_lack) {
        return "number " + std::to_string(next) + " is " +
               (next < shown.size() ? Short(shown[next]) : "missing") + ", expected " +
               Short(candidate.text);
      }
    }
  }
  if (next < shown.size()) {
    return "number " + std::to_string(next) + " should not be there: " + Short(shown[next]);
  }
  return "";
}

Verdict Checker::Check(const ProfileQuery& query, std::string_view answer) {
  if (!query.answer.empty() && answer == query.answer) return {};
  simdjson::dom::object top;
  std::string_view cookie;
  element document;
  if (parser_.parse(answer.data(), answer.size()).get(document) != simdjson::SUCCESS ||
      document.get(top) != simdjson::SUCCESS) {
    return Wrong("not a JSON object: " + Short(answer));
  }
  if (top.size() != 3 || top.at_key("cookie").get(cookie) != simdjson::SUCCESS) {
    return Wrong("not the three fields of a profile: " + Short(answer));
  }
  if (cookie != query.cookie_name) return Wrong("cookie is " + Short(cookie));
  for (const Action action : {Action::kView, Action::kBuy}) {
    const std::string name = action == Action::kView ? "views" : "buys";
    simdjson::dom::array list;
    if (top.at_key(name).get(list) != simdjson::SUCCESS) return Wrong(name + " is not a list");
    std::vector<std::string> shown;
    for (const element tag : list) {
      std::optional<std::string> canonical = Canonical(tag);
      if (!canonical.has_value()) {
        return Wrong(name + ": not a tag: " + Short(simdjson::minify(tag)));
      }
      shown.push_back(*std::move(canonical));
    }
    const std::string diff = CheckList(query, action, shown);
    if (!diff.empty()) return Wrong(name + ": " + diff);
  }
  for (const auto& expected : query.expected) {
    for (const ProfileQuery::Entry& entry : expected) {
      if (entry.uncertain) return {Verdict::Kind::kWithinBounds, ""};
    }
  }
  return {};
}

Verdict Checker::Check(const AggregateQuery& query, std::string_view answer) {
  if (!query.answer.empty() && answer == query.answer) return {};
  simdjson::dom::object top;
  element document, columns;
  simdjson::dom::array rows;
  if (parser_.parse(answer.data(), answer.size()).get(document) != simdjson::SUCCESS ||
      document.get(top) != simdjson::SUCCESS || top.size() != 2 ||
      top.at_key("columns").get(columns) != simdjson::SUCCESS ||
      top.at_key("rows").get(rows) != simdjson::SUCCESS) {
    return Wrong("not an object of columns and rows: " + Short(answer));
  }
  const auto names = Strings(columns);
  if (!names.has_value() ||
      !std::equal(names->begin(), names->end(), query.columns.begin(), query.columns.end())) {
    return Wrong("columns are " + Short(simdjson::minify(columns)));
  }
  size_t next = 0;
  for (const element row : rows) {
    if (next == query.rows.size()) return Wrong("more than " + std::to_string(next) + " rows");
    const auto shown = Strings(row);
    if (!shown.has_value()) return Wrong("not a row of strings: " + Short(simdjson::minify(row)));
    const std::string diff = CheckRow(query, query.rows[next], *shown);
    if (!diff.empty()) return Wrong(diff);
    ++next;
  }
  if (next != query.rows.size()) {
    return Wrong(std::to_string(next) + " rows, expected " + std::to_string(query.rows.size()));
  }
  return {query.certain ? Verdict::Kind::kRight : Verdict::Kind::kWithinBounds, ""};
}

}  // namespace allezon::load
