// SPDX-License-Identifier: Apache-2.0
#include "bench/programs/redis_tag.h"

#include <hiredis/hiredis.h>

#include <initializer_list>

#include "absl/strings/str_cat.h"

namespace allezon::bench {
namespace {

constexpr int kWaitMs = 5000;
constexpr int kCombinations = 8;  // of origin, brand and category
// MULTI, ZADD, ZREMRANGEBYRANK, two counters a combination, EXEC, WAIT.
constexpr int kCommands = 5 + 2 * kCombinations;
constexpr int kExecReply = kCommands - 2;
constexpr int64_t kMsPerMinute = 60'000;

void Append(redisContext* redis, std::initializer_list<std::string_view> words) {
  const char* argv[4];
  size_t bytes[4];
  int argc = 0;
  for (const std::string_view word : words) {
    argv[argc] = word.data();
    bytes[argc++] = word.size();
  }
  redisAppendCommandArgv(redis, argc, argv, bytes);
}

void AppendCounters(redisContext* redis, const v1::Tag& tag, const char* action) {
  const v1::ProductInfo& product = tag.product_info();
  const std::string price = std::to_string(product.price());
  for (int combination = 0; combination < kCombinations; ++combination) {
    const std::string key =
        absl::StrCat("aggregate:", tag.time_ms() / kMsPerMinute, ":", action, ":", combination);
    const std::string values = absl::StrCat(combination & 1 ? tag.origin() : "", "|",
                                            combination & 2 ? product.brand_id() : "", "|",
                                            combination & 4 ? product.category_id() : "");
    Append(redis, {"HINCRBY", key, values + "|count", "1"});
    Append(redis, {"HINCRBY", key, values + "|sum", price});
  }
}

}  // namespace

void AppendTag(redisContext* redis, const v1::Tag& tag, std::string_view member, int replicas) {
  const char* action = tag.action() == v1::ACTION_BUY ? "BUY" : "VIEW";
  const std::string profile = absl::StrCat("profile:", tag.cookie(), ":", action);
  Append(redis, {"MULTI"});
  Append(redis, {"ZADD", profile, std::to_string(tag.time_ms()), member});
  Append(redis, {"ZREMRANGEBYRANK", profile, "0", "-201"});
  AppendCounters(redis, tag, action);
  Append(redis, {"EXEC"});
  Append(redis, {"WAIT", std::to_string(replicas), std::to_string(kWaitMs)});
}

bool TagReplies::Take(void* reply) {
  const auto* const got = static_cast<redisReply*>(reply);
  if (taken_ == 0) ok_ = true;
  if (got->type == REDIS_REPLY_ERROR) ok_ = false;
  if (taken_ == kExecReply && got->type != REDIS_REPLY_ARRAY) ok_ = false;
  const bool last = ++taken_ == kCommands;
  if (last) {
    if (got->type != REDIS_REPLY_INTEGER || got->integer < replicas_) ok_ = false;
    taken_ = 0;
  }
  freeReplyObject(reply);
  return last;
}

}  // namespace allezon::bench
