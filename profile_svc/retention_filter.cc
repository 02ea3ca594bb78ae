// SPDX-License-Identifier: Apache-2.0
#include "profile_svc/retention_filter.h"

#include <rocksdb/slice.h>

#include <string>

#include "profile_svc/profile_keys.h"

namespace allezon::profile_svc {
namespace {

// a - b, held inside int64. REQUIRES: b >= 0.
int64_t SaturatingSubtract(int64_t a, int64_t b) {
  int64_t difference;
  return __builtin_sub_overflow(a, b, &difference) ? std::numeric_limits<int64_t>::min()
                                                   : difference;
}

class RetentionFilter final : public rocksdb::CompactionFilter {
 public:
  // Rows may go whose tag time is before `kept_from_ms` and that were accepted before the second
  // `kept_from_s`. Fixed for the life of the filter: time passes, so what was old enough stays so.
  RetentionFilter(int64_t kept_from_ms, int64_t kept_from_s)
      : kept_from_ms_(kept_from_ms), kept_from_s_(kept_from_s) {}

  Decision FilterV2(int /*level*/, const rocksdb::Slice& key, ValueType type,
                    const rocksdb::Slice& value, std::string* /*new_value*/,
                    std::string* /*skip_until*/) const override {
    const auto row = ParseKey(key.ToStringView());
    const auto stored = ParseValue(value.ToStringView());
    // What cannot be read is neither counted nor removed: reads report it.
    if (type != ValueType::kValue || !row || !stored) return Decision::kKeep;
    Count(key.ToStringView(), row->prefix);
    const bool may_go = newer_ >= kProfileTagsKept && row->time_ms < kept_from_ms_ &&
                        int64_t{stored->accepted_s} < kept_from_s_;
    return may_go ? Decision::kRemove : Decision::kKeep;
  }

  const char* Name() const override { return "allezon.ProfileRetentionFilter"; }

 private:
  // Makes `newer_` the number of distinct rows of this prefix that passed before `key`.
  void Count(std::string_view key, std::string_view prefix) const {
    if (key == last_key_) return;
    const bool same_prefix = std::string_view(last_key_).substr(0, prefix_bytes_) == prefix;
    newer_ = same_prefix ? newer_ + 1 : 0;
    prefix_bytes_ = prefix.size();
    last_key_.assign(key);
  }

  const int64_t kept_from_ms_;
  const int64_t kept_from_s_;
  // RocksDB calls FilterV2 as const, from one thread.
  mutable std::string last_key_;
  mutable size_t prefix_bytes_ = 0;
  mutable uint64_t newer_ = 0;
};

}  // namespace

std::unique_ptr<rocksdb::CompactionFilter> RetentionFilterFactory::CreateCompactionFilter(
    const rocksdb::CompactionFilter::Context& /*context*/) {
  const int64_t kept_from_ms = SaturatingSubtract(
      times_->newest_tag_ms.load(std::memory_order_relaxed), absl::ToInt64Milliseconds(retention_));
  const absl::Time now =
      absl::FromUnixMicros(times_->agreed_now_us.load(std::memory_order_relaxed));
  // accepted_s is cut down to the second; the same cut here, and a strict comparison, never make a
  // row look older than it is.
  return std::make_unique<RetentionFilter>(kept_from_ms, absl::ToUnixSeconds(now - retention_));
}

}  // namespace allezon::profile_svc
