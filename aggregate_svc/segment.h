// SPDX-License-Identifier: Apache-2.0
//
// The events of one minute as columns: for each shard a block of action, origin, brand, category
// and price, strings coded by a dictionary of the minute. A question is a vectorised compare over
// the blocks of its shards, so every filter costs the same and none needs a table of its own; the
// unfiltered one reads totals only. Not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "allezon/v1/tag.pb.h"
#include "replica/digest.h"
#include "replica/view.h"

namespace allezon::aggregate_svc {

// What a query asks of each minute. Borrows.
struct Filter {
  v1::Action action = v1::ACTION_UNSPECIFIED;
  std::optional<std::string_view> origin = std::nullopt;
  std::optional<std::string_view> brand_id = std::nullopt;
  std::optional<std::string_view> category_id = std::nullopt;
};

// The sum wraps modulo 2^64 where it does not fit.
struct Totals {
  uint64_t count = 0;
  uint64_t sum_price = 0;

  void Add(const Totals& other) {
    count += other.count;
    sum_price += other.sum_price;
  }
  // Takes out what was added before.
  void Remove(const Totals& other) {
    count -= other.count;
    sum_price -= other.sum_price;
  }
};

// Codes of a dictionary, one a row: of 16 bits until one does not fit, then of 32.
class CodeColumn {
 public:
  void Add(uint32_t code);
  void Reserve(size_t rows);
  size_t size() const { return is_wide_ ? wide_.size() : narrow_.size(); }
  size_t capacity_bytes() const {
    return narrow_.capacity() * sizeof(uint16_t) + wide_.capacity() * sizeof(uint32_t);
  }
  uint32_t at(size_t row) const { return is_wide_ ? wide_[row] : narrow_[row]; }
  bool is_wide() const { return is_wide_; }
  // Keeps in `mask`, which is of rows [start, start + rows), those that have `code`.
  void Match(size_t start, size_t rows, uint32_t code, uint16_t* mask) const;

  std::vector<uint16_t>& narrow() { return narrow_; }
  const std::vector<uint16_t>& narrow() const { return narrow_; }
  // Makes it wide.
  std::vector<uint32_t>& wide();
  const std::vector<uint32_t>& wide() const { return wide_; }

 private:
  bool is_wide_ = false;
  std::vector<uint16_t> narrow_;
  std::vector<uint32_t> wide_;
};

class Segment {
 public:
  // `entry.parsed` must be set and valid (CheckTag).
  void Append(const replica::LogEntry& entry);
  // Adds all of `other`, none of whose events may be in this one.
  void Merge(const Segment& other);
  // Takes out all events of `shard`, and says which set they were.
  // REQUIRES: it was made by Append alone.
  replica::Digest Erase(uint32_t shard);

  // Adds up what matches in `shards`.
  Totals Scan(absl::Span<const uint32_t> shards, const Filter& filter) const;
  // The earliest acceptance among the events of `shards`, 0 where there are none.
  uint32_t OldestAcceptedS(absl::Span<const uint32_t> shards) const;

  bool is_empty() const { return blocks_.empty(); }
  // Of all events in it.
  const replica::Digest& digest() const { return digest_; }
  // About what it takes in memory.
  size_t bytes() const { return bytes_; }

  // One value with a checksum. DO NOT CHANGE without a new version: it is stored.
  std::string Encode() const;
  // kDataLoss where the bytes are no encoded segment.
  static absl::StatusOr<Segment> Decode(std::string_view bytes);
  // Checks the checksum and reads the digest only.
  static absl::StatusOr<replica::Digest> DigestOf(std::string_view bytes);
  // The same without a look at the checksum, and so at most of the bytes.
  static std::optional<replica::Digest> DigestInHeader(std::string_view bytes);

 private:
  class Dictionary {
   public:
    // The text's code, a new one where it had none; adds to `bytes` what that costs.
    uint32_t Code(const std::string& text, size_t& bytes);
    std::optional<uint32_t> Find(std::string_view text) const;
    const std::vector<std::string>& texts() const { return texts_; }

   private:
    absl::flat_hash_map<std::string, uint32_t> codes_;
    std::vector<std::string> texts_;
  };

  struct Block {
    std::vector<uint8_t> action;
    CodeColumn origin;
    CodeColumn brand;
    CodeColumn category;
    std::vector<int32_t> price;
    std::array<Totals, v1::Action_ARRAYSIZE> totals;  // by action
    uint32_t oldest_accepted_s = 0;
    replica::Digest digest;  // where knows_blocks_

    void Add(uint8_t row_action, uint32_t row_origin, uint32_t row_brand, uint32_t row_category,
             int32_t row_price);
    void Count(uint8_t row_action, int32_t row_price);
    void Accepted(uint32_t accepted_s);
    size_t bytes() const;
  };

  // The codes of a filter.
  struct Codes {
    uint8_t action = 0;
    std::optional<uint32_t> origin;
    std::optional<uint32_t> brand;
    std::optional<uint32_t> category;
  };
  static Totals ScanBlock(const Block& block, const Codes& codes);

  Block& BlockOf(uint32_t shard);

  Dictionary origins_;
  Dictionary brands_;
  Dictionary categories_;
  absl::btree_map<uint32_t, Block> blocks_;  // by shard
  replica::Digest digest_;
  // Whether blocks have digests of their own: what is stored has but one.
  bool knows_blocks_ = true;
  size_t bytes_ = sizeof(Segment);
};

}  // namespace allezon::aggregate_svc
