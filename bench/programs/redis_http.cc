// SPDX-License-Identifier: Apache-2.0
//
// allezon-bench-redis-http: POST /user_tags before Redis, as short as a user would write it: no
// checks beyond the fields that it needs, a thread and a connection to Redis for each client.
#include <hiredis/hiredis.h>
#include <sys/time.h>

#include <atomic>
#include <memory>
#include <string>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "bench/programs/minimal_http.h"
#include "bench/programs/redis_tag.h"
#include "rpc/flags.h"
#include "simdjson.h"

ABSL_FLAG(int, port, 8080, "port of 127.0.0.1");
ABSL_FLAG(int, connections, 64, "connections at a time");
ABSL_FLAG(int, redis_port, 6379, "of the primary on 127.0.0.1");
ABSL_FLAG(int, replicas, 1, "replicas that must have a tag besides the primary");

namespace allezon::bench {
namespace {

constexpr timeval kRedisTimeout{10, 0};

// Throws simdjson_error where the body is no tag.
void Parse(const std::string& body, v1::Tag& tag) {
  thread_local simdjson::ondemand::parser parser;
  const simdjson::padded_string padded(body);
  simdjson::ondemand::document json = parser.iterate(padded);
  const auto text = [](auto value) { return std::string(std::string_view(value)); };
  const std::string time = text(json["time"]);
  absl::Time at;
  if (!absl::ParseTime(absl::RFC3339_full, time, &at, nullptr)) {
    throw simdjson::simdjson_error(simdjson::INCORRECT_TYPE);
  }
  tag.set_time_ms(absl::ToUnixMillis(at));
  tag.set_cookie(text(json["cookie"]));
  tag.set_action(text(json["action"]) == "BUY" ? v1::ACTION_BUY : v1::ACTION_VIEW);
  tag.set_origin(text(json["origin"]));
  v1::ProductInfo& product = *tag.mutable_product_info();
  simdjson::ondemand::object info = json["product_info"];
  product.set_brand_id(text(info["brand_id"]));
  product.set_category_id(text(info["category_id"]));
  product.set_price(static_cast<int32_t>(int64_t(info["price"])));
}

// A connection to Redis, of one thread.
class Store {
 public:
  Store()
      : redis_(redisConnectWithTimeout("127.0.0.1", absl::GetFlag(FLAGS_redis_port), kRedisTimeout),
               &redisFree) {
    redisSetTimeout(redis_.get(), kRedisTimeout);
  }

  bool Put(const v1::Tag& tag, const std::string& body) {
    static std::atomic<uint64_t> number = 0;
    // Two tags that are alike are two members.
    const std::string member = absl::StrCat(body, ++number);
    const int replicas = absl::GetFlag(FLAGS_replicas);
    AppendTag(redis_.get(), tag, member, replicas);
    TagReplies replies(replicas);
    void* reply = nullptr;
    do {
      if (redisGetReply(redis_.get(), &reply) != REDIS_OK) return false;
    } while (!replies.Take(reply));
    return replies.ok();
  }

 private:
  std::unique_ptr<redisContext, decltype(&redisFree)> redis_;
};

int Take(const std::string& body) {
  thread_local v1::Tag tag;
  thread_local Store store;
  try {
    Parse(body, tag);
  } catch (const simdjson::simdjson_error&) {
    return 400;
  }
  return store.Put(tag, body) ? 204 : 503;
}

}  // namespace
}  // namespace allezon::bench

int main(int argc, char** argv) {
  allezon::rpc::ParseFlags(argc, argv, "allezon-bench-redis-http takes tags for Redis over HTTP.");
  return allezon::bench::ServeMinimalHttp(absl::GetFlag(FLAGS_port),
                                          absl::GetFlag(FLAGS_connections), allezon::bench::Take);
}
