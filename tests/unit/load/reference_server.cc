// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/load/reference_server.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <sstream>
#include <string_view>
#include <thread>
#include <tuple>

#include "simdjson.h"

namespace allezon::load {
namespace {

constexpr std::string_view kProfiles = "/user_profiles/";

std::string Quoted(const std::string& text, bool escape_all) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || c == '"' || c == '\\' || (escape_all && byte < 0x80 && !isalnum(byte))) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\u%04X", byte);
      out += escaped;
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string Field(const simdjson::dom::element& object, const char* name) {
  std::string_view value;
  if (object[name].get(value) != simdjson::SUCCESS) return "?";
  return std::string(value);
}

// 2022-03-22T12:15:00[.1[2[3]]][Z] to 2022-03-22T12:15:00.000Z, so that text compares as time.
std::string FullTime(std::string time) {
  if (!time.empty() && time.back() == 'Z') time.pop_back();
  if (time.size() == 19) time += '.';
  while (time.size() < 23) time += '0';
  return time + 'Z';
}

std::string NextMinute(const std::string& minute) {
  std::tm parts{};
  strptime(minute.c_str(), "%Y-%m-%dT%H:%M", &parts);
  const time_t time = timegm(&parts) + 60;
  gmtime_r(&time, &parts);
  char text[32];
  strftime(text, sizeof(text), "%Y-%m-%dT%H:%M", &parts);
  return text;
}

}  // namespace

ReferenceServer::ReferenceServer(Fault fault)
    : fault_(fault), server_(std::make_unique<PlainHttpServer>([this](const PlainRequest& request) {
        return Handle(request);
      })) {}

PlainResponse ReferenceServer::Handle(const PlainRequest& request) {
  if (request.path == "/user_tags" && request.method == "POST") {
    PlainResponse response = request.Header("content-type") == "application/x-ndjson"
                                 ? AddBatch(request)
                                 : AddTag(request);
    response.close = fault_ == Fault::kCloseAfterEach;
    return response;
  }
  if (!request.body.empty()) ++expected_bodies_;
  const uint64_t query = ++queries_;
  if (fault_ == Fault::kBadQueryStatus && query % 10 == 0) return {.status = 500, .body = "{}"};
  if (request.path.starts_with(kProfiles)) return Profile(request);
  if (request.path == "/aggregates") return Aggregate(request);
  return {.status = 404, .body = "{}"};
}

uint64_t ReferenceServer::tags() const {
  absl::MutexLock lock(&mutex_);
  return stored_;
}

PlainResponse ReferenceServer::AddBatch(const PlainRequest& request) {
  absl::MutexLock lock(&mutex_);
  const std::string key = request.Header("idempotency-key");
  std::istringstream lines(request.body);
  int number = 0, accepted = 0;
  std::string rejected;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (fault_ == Fault::kRejectLine && number == 2) {
      rejected = R"({"line":2,"detail":"for a test"})";
      continue;
    }
    Store(line, key.empty() ? "" : key + "/" + std::to_string(number));
    ++accepted;
  }
  return {.body =
              "{\"accepted\":" + std::to_string(accepted) + ",\"rejected\":[" + rejected + "]}"};
}

PlainResponse ReferenceServer::AddTag(const PlainRequest& request) {
  const std::string key = request.Header("idempotency-key");
  PlainResponse response{.status = 204};
  bool slow = false;
  {
    absl::MutexLock lock(&mutex_);
    if (fault_ == Fault::kFail500 && OneIn(50)) {
      return {.status = 500, .body = "{\"title\":\"for a test\"}"};
    }
    const std::string error = Store(request.body, key);
    if (!error.empty()) return {.status = 400, .body = error};
    if (fault_ == Fault::kFailAfterStore && OneIn(50)) response.status = 503;
    if (fault_ == Fault::kFailFirstTry && OneIn(2) && tried_.insert(key).second) {
      response.status = 503;
    }
    response.unanswered = fault_ == Fault::kCloseUnanswered && OneIn(50);
    slow = fault_ == Fault::kSlow && OneIn(50);
  }
  // A fault to order, not a wait for something.
  if (slow) std::this_thread::sleep_for(std::chrono::milliseconds(400));
  return response;
}

std::string ReferenceServer::Store(const std::string& body, const std::string& key) {
  simdjson::dom::parser parser;
  simdjson::dom::element tag, product, id;
  Stored stored;
  if (parser.parse(body).get(tag) != simdjson::SUCCESS) return "not JSON: " + body;
  if (tag["product_info"].get(product) != simdjson::SUCCESS ||
      product["product_id"].get(id) != simdjson::SUCCESS ||
      product["price"].get(stored.price) != simdjson::SUCCESS) {
    return "no product: " + body;
  }
  stored.number = ++stored_;
  stored.time = FullTime(Field(tag, "time"));
  stored.cookie = Field(tag, "cookie");
  stored.country = Field(tag, "country");
  stored.device = Field(tag, "device");
  stored.action = Field(tag, "action");
  stored.origin = Field(tag, "origin");
  stored.brand = Field(product, "brand_id");
  stored.category = Field(product, "category_id");
  stored.product_id = simdjson::minify(id);
  if (fault_ == Fault::kProductIdText && id.is_int64()) {
    stored.product_id = '"' + stored.product_id + '"';
  }
  if (!key.empty() && !keys_.insert(key + "\n" + stored.cookie).second) {
    --stored_;
    return "";
  }
  if (fault_ == Fault::kDropTag && OneIn(100)) return "";
  counted_.push_back(stored);
  if (fault_ == Fault::kCountTwice && OneIn(100)) counted_.push_back(stored);
  profiles_[stored.cookie].push_back(stored);
  if (fault_ == Fault::kTwiceInProfile && OneIn(100)) {
    profiles_[stored.cookie].push_back(stored);
    profiles_[stored.cookie].back().number = ++stored_;
  }
  return "";
}

std::string ReferenceServer::TagJson(const Stored& tag) const {
  const bool other = fault_ == Fault::kOtherSpelling;
  const auto quoted = [&](const std::string& text) { return Quoted(text, other); };
  if (other) {
    return "{ \"product_info\": {\"price\": " + std::to_string(tag.price) +
           ", \"category_id\": " + quoted(tag.category) + ", \"brand_id\": " + quoted(tag.brand) +
           ", \"product_id\": " + tag.product_id + "}, \"origin\": " + quoted(tag.origin) +
           ", \"action\": " + quoted(tag.action) + ", \"device\": " + quoted(tag.device) +
           ", \"country\": " + quoted(tag.country) + ", \"cookie\": " + quoted(tag.cookie) +
           ", \"time\": " + quoted(tag.time) + " }";
  }
  return "{\"time\":" + quoted(tag.time) + ",\"cookie\":" + quoted(tag.cookie) +
         ",\"country\":" + quoted(tag.country) + ",\"device\":" + quoted(tag.device) +
         ",\"action\":" + quoted(tag.action) + ",\"origin\":" + quoted(tag.origin) +
         ",\"product_info\":{\"product_id\":" + tag.product_id +
         ",\"brand_id\":" + quoted(tag.brand) + ",\"category_id\":" + quoted(tag.category) +
         ",\"price\":" + std::to_string(tag.price) + "}}";
}

PlainResponse ReferenceServer::Profile(const PlainRequest& request) {
  const std::string range = request.Param("time_range").value_or("");
  const std::string limit_text = request.Param("limit").value_or("200");
  const size_t cut = range.find('_');
  const std::string from = FullTime(range.substr(0, cut));
  const std::string to = FullTime(range.substr(cut + 1));
  size_t limit = std::min(std::strtoul(limit_text.c_str(), nullptr, 10), 200ul);
  if (fault_ == Fault::kIgnoreLimit) limit = 200;

  const std::string cookie = request.path.substr(kProfiles.size());
  std::vector<Stored> tags;
  {
    absl::MutexLock lock(&mutex_);
    if (const auto found = profiles_.find(cookie); found != profiles_.end()) tags = found->second;
  }
  std::sort(tags.begin(), tags.end(), [](const Stored& a, const Stored& b) {
    return std::tie(b.time, b.number) < std::tie(a.time, a.number);
  });
  std::string out = "{\"cookie\":" + Quoted(cookie, false);
  for (const char* action : {"VIEW", "BUY"}) {
    out += action == std::string("VIEW") ? ",\"views\":[" : ",\"buys\":[";
    std::vector<std::string> shown;
    size_t rank = 0;
    for (const Stored& tag : tags) {
      if (tag.action != action) continue;
      if (fault_ == Fault::kCutTo200 && ++rank > 200) break;
      if (tag.time >= from && tag.time < to && shown.size() < limit) shown.push_back(TagJson(tag));
    }
    if (fault_ == Fault::kOldestFirst) std::reverse(shown.begin(), shown.end());
    for (size_t i = 0; i < shown.size(); ++i) out += (i > 0 ? "," : "") + shown[i];
    out += "]";
  }
  return {.body = out + "}"};
}

PlainResponse ReferenceServer::Aggregate(const PlainRequest& request) {
  std::vector<std::string> aggregates;
  for (const auto& [name, list] : request.params) {
    if (name != "aggregates" && name != "aggregates[]") continue;
    std::istringstream values(list);
    for (std::string value; std::getline(values, value, ',');) {
      std::transform(value.begin(), value.end(), value.begin(), ::tolower);
      aggregates.push_back(value);
    }
  }
  const std::string action = request.Param("action").value_or("");
  std::string columns = "\"1m_bucket\",\"action\"", fixed = "," + Quoted(action, false);
  for (const char* name : {"origin", "brand_id", "category_id"}) {
    if (!request.Param(name).has_value()) continue;
    columns += ",\"" + std::string(name) + "\"";
    fixed += "," + Quoted(*request.Param(name), false);
  }
  for (const std::string& aggregate : aggregates) columns += ",\"" + aggregate + "\"";

  const std::string range = request.Param("time_range").value_or("");
  const std::string to = range.substr(range.find('_') + 1, 16);
  std::string rows;
  absl::MutexLock lock(&mutex_);
  for (std::string minute = range.substr(0, 16); minute < to; minute = NextMinute(minute)) {
    int64_t count = 0, sum = 0;
    for (const Stored& tag : counted_) {
      const auto matches = [&](const char* name, const std::string& value) {
        return request.Param(name).value_or(value) == value;
      };
      if (tag.time.compare(0, 16, minute) == 0 && tag.action == action &&
          matches("origin", tag.origin) && matches("brand_id", tag.brand) &&
          matches("category_id", tag.category)) {
        ++count;
        sum += tag.price;
      }
    }
    if (count == 0 && fault_ == Fault::kNoEmptyMinutes) continue;
    rows += (rows.empty() ? "[\"" : ",[\"") + minute + ":00\"" + fixed;
    for (const std::string& aggregate : aggregates) {
      const std::string value = std::to_string(aggregate == "count" ? count : sum);
      rows += fault_ == Fault::kNumbersNotText ? "," + value : ",\"" + value + "\"";
    }
    rows += "]";
  }
  return {.body = "{\"columns\":[" + columns + "],\"rows\":[" + rows + "]}"};
}

}  // namespace allezon::load
