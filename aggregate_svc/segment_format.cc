// SPDX-License-Identifier: Apache-2.0
//
// A segment's form on disk.
#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "aggregate_svc/segment.h"

namespace allezon::aggregate_svc {
namespace {

constexpr uint32_t kVersion = 2;
constexpr size_t kHeaderBytes = sizeof(uint32_t) + sizeof(uint64_t);  // version, checksum

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

std::optional<replica::Digest> Segment::DigestInHeader(std::string_view bytes) {
  Reader reader(bytes);
  const auto version = reader.Value<uint32_t>();
  reader.Value<uint64_t>();  // checksum
  const replica::Digest digest = ReadDigest(reader);
  if (!reader.ok() || version != kVersion) return std::nullopt;
  return digest;
}

absl::StatusOr<Segment> Segment::Decode(std::string_view bytes) {
  absl::StatusOr<std::string_view> payload = Payload(bytes);
  if (!payload.ok()) return payload.status();
  Reader reader(*payload);
  Segment segment;
  segment.knows_blocks_ = false;
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
