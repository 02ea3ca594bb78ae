// SPDX-License-Identifier: Apache-2.0
#include "bench/programs/synthetic_tags.h"

#include "absl/strings/str_cat.h"

namespace allezon::bench {
namespace {

constexpr uint64_t kCountries = 100;
constexpr uint64_t kDevices = 3;
constexpr uint64_t kOrigins = 1000;
constexpr uint64_t kBrands = 250;
constexpr uint64_t kCategories = 67;
constexpr uint64_t kProducts = 9000;
constexpr uint64_t kPrices = 90'000;
constexpr uint64_t kBuyOneIn = 5;
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15;

// SplitMix64.
uint64_t Mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

// Takes choices out of a random word.
class Choices {
 public:
  explicit Choices(uint64_t word) : word_(word) {}
  uint64_t Below(uint64_t bound) {
    const uint64_t value = word_ % bound;
    word_ /= bound;
    return value;
  }

 private:
  uint64_t word_;
};

std::string Numbered(const char* name, uint64_t number, int digits) {
  std::string text = std::to_string(number);
  return absl::StrCat(name, std::string(digits - static_cast<int>(text.size()), '0'), text);
}

}  // namespace

void MakeTag(const SyntheticOptions& options, uint64_t index, v1::Tag& tag) {
  Choices who(Mix(options.seed + (2 * index + 1) * kGolden));
  Choices what(Mix(options.seed + (2 * index + 2) * kGolden));
  const bool random_buy = who.Below(kBuyOneIn) == 0;
  const uint64_t random_cookie = who.Below(options.cookies);
  const bool buy = options.in_turn ? index / options.cookies % 2 == 1 : random_buy;
  tag.set_time_ms(options.start_ms +
                  static_cast<int64_t>(static_cast<double>(index) * options.step_us / 1000));
  tag.set_cookie(Numbered("cookie_", options.in_turn ? index % options.cookies : random_cookie, 6));
  tag.set_country(Numbered("C", who.Below(kCountries), 2));
  tag.set_device(static_cast<v1::Device>(v1::DEVICE_PC + who.Below(kDevices)));
  tag.set_action(buy ? v1::ACTION_BUY : v1::ACTION_VIEW);
  tag.set_origin(Numbered("origin_", what.Below(kOrigins), 3));
  v1::ProductInfo& product = *tag.mutable_product_info();
  product.mutable_product_id()->set_number(static_cast<int64_t>(1000 + what.Below(kProducts)));
  product.set_brand_id(Numbered("brand_", what.Below(kBrands), 3));
  product.set_category_id(Numbered("category_", what.Below(kCategories), 2));
  product.set_price(static_cast<int32_t>(10'000 + what.Below(kPrices)));
}

void AppendTsv(const v1::Tag& tag, std::string& out) {
  static constexpr const char* kDeviceNames[] = {"PC", "MOBILE", "TV"};
  const v1::ProductInfo& product = tag.product_info();
  constexpr int64_t kMsPerSecond = 1000;
  absl::StrAppend(&out, tag.time_ms() / kMsPerSecond, "\t", tag.time_ms() % kMsPerSecond, "\t",
                  tag.cookie(), "\t", tag.country(), "\t",
                  kDeviceNames[tag.device() - v1::DEVICE_PC], "\t",
                  tag.action() == v1::ACTION_BUY ? "BUY" : "VIEW", "\t", tag.origin(), "\t",
                  product.brand_id(), "\t", product.category_id(), "\t",
                  product.product_id().number(), "\t", product.price(), "\n");
}

}  // namespace allezon::bench
