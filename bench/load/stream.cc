// SPDX-License-Identifier: Apache-2.0
#include "bench/load/stream.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "bench/load/text.h"

namespace allezon::load {
namespace {

constexpr std::string_view kDeviceNames[kDevices] = {"PC", "MOBILE", "TV"};

// What tends to break JSON, URLs and storage keys.
constexpr std::array<std::string_view, 10> kOddStrings = {
    "",
    "null",
    "say \"hi\"",
    "back\\slash",
    "za\u017c\u00f3\u0142\u0107 \U0001F4A1",
    "a&b=c+d%20e",
    "line\nbreak\ttab",
    "semi;colon/sl?ash#",
    " lead and trail ",
    "control\x01\x1f\x7f",
};
constexpr int64_t kOddIntegers[] = {0, -1, std::numeric_limits<int64_t>::min(),
                                    std::numeric_limits<int64_t>::max(), (int64_t{1} << 53) + 1};
constexpr int32_t kOddPrices[] = {std::numeric_limits<int32_t>::min(),
                                  std::numeric_limits<int32_t>::max(), -1, 0};

constexpr uint64_t kTwinOneIn = 512;
constexpr uint64_t kOddOneIn = 256;
constexpr uint32_t kOddCookieOneIn = 64;
constexpr uint64_t kProducts = 10'000;
constexpr uint64_t kPrices = 100'000;
constexpr uint64_t kBuyPercent = 20;

// Bits of Tag::spelling.
constexpr uint8_t kShortFraction = 1;
constexpr uint8_t kUnknownField = 2;

// Independent random words of one index.
enum Lane : uint64_t { kTimeLane, kCookieLane, kWhoLane, kWhatLane, kProductLane, kLanes };

uint64_t Word(uint64_t seed, uint64_t index, Lane lane) {
  return Mix(seed + (index * kLanes + lane) * 0x9e3779b97f4a7c15);
}

std::vector<std::string> Names(std::string_view head, int count, bool odd) {
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) {
    const bool is_odd = odd && i < static_cast<int>(kOddStrings.size());
    names.push_back(is_odd ? std::string(kOddStrings[i]) : std::string(head) + std::to_string(i));
  }
  return names;
}

std::vector<std::string> AsJson(const std::vector<std::string>& names) {
  std::vector<std::string> json(names.size());
  for (size_t i = 0; i < names.size(); ++i) AppendJsonString(names[i], &json[i]);
  return json;
}

}  // namespace

uint64_t Mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

std::string_view ActionName(Action action) { return action == Action::kView ? "VIEW" : "BUY"; }

TagStream::TagStream(const StreamOptions& options)
    : options_(options),
      origins_(Names("origin_", kOrigins, options.odd)),
      brands_(Names("brand_", kBrands, options.odd)),
      categories_(Names("category_", kCategories, options.odd)),
      countries_(Names("C", kCountries, options.odd)),
      origins_json_(AsJson(origins_)),
      brands_json_(AsJson(brands_)),
      categories_json_(AsJson(categories_)),
      countries_json_(AsJson(countries_)) {
  uint64_t hash = 0;
  for (const uint64_t part :
       {options.seed, static_cast<uint64_t>(options.start_ms),
        static_cast<uint64_t>(options.step_us), static_cast<uint64_t>(options.cookies),
        std::bit_cast<uint64_t>(options.zipf), static_cast<uint64_t>(options.jitter_ms),
        static_cast<uint64_t>(options.odd)}) {
    hash = Mix(hash + 0x9e3779b97f4a7c15 + part);
  }
  for (int shift = 60; shift >= 0; shift -= 4) run_ += "0123456789abcdef"[hash >> shift & 15];
}

bool TagStream::Flagged(uint64_t index) const {
  return options_.odd && index > 0 &&
         (Word(options_.seed, index, kTimeLane) >> 32) % kTwinOneIn == 0;
}

bool TagStream::IsTwin(uint64_t index) const { return Flagged(index) && !Flagged(index - 1); }

int64_t TagStream::BaseMs(uint64_t index) const {
  return options_.start_ms + static_cast<int64_t>(index) * options_.step_us / 1000;
}

int64_t TagStream::RawTimeMs(uint64_t index) const {
  const uint64_t word = Word(options_.seed, index, kTimeLane);
  return BaseMs(index) + static_cast<int64_t>((word & 0xffffffff) % (options_.jitter_ms + 1));
}

int64_t TagStream::TimeMs(uint64_t index) const {
  return RawTimeMs(IsTwin(index) ? index - 1 : index);
}

int64_t TagStream::EarliestMs(uint64_t index) const { return BaseMs(index == 0 ? 0 : index - 1); }

uint32_t TagStream::CookieOf(uint64_t random) const {
  if (options_.zipf <= 0) return static_cast<uint32_t>(random % options_.cookies);
  // The continuous distribution with density x^-s on [1, cookies + 1), rounded down.
  const double u = static_cast<double>(random >> 11) * 0x1p-53;
  const double top = static_cast<double>(options_.cookies) + 1;
  const double power = 1 - options_.zipf;
  const double x = std::abs(power) < 1e-9 ? std::pow(top, u)
                                          : std::pow((std::pow(top, power) - 1) * u + 1, 1 / power);
  return static_cast<uint32_t>(
      std::clamp<double>(std::floor(x) - 1, 0, static_cast<double>(options_.cookies) - 1));
}

Tag TagStream::At(uint64_t index) const {
  const uint64_t leader = IsTwin(index) ? index - 1 : index;
  const uint64_t seed = options_.seed;
  Tag tag;
  tag.time_ms = RawTimeMs(leader);
  tag.cookie = CookieOf(Word(seed, leader, kCookieLane));
  tag.action = Word(seed, leader, kWhoLane) % 100 < kBuyPercent ? Action::kBuy : Action::kView;

  uint64_t who = Word(seed, index, kWhoLane) / 100;
  const auto take = [](uint64_t* word, uint64_t bound) {
    const uint64_t value = *word % bound;
    *word /= bound;
    return value;
  };
  tag.country = static_cast<uint8_t>(take(&who, kCountries));
  tag.device = static_cast<uint8_t>(take(&who, kDevices));
  tag.origin = static_cast<uint16_t>(take(&who, kOrigins));
  tag.brand = static_cast<uint8_t>(take(&who, kBrands));
  tag.category = static_cast<uint8_t>(take(&who, kCategories));

  uint64_t what = Word(seed, index, kWhatLane);
  tag.price = static_cast<int32_t>(take(&what, kPrices));
  const bool odd_price = take(&what, kOddOneIn) == 0;
  const bool odd_product = take(&what, kOddOneIn) == 0;
  const bool short_fraction = take(&what, kOddOneIn) < kOddOneIn / 4;
  const bool unknown_field = take(&what, kOddOneIn) == 0;

  uint64_t product = Word(seed, index, kProductLane);
  tag.product_kind = take(&product, 4) == 0 ? ProductKind::kDigits : ProductKind::kInteger;
  tag.product_id = static_cast<int64_t>(take(&product, kProducts));
  if (!options_.odd) return tag;
  if (odd_price) tag.price = kOddPrices[take(&product, std::size(kOddPrices))];
  if (odd_product && tag.product_kind == ProductKind::kInteger) {
    tag.product_id = kOddIntegers[take(&product, std::size(kOddIntegers))];
  } else if (odd_product) {
    tag.product_kind = ProductKind::kText;
    tag.product_id = static_cast<int64_t>(take(&product, kOddStrings.size()));
  }
  if (short_fraction) tag.spelling |= kShortFraction;
  if (unknown_field) tag.spelling |= kUnknownField;
  return tag;
}

std::string TagStream::CookieName(uint32_t cookie) const {
  std::string name = run_.substr(0, 8) + "-";
  if (options_.odd && cookie % kOddCookieOneIn == kOddCookieOneIn - 1) {
    name += kOddStrings[cookie / kOddCookieOneIn % kOddStrings.size()];
  }
  AppendInt(cookie, &name);
  return name;
}

void TagStream::AppendTail(const Tag& tag, std::string* out) const {
  out->append("Z\",\"cookie\":");
  AppendJsonString(CookieName(tag.cookie), out);
  out->append(",\"country\":").append(countries_json_[tag.country]);
  out->append(",\"device\":\"").append(kDeviceNames[tag.device]);
  out->append("\",\"action\":\"").append(ActionName(tag.action));
  out->append("\",\"origin\":").append(origins_json_[tag.origin]);
  out->append(",\"product_info\":{\"product_id\":");
  switch (tag.product_kind) {
    case ProductKind::kInteger:
      AppendInt(tag.product_id, out);
      break;
    case ProductKind::kDigits:
      out->push_back('"');
      AppendInt(tag.product_id, out);
      out->push_back('"');
      break;
    case ProductKind::kText:
      AppendJsonString(kOddStrings[tag.product_id], out);
      break;
  }
  out->append(",\"brand_id\":").append(brands_json_[tag.brand]);
  out->append(",\"category_id\":").append(categories_json_[tag.category]);
  out->append(",\"price\":");
  AppendInt(tag.price, out);
  out->append("}}");
}

void TagStream::AppendBody(const Tag& tag, std::string* out) const {
  out->append(tag.spelling & kUnknownField ? "{\"unknown\":{\"a\":[1,\"}\"]},\"time\":\""
                                           : "{\"time\":\"");
  if (tag.spelling & kShortFraction && tag.time_ms % kMsPerSecond == 0) {
    AppendSeconds(tag.time_ms, out);
  } else {
    AppendMillis(tag.time_ms, out);
    if (tag.spelling & kShortFraction) {
      while (out->back() == '0') out->pop_back();
    }
  }
  AppendTail(tag, out);
}

void TagStream::AppendAnswer(const Tag& tag, std::string* out) const {
  out->append("{\"time\":\"");
  AppendMillis(tag.time_ms, out);
  AppendTail(tag, out);
}

}  // namespace allezon::load
