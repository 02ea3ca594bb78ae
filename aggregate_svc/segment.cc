// SPDX-License-Identifier: Apache-2.0
//
// Compiled with -O3: the loops of ScanBlock are written to be vectorised.
#include "aggregate_svc/segment.h"

#include <algorithm>
#include <cassert>
#include <limits>

#include "router/shard.h"

// Function clones are chosen before a sanitizer's runtime is up, which it does not survive.
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#define ALLEZON_VECTORISED __attribute__((target_clones("avx2", "default")))
#else
#define ALLEZON_VECTORISED
#endif

namespace allezon::aggregate_svc {
namespace {

// A hash map's entry and a string's, beside the text twice.
constexpr size_t kDictionaryEntryBytes = 96;
// What a block's place in the map and its allocations take beside what they hold.
constexpr size_t kBlockOverheadBytes = 128;
// Rows that are matched at a time: the mask stays in the first-level cache.
constexpr size_t kChunkRows = 1024;

ALLEZON_VECTORISED void MatchAction(const uint8_t* actions, uint8_t action, uint16_t* mask,
                                    size_t rows) {
  for (size_t i = 0; i < rows; ++i) mask[i] = actions[i] == action ? 1 : 0;
}

ALLEZON_VECTORISED void MatchNarrow(const uint16_t* codes, uint16_t code, uint16_t* mask,
                                    size_t rows) {
  for (size_t i = 0; i < rows; ++i) mask[i] &= codes[i] == code ? 1 : 0;
}

ALLEZON_VECTORISED void MatchWide(const uint32_t* codes, uint32_t code, uint16_t* mask,
                                  size_t rows) {
  for (size_t i = 0; i < rows; ++i) mask[i] &= codes[i] == code ? 1 : 0;
}

ALLEZON_VECTORISED void AddMatches(const int32_t* prices, const uint16_t* mask, size_t rows,
                                   uint64_t* count, int64_t* sum) {
  uint32_t matches = 0;
  int64_t total = 0;  // kChunkRows prices of 32 bits fit
  for (size_t i = 0; i < rows; ++i) {
    matches += mask[i];
    total += prices[i] & -static_cast<int32_t>(mask[i]);
  }
  *count += matches;
  *sum += total;
}

}  // namespace

uint32_t Segment::Dictionary::Code(const std::string& text, size_t& bytes) {
  const auto [entry, is_new] = codes_.try_emplace(text, static_cast<uint32_t>(texts_.size()));
  if (is_new) {
    texts_.push_back(text);
    bytes += kDictionaryEntryBytes + 2 * text.size();
  }
  return entry->second;
}

std::optional<uint32_t> Segment::Dictionary::Find(std::string_view text) const {
  const auto found = codes_.find(absl::string_view(text.data(), text.size()));
  if (found == codes_.end()) return std::nullopt;
  return found->second;
}

void CodeColumn::Add(uint32_t code) {
  if (!is_wide_ && code <= std::numeric_limits<uint16_t>::max()) {
    narrow_.push_back(static_cast<uint16_t>(code));
  } else {
    wide().push_back(code);
  }
}

void CodeColumn::Reserve(size_t rows) { is_wide_ ? wide_.reserve(rows) : narrow_.reserve(rows); }

std::vector<uint32_t>& CodeColumn::wide() {
  if (!is_wide_) {
    wide_.assign(narrow_.begin(), narrow_.end());
    narrow_ = {};
    is_wide_ = true;
  }
  return wide_;
}

void CodeColumn::Match(size_t start, size_t rows, uint32_t code, uint16_t* mask) const {
  if (is_wide_) {
    MatchWide(wide_.data() + start, code, mask, rows);
  } else if (code <= std::numeric_limits<uint16_t>::max()) {
    MatchNarrow(narrow_.data() + start, static_cast<uint16_t>(code), mask, rows);
  } else {
    std::fill_n(mask, rows, uint16_t{0});
  }
}

void Segment::Block::Count(uint8_t row_action, int32_t row_price) {
  Totals& total = totals[row_action];
  ++total.count;
  total.sum_price += static_cast<uint64_t>(int64_t{row_price});
}

void Segment::Block::Add(uint8_t row_action, uint32_t row_origin, uint32_t row_brand,
                         uint32_t row_category, int32_t row_price) {
  action.push_back(row_action);
  origin.Add(row_origin);
  brand.Add(row_brand);
  category.Add(row_category);
  price.push_back(row_price);
  Count(row_action, row_price);
}

// After the row was added.
void Segment::Block::Accepted(uint32_t accepted_s) {
  oldest_accepted_s = oldest_accepted_s == 0 ? accepted_s : std::min(oldest_accepted_s, accepted_s);
}

size_t Segment::Block::bytes() const {
  return sizeof(Block) + kBlockOverheadBytes + action.capacity() * sizeof(action[0]) +
         price.capacity() * sizeof(price[0]) + origin.capacity_bytes() + brand.capacity_bytes() +
         category.capacity_bytes();
}

Segment::Block& Segment::BlockOf(uint32_t shard) {
  const auto [entry, is_new] = blocks_.try_emplace(shard);
  if (is_new) bytes_ += entry->second.bytes();
  return entry->second;
}

void Segment::Append(const replica::LogEntry& entry) {
  const v1::Tag& tag = *entry.parsed;
  const v1::ProductInfo& product = tag.product_info();
  Block& block = BlockOf(entry.shard);
  const size_t before = block.bytes();
  block.Add(static_cast<uint8_t>(tag.action()), origins_.Code(tag.origin(), bytes_),
            brands_.Code(product.brand_id(), bytes_),
            categories_.Code(product.category_id(), bytes_), product.price());
  block.Accepted(std::max(entry.accepted_s, uint32_t{1}));  // 0 says that there are none
  bytes_ += block.bytes() - before;
  replica::Digest digest;
  digest.Add(router::AsBytes(entry.id), entry.tag);
  block.digest.Add(digest);
  digest_.Add(digest);
}

replica::Digest Segment::Erase(uint32_t shard) {
  assert(knows_blocks_);
  const auto found = blocks_.find(shard);
  if (found == blocks_.end()) return {};
  const replica::Digest erased = found->second.digest;
  bytes_ -= found->second.bytes();
  blocks_.erase(found);
  digest_.Remove(erased);
  return erased;
}

void Segment::Merge(const Segment& other) {
  const auto codes_of = [this](Dictionary& mine, const Dictionary& theirs) {
    std::vector<uint32_t> codes;
    codes.reserve(theirs.texts().size());
    for (const std::string& text : theirs.texts()) codes.push_back(mine.Code(text, bytes_));
    return codes;
  };
  const std::vector<uint32_t> origins = codes_of(origins_, other.origins_);
  const std::vector<uint32_t> brands = codes_of(brands_, other.brands_);
  const std::vector<uint32_t> categories = codes_of(categories_, other.categories_);
  for (const auto& [shard, from] : other.blocks_) {
    Block& block = BlockOf(shard);
    const size_t before = block.bytes();
    const size_t rows = block.action.size() + from.action.size();
    block.action.reserve(rows);
    block.price.reserve(rows);
    for (CodeColumn* column : {&block.origin, &block.brand, &block.category}) column->Reserve(rows);
    for (size_t i = 0; i < from.action.size(); ++i) {
      block.Add(from.action[i], origins[from.origin.at(i)], brands[from.brand.at(i)],
                categories[from.category.at(i)], from.price[i]);
    }
    block.Accepted(from.oldest_accepted_s);
    block.digest.Add(from.digest);
    bytes_ += block.bytes() - before;
  }
  digest_.Add(other.digest_);
  knows_blocks_ = knows_blocks_ && other.knows_blocks_;
}

Totals Segment::ScanBlock(const Block& block, const Codes& codes) {
  if (!codes.origin && !codes.brand && !codes.category) return block.totals[codes.action];
  Totals totals;
  std::array<uint16_t, kChunkRows> mask;
  for (size_t start = 0; start < block.action.size(); start += kChunkRows) {
    const size_t rows = std::min(kChunkRows, block.action.size() - start);
    MatchAction(block.action.data() + start, codes.action, mask.data(), rows);
    if (codes.origin) block.origin.Match(start, rows, *codes.origin, mask.data());
    if (codes.brand) block.brand.Match(start, rows, *codes.brand, mask.data());
    if (codes.category) block.category.Match(start, rows, *codes.category, mask.data());
    int64_t sum = 0;
    AddMatches(block.price.data() + start, mask.data(), rows, &totals.count, &sum);
    totals.sum_price += static_cast<uint64_t>(sum);
  }
  return totals;
}

Totals Segment::Scan(absl::Span<const uint32_t> shards, const Filter& filter) const {
  Codes codes;
  codes.action = static_cast<uint8_t>(filter.action);
  // A value that never came in this minute matches nothing.
  if (filter.origin && !(codes.origin = origins_.Find(*filter.origin))) return {};
  if (filter.brand_id && !(codes.brand = brands_.Find(*filter.brand_id))) return {};
  if (filter.category_id && !(codes.category = categories_.Find(*filter.category_id))) return {};
  Totals totals;
  for (const uint32_t shard : shards) {
    const auto block = blocks_.find(shard);
    if (block != blocks_.end()) totals.Add(ScanBlock(block->second, codes));
  }
  return totals;
}

uint32_t Segment::OldestAcceptedS(absl::Span<const uint32_t> shards) const {
  uint32_t oldest = 0;
  for (const uint32_t shard : shards) {
    const auto block = blocks_.find(shard);
    if (block == blocks_.end()) continue;
    const uint32_t candidate = block->second.oldest_accepted_s;
    oldest = oldest == 0 ? candidate : std::min(oldest, candidate);
  }
  return oldest;
}

}  // namespace allezon::aggregate_svc
