// SPDX-License-Identifier: Apache-2.0
#include "router/tag_rules.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "rpc/status.h"

namespace allezon::router {
namespace {

absl::Status CheckText(std::string_view field, const std::string& text) {
  if (text.size() <= kTextBytesMax) return absl::OkStatus();
  return rpc::InvalidField(
      field, absl::StrCat("has ", text.size(), " bytes; ", kTextBytesMax, " are allowed"));
}

absl::Status CheckTime(int64_t time_ms, absl::Time now, absl::Duration future_max) {
  if (time_ms < kTimeMsMin || time_ms > kTimeMsMax) {
    return rpc::InvalidField("time_ms", "is outside the years 0000 to 9999");
  }
  if (absl::FromUnixMillis(time_ms) > now + future_max) {
    return rpc::InvalidField("time_ms", absl::StrCat("is further ahead of the clock than ",
                                                     absl::FormatDuration(future_max)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckTag(const v1::Tag& tag, absl::Time now, absl::Duration future_max) {
  if (absl::Status s = CheckTime(tag.time_ms(), now, future_max); !s.ok()) return s;
  if (tag.cookie().empty()) return rpc::InvalidField("cookie", "must not be empty");
  if (absl::Status s = CheckText("cookie", tag.cookie()); !s.ok()) return s;
  if (absl::Status s = CheckText("country", tag.country()); !s.ok()) return s;
  if (tag.device() == v1::DEVICE_UNSPECIFIED || !v1::Device_IsValid(tag.device())) {
    return rpc::InvalidField("device", "is none of DEVICE_PC, DEVICE_MOBILE and DEVICE_TV");
  }
  if (tag.action() == v1::ACTION_UNSPECIFIED || !v1::Action_IsValid(tag.action())) {
    return rpc::InvalidField("action", "is neither ACTION_VIEW nor ACTION_BUY");
  }
  if (absl::Status s = CheckText("origin", tag.origin()); !s.ok()) return s;
  if (!tag.has_product_info()) return rpc::InvalidField("product_info", "is missing");
  const v1::ProductInfo& product = tag.product_info();
  if (product.product_id().value_case() == v1::ProductId::VALUE_NOT_SET) {
    return rpc::InvalidField("product_info.product_id", "is missing");
  }
  if (absl::Status s = CheckText("product_info.product_id", product.product_id().text()); !s.ok()) {
    return s;
  }
  if (absl::Status s = CheckText("product_info.brand_id", product.brand_id()); !s.ok()) return s;
  return CheckText("product_info.category_id", product.category_id());
}

absl::Status CheckIdempotencyKey(std::string_view key) {
  if (key.empty() || key.size() > kIdempotencyKeyBytesMax ||
      !std::all_of(key.begin(), key.end(), [](char c) { return c >= '!' && c <= '~'; })) {
    return absl::InvalidArgumentError(absl::StrCat(
        "an idempotency key has 1 to ", kIdempotencyKeyBytesMax, " visible ASCII characters"));
  }
  return absl::OkStatus();
}

}  // namespace allezon::router
