// SPDX-License-Identifier: Apache-2.0
//
// Compiled with -O3: the loops of ScanBlock are written to be vectorised.
#include "aggregate_svc/segment.h"

#include <xxhash.h>

#include <algorithm>
#include <concepts>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "router/shard.h"

// Function clones are chosen before a sanitizer's runtime is up, which it does not survive.
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#define ALLEZON_VECTORISED __attribute__((target_clones("avx2", "default")))
#else
#define ALLEZON_VECTORISED
#endif

namespace allezon::aggregate_svc {
namespace {

constexpr uint32_t kVersion = 2;
constexpr size_t kHeaderBytes = sizeof(uint32_t) + sizeof(uint64_t);  // version, checksum
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

template <typename T>
void AppendValue(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <typename T>
void AppendColumn(std::string& out, const std::vector<T>& column) {
  out.append(reinterpret_cast<const char*>(column.data()), column.size() * sizeof(T));
}

// The size of a code comes first.
void AppendColumn(std::string& out, const CodeColumn& column) {
  if (column.is_wide()) {
    AppendValue(out, uint8_t{sizeof(uint32_t)});
    AppendColumn(out, column.wide());
  } else {
    AppendValue(out, uint8_t{sizeof(uint16_t)});
    AppendColumn(out, column.narrow());
  }
}

// Reads what AppendValue wrote; after a read past the end everything is zero and ok() false.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : left_(bytes) {}

  template <typename T>
  T Value() {
    T value{};
    const std::string_view bytes = Bytes(sizeof(T));
    if (ok_) std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }

  template <typename T>
  void Column(size_t rows, std::vector<T>& column) {
    if (rows > left_.size() / sizeof(T)) ok_ = false;
    const std::string_view bytes = Bytes(ok_ ? rows * sizeof(T) : 0);
    column.resize(bytes.size() / sizeof(T));
    if (!column.empty()) std::memcpy(column.data(), bytes.data(), bytes.size());
  }

  void Column(size_t rows, CodeColumn& column) {
    switch (Value<uint8_t>()) {
      case sizeof(uint16_t):
        return Column(rows, column.narrow());
      case sizeof(uint32_t):
        return Column(rows, column.wide());
      default:
        ok_ = false;
    }
  }

  std::string_view Bytes(size_t size) {
    if (size > left_.size()) {
      ok_ = false;
      left_ = {};
      return {};
    }
    const std::string_view bytes = left_.substr(0, size);
    left_.remove_prefix(size);
    return bytes;
  }

  bool ok() const { return ok_; }
  bool AtEnd() const { return ok_ && left_.empty(); }

 private:
  std::string_view left_;
  bool ok_ = true;
};

absl::Status Malformed(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("a stored segment ", what));
}

bool AllBelow(const CodeColumn& column, size_t bound) {
  const auto below = [&](const auto& codes) {
    return std::all_of(codes.begin(), codes.end(), [&](auto code) { return code < bound; });
  };
  return column.is_wide() ? below(column.wide()) : below(column.narrow());
}

// The part behind a checksum that holds.
absl::StatusOr<std::string_view> Payload(std::string_view bytes) {
  Reader header(bytes);
  const auto version = header.Value<uint32_t>();
  const auto checksum = header.Value<uint64_t>();
  if (!header.ok()) return Malformed("is cut short");
  if (version != kVersion) return Malformed(absl::StrCat("has version ", version));
  const std::string_view payload = bytes.substr(kHeaderBytes);
  if (XXH3_64bits(payload.data(), payload.size()) != checksum) {
    return Malformed("does not have its checksum");
  }
  return payload;
}

replica::Digest ReadDigest(Reader& reader) {
  replica::Digest digest;
  digest.count = reader.Value<uint64_t>();
  const auto low = reader.Value<uint64_t>();
  digest.sum = absl::MakeUint128(reader.Value<uint64_t>(), low);
  return digest;
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
  digest_.Add(router::AsBytes(entry.id), entry.tag);
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
    bytes_ += block.bytes() - before;
  }
  digest_.Add(other.digest_);
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

uint64_t Segment::RowsOf(absl::Span<const uint32_t> shards) const {
  uint64_t rows = 0;
  for (const uint32_t shard : shards) {
    const auto block = blocks_.find(shard);
    if (block != blocks_.end()) rows += block->second.action.size();
  }
  return rows;
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

std::string Segment::Encode() const {
  std::string payload;
  payload.reserve(bytes_);
  AppendValue(payload, digest_.count);
  AppendValue(payload, absl::Uint128Low64(digest_.sum));
  AppendValue(payload, absl::Uint128High64(digest_.sum));
  for (const Dictionary* dictionary : {&origins_, &brands_, &categories_}) {
    AppendValue(payload, static_cast<uint32_t>(dictionary->texts().size()));
    for (const std::string& text : dictionary->texts()) {
      AppendValue(payload, static_cast<uint32_t>(text.size()));
      payload.append(text);
    }
  }
  AppendValue(payload, static_cast<uint32_t>(blocks_.size()));
  for (const auto& [shard, block] : blocks_) {
    AppendValue(payload, shard);
    AppendValue(payload, static_cast<uint32_t>(block.action.size()));
    AppendValue(payload, block.oldest_accepted_s);
    AppendColumn(payload, block.action);
    AppendColumn(payload, block.origin);
    AppendColumn(payload, block.brand);
    AppendColumn(payload, block.category);
    AppendColumn(payload, block.price);
  }
  std::string bytes;
  bytes.reserve(kHeaderBytes + payload.size());
  AppendValue(bytes, kVersion);
  AppendValue(bytes, uint64_t{XXH3_64bits(payload.data(), payload.size())});
  bytes.append(payload);
  return bytes;
}

absl::StatusOr<replica::Digest> Segment::DigestOf(std::string_view bytes) {
  absl::StatusOr<std::string_view> payload = Payload(bytes);
  if (!payload.ok()) return payload.status();
  Reader reader(*payload);
  const replica::Digest digest = ReadDigest(reader);
  if (!reader.ok()) return Malformed("is cut short");
  return digest;
}

absl::StatusOr<Segment> Segment::Decode(std::string_view bytes) {
  absl::StatusOr<std::string_view> payload = Payload(bytes);
  if (!payload.ok()) return payload.status();
  Reader reader(*payload);
  Segment segment;
  segment.digest_ = ReadDigest(reader);
  for (Dictionary* dictionary : {&segment.origins_, &segment.brands_, &segment.categories_}) {
    const auto texts = reader.Value<uint32_t>();
    for (uint32_t i = 0; i < texts && reader.ok(); ++i) {
      const auto size = reader.Value<uint32_t>();
      const std::string text(reader.Bytes(size));
      if (dictionary->Code(text, segment.bytes_) != i) return Malformed("names a text twice");
    }
  }
  const auto blocks = reader.Value<uint32_t>();
  uint64_t events = 0;
  for (uint32_t i = 0; i < blocks && reader.ok(); ++i) {
    const auto shard = reader.Value<uint32_t>();
    const auto rows = reader.Value<uint32_t>();
    const auto [entry, is_new] = segment.blocks_.try_emplace(shard);
    if (!is_new) return Malformed("names a shard twice");
    if (rows == 0) return Malformed("has an empty block");
    Block& block = entry->second;
    block.oldest_accepted_s = reader.Value<uint32_t>();
    reader.Column(rows, block.action);
    reader.Column(rows, block.origin);
    reader.Column(rows, block.brand);
    reader.Column(rows, block.category);
    reader.Column(rows, block.price);
    if (!reader.ok()) break;
    if (!AllBelow(block.origin, segment.origins_.texts().size()) ||
        !AllBelow(block.brand, segment.brands_.texts().size()) ||
        !AllBelow(block.category, segment.categories_.texts().size())) {
      return Malformed("has a code without a text");
    }
    for (uint32_t row = 0; row < rows; ++row) {
      if (block.action[row] >= block.totals.size()) return Malformed("has an unknown action");
      block.Count(block.action[row], block.price[row]);
    }
    events += rows;
    segment.bytes_ += block.bytes();
  }
  if (!reader.AtEnd()) return Malformed("is not as long as it says");
  if (events != segment.digest_.count) return Malformed("does not hold as many events as it says");
  return segment;
}

}  // namespace allezon::aggregate_svc
