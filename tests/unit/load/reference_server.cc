// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/load/reference_server.h"

#include <httplib.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <sstream>

#include "simdjson.h"

namespace allezon::load {
namespace {

constexpr int kThreads = 16;

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
    : fault_(fault), server_(std::make_unique<httplib::Server>()) {
  server_->new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  server_->set_keep_alive_max_count(1'000'000);
  server_->set_tcp_nodelay(true);
  server_->Post("/user_tags", [this](const auto& request, auto& response) {
    AddTag(request, response);
    if (fault_ == Fault::kCloseAfterEach) response.set_header("Connection", "close");
  });
  const auto profile = [this](const auto& request, auto& response) { Profile(request, response); };
  const auto aggregate = [this](const auto& request, auto& response) {
    Aggregate(request, response);
  };
  server_->Post(R"(/user_profiles/([\s\S]+))", profile);
  server_->Get(R"(/user_profiles/([\s\S]+))", profile);
  server_->Post("/aggregates", aggregate);
  server_->Get("/aggregates", aggregate);
  port_ = server_->bind_to_any_port("127.0.0.1");
  thread_ = std::jthread([this] { server_->listen_after_bind(); });
  while (!server_->is_running()) std::this_thread::yield();
}

ReferenceServer::~ReferenceServer() { server_->stop(); }

uint64_t ReferenceServer::tags() const {
  absl::MutexLock lock(&mutex_);
  return stored_;
}

void ReferenceServer::AddTag(const httplib::Request& request, httplib::Response& response) {
  const std::string key = request.get_header_value("Idempotency-Key");
  bool slow = false;
  {
    absl::MutexLock lock(&mutex_);
    if (request.get_header_value("Content-Type") == "application/x-ndjson") {
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
      response.set_content(
          "{\"accepted\":" + std::to_string(accepted) + ",\"rejected\":[" + rejected + "]}",
          "application/json");
      return;
    }
    if (fault_ == Fault::kFail500 && OneIn(50)) {
      response.status = 500;
      response.set_content("{\"title\":\"for a test\"}", "application/problem+json");
      return;
    }
    const std::string error = Store(request.body, key);
    if (!error.empty()) {
      response.status = 400;
      response.set_content(error, "text/plain");
      return;
    }
    response.status = 204;
    if (fault_ == Fault::kFailAfterStore && OneIn(50)) response.status = 503;
    if (fault_ == Fault::kFailFirstTry && OneIn(2) && tried_.insert(key).second) {
      response.status = 503;
    }
    slow = fault_ == Fault::kSlow && OneIn(50);
    if (fault_ == Fault::kCloseUnanswered && OneIn(50)) {
      // Promises a body, sends half of it and closes.
      response.status = 200;
      response.set_content_provider(10, "text/plain", [](size_t, size_t, httplib::DataSink& sink) {
        sink.write("half ", 5);
        return false;
      });
    }
  }
  // A fault to order, not a wait for something.
  if (slow) std::this_thread::sleep_for(std::chrono::milliseconds(400));
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

void ReferenceServer::Profile(const httplib::Request& request, httplib::Response& response) {
  if (!request.body.empty()) ++expected_bodies_;
  const uint64_t query = ++queries_;
  if (fault_ == Fault::kBadQueryStatus && query % 10 == 0) {
    response.status = 500;
    return;
  }
  const std::string range = request.get_param_value("time_range");
  std::string limit_text = request.get_param_value("limit");
  const size_t cut = range.find('_');
  const std::string from = FullTime(range.substr(0, cut));
  const std::string to = FullTime(range.substr(cut + 1));
  size_t limit = limit_text.empty() ? 200 : std::strtoul(limit_text.c_str(), nullptr, 10);
  limit = std::min<size_t>(limit, 200);
  if (fault_ == Fault::kIgnoreLimit) limit = 200;

  const std::string cookie = request.matches[1];
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
  response.set_content(out + "}", "application/json");
}

void ReferenceServer::Aggregate(const httplib::Request& request, httplib::Response& response) {
  if (!request.body.empty()) ++expected_bodies_;
  ++queries_;
  std::vector<std::string> aggregates;
  for (const char* name : {"aggregates", "aggregates[]"}) {
    for (size_t i = 0; i < request.get_param_value_count(name); ++i) {
      std::istringstream values(request.get_param_value(name, i));
      for (std::string value; std::getline(values, value, ',');) {
        std::transform(value.begin(), value.end(), value.begin(), ::tolower);
        aggregates.push_back(value);
      }
    }
  }
  const std::string action = request.get_param_value("action");
  std::string columns = "\"1m_bucket\",\"action\"", fixed = "," + Quoted(action, false);
  for (const char* name : {"origin", "brand_id", "category_id"}) {
    if (!request.has_param(name)) continue;
    columns += ",\"" + std::string(name) + "\"";
    fixed += "," + Quoted(request.get_param_value(name), false);
  }
  for (const std::string& aggregate : aggregates) columns += ",\"" + aggregate + "\"";

  const std::string range = request.get_param_value("time_range");
  const std::string to = range.substr(range.find('_') + 1, 16);
  std::string rows;
  absl::MutexLock lock(&mutex_);
  for (std::string minute = range.substr(0, 16); minute < to; minute = NextMinute(minute)) {
    int64_t count = 0, sum = 0;
    for (const Stored& tag : counted_) {
      const auto matches = [&](const char* name, const std::string& value) {
        return !request.has_param(name) || request.get_param_value(name) == value;
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
  response.set_content("{\"columns\":[" + columns + "],\"rows\":[" + rows + "]}",
                       "application/json");
}

}  // namespace allezon::load
