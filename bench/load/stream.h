// SPDX-License-Identifier: Apache-2.0
//
// The stream of user tags: tag number i is a pure function of the options, so a run is repeated by
// its seed and start, and the oracle keeps numbers where it would otherwise keep tags.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace allezon::load {

inline constexpr int kCountries = 100;
inline constexpr int kDevices = 3;
inline constexpr int kActions = 2;
inline constexpr int kOrigins = 1000;
inline constexpr int kBrands = 250;
inline constexpr int kCategories = 67;
inline constexpr uint64_t kTagsMax = 4'000'000'000;  // numbers are kept in 32 bits

struct StreamOptions {
  uint64_t seed = 1;
  int64_t start_ms = 0;
  int64_t step_us = 1000;  // logical time between tags, at least 1
  uint32_t cookies = 20'000;
  double zipf = 0;    // 0: all cookies alike; s > 0: the k-th is chosen about 1/k^s as often
  int jitter_ms = 5;  // a tag is late in its stream by up to this
  bool odd = true;    // odd strings, numbers and spellings, and tags of one cookie at one time
};

enum class Action : uint8_t { kView = 0, kBuy = 1 };
std::string_view ActionName(Action action);

enum class ProductKind : uint8_t { kInteger, kDigits, kText };

struct Tag {
  int64_t time_ms = 0;
  int64_t product_id = 0;  // kText: number of an odd string
  uint32_t cookie = 0;
  int32_t price = 0;
  uint16_t origin = 0;
  uint8_t country = 0;
  uint8_t device = 0;
  Action action = Action::kView;
  uint8_t brand = 0;
  uint8_t category = 0;
  ProductKind product_kind = ProductKind::kInteger;
  uint8_t spelling = 0;  // how the request writes it; not part of the tag
};

// Immutable, thus thread-safe.
class TagStream {
 public:
  explicit TagStream(const StreamOptions& options);

  Tag At(uint64_t index) const;
  // At(index).time_ms, at a fraction of the cost.
  int64_t TimeMs(uint64_t index) const;
  // No tag numbered `index` or higher is earlier than this.
  int64_t EarliestMs(uint64_t index) const;

  // The body of a request with this tag.
  void AppendBody(const Tag& tag, std::string* out) const;
  // The tag as an answer shows it: all fields in the order of the contract, no blanks.
  void AppendAnswer(const Tag& tag, std::string* out) const;

  // Names are different in every run, so that runs on one platform do not meet in a profile.
  std::string CookieName(uint32_t cookie) const;
  const std::string& Origin(int id) const { return origins_[id]; }
  const std::string& Brand(int id) const { return brands_[id]; }
  const std::string& Category(int id) const { return categories_[id]; }
  // 16 hex digits that name the options: the head of idempotency keys.
  const std::string& run() const { return run_; }
  const StreamOptions& options() const { return options_; }

 private:
  struct Raw;  // what the random words of one index say
  bool Flagged(uint64_t index) const;
  // A twin has the time, the cookie and the action of the tag before it.
  bool IsTwin(uint64_t index) const;
  int64_t BaseMs(uint64_t index) const;
  int64_t RawTimeMs(uint64_t index) const;
  uint32_t CookieOf(uint64_t random) const;
  void AppendTail(const Tag& tag, std::string* out) const;

  const StreamOptions options_;
  std::string run_;
  std::vector<std::string> origins_, brands_, categories_, countries_;
  // The same as JSON strings, quotes included.
  std::vector<std::string> origins_json_, brands_json_, categories_json_, countries_json_;
};

// SplitMix64's output function: a good 64-bit mixer, here the source of everything random.
uint64_t Mix(uint64_t value);

// A small generator for choices that follow one after the other. Not thread-safe.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() { return Mix(state_ += 0x9e3779b97f4a7c15); }
  // In [0, bound); bound > 0.
  uint64_t Below(uint64_t bound) { return Next() % bound; }
  bool OneIn(uint64_t n) { return Below(n) == 0; }

 private:
  uint64_t state_;
};

}  // namespace allezon::load
