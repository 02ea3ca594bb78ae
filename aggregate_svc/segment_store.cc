// SPDX-License-Identifier: Apache-2.0
#include "aggregate_svc/segment_store.h"

#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "replica/log_format.h"
#include "rpc/log.h"
#include "rpc/metrics.h"

namespace allezon::aggregate_svc {
namespace {

// Keys that are removed in one batch when the store opens.
constexpr size_t kForeignKeysBatch = 1000;

struct Meters {
  prometheus::Counter& sealed =
      rpc::MakeCounter("allezon_segments_sealed_total", "Segments sealed.");
  prometheus::Counter& loaded =
      rpc::MakeCounter("allezon_segments_loaded_total", "Sealed segments read back into memory.");
  prometheus::Counter& failures = rpc::MakeCounter("allezon_segment_failures_total",
                                                   "Segments that could not be stored or read.");
};

Meters& TheMeters() {
  static Meters meters;
  return meters;
}

std::string Key(int64_t minute, uint64_t sequence) {
  std::string key = replica::MinuteKey(minute);
  const uint64_t big = __builtin_bswap64(sequence);
  key.append(reinterpret_cast<const char*>(&big), sizeof(big));
  return key;
}

std::optional<std::pair<int64_t, uint64_t>> ParseKey(std::string_view key) {
  uint64_t big = 0;
  if (key.size() <= sizeof(big)) return std::nullopt;
  const auto minute = replica::ParseMinuteKey(key.substr(0, key.size() - sizeof(big)));
  if (!minute) return std::nullopt;
  std::memcpy(&big, key.data() + key.size() - sizeof(big), sizeof(big));
  return std::pair(*minute, __builtin_bswap64(big));
}

absl::Status DiskFails(const rocksdb::Status& status) {
  TheMeters().failures.Increment();
  return absl::UnavailableError(absl::StrCat("segments: ", status.ToString()));
}

absl::Status Broken(int64_t minute, absl::string_view what) {
  TheMeters().failures.Increment();
  return absl::DataLossError(absl::StrCat("a segment of minute ", minute, ": ", what));
}

}  // namespace

SegmentStore::SegmentStore(size_t cache_bytes_max) : cache_bytes_max_(cache_bytes_max) {
  TheMeters();
}

absl::StatusOr<absl::btree_map<int64_t, std::vector<SealedRef>>> SegmentStore::Open(
    const replica::ViewContext& context) {
  context_ = context;
  absl::btree_map<int64_t, std::vector<SealedRef>> minutes;
  rocksdb::WriteBatch foreign;
  uint64_t newest = 0;
  std::unique_ptr<rocksdb::Iterator> it(context_.db->NewIterator({}, context_.column_family));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const auto key = ParseKey(it->key().ToStringView());
    const auto digest = Segment::DigestOf(it->value().ToStringView());
    if (key) newest = std::max(newest, key->second & ~SealedRef::kMinusBit);
    if (key && digest.ok()) {
      minutes[key->first].push_back({key->second, *digest, {}});
      continue;
    }
    foreign.Delete(context_.column_family, it->key());
    if (foreign.Count() < kForeignKeysBatch) continue;
    if (const auto s = context_.db->Write({}, &foreign); !s.ok()) return DiskFails(s);
    foreign.Clear();
  }
  if (!it->status().ok()) {
    return absl::DataLossError(absl::StrCat("segments cannot be read: ", it->status().ToString()));
  }
  if (const auto s = context_.db->Write({}, &foreign); !s.ok()) return DiskFails(s);
  next_sequence_.store(newest + 1, std::memory_order_relaxed);
  return minutes;
}

absl::StatusOr<SealedRef> SegmentStore::Replace(int64_t minute,
                                                absl::Span<const SealedRef> replaced,
                                                SegmentRef segment, Sign sign) {
  const uint64_t number = next_sequence_.fetch_add(1, std::memory_order_relaxed);
  const SealedRef sealed{
      number | (sign == kMinus ? SealedRef::kMinusBit : 0), segment->digest(), {}};
  rocksdb::WriteBatch batch;
  StageRemove(minute, replaced, batch);
  batch.Put(context_.column_family, Key(minute, sealed.sequence), segment->Encode());
  if (const auto s = context_.db->Write({}, &batch); !s.ok()) return DiskFails(s);
  TheMeters().sealed.Increment();
  Forget(replaced);
  Cache(sealed.sequence, std::move(segment));
  return sealed;
}

absl::StatusOr<SegmentRef> SegmentStore::Read(int64_t minute, uint64_t sequence) {
  if (SegmentRef cached = FindCached(sequence); cached != nullptr) return cached;
  rocksdb::PinnableSlice value;
  const rocksdb::Status got =
      context_.db->Get({}, context_.column_family, Key(minute, sequence), &value);
  if (got.IsNotFound()) return absl::DataLossError("it is not there");
  if (got.IsCorruption()) {
    context_.note_damage(got.ToString());
    return Broken(minute, got.ToString());
  }
  if (!got.ok()) return DiskFails(got);
  absl::StatusOr<Segment> decoded = Segment::Decode(value.ToStringView());
  if (!decoded.ok()) return Broken(minute, decoded.status().message());
  TheMeters().loaded.Increment();
  auto segment = std::make_shared<const Segment>(*std::move(decoded));
  Cache(sequence, segment);
  return segment;
}

void SegmentStore::StageRemove(int64_t minute, absl::Span<const SealedRef> sealed,
                               rocksdb::WriteBatch& batch) const {
  for (const SealedRef& one : sealed) {
    batch.Delete(context_.column_family, Key(minute, one.sequence));
  }
}

void SegmentStore::Forget(absl::Span<const SealedRef> sealed) {
  absl::MutexLock lock(&mutex_);
  for (const SealedRef& one : sealed) {
    const auto found = cache_.find(one.sequence);
    if (found == cache_.end()) continue;
    cached_bytes_.fetch_sub(found->second->segment->bytes(), std::memory_order_relaxed);
    by_use_.erase(found->second);
    cache_.erase(found);
  }
}

absl::Status SegmentStore::Remove(int64_t minute, absl::Span<const SealedRef> sealed) {
  rocksdb::WriteBatch batch;
  StageRemove(minute, sealed, batch);
  Forget(sealed);
  const auto s = context_.db->Write({}, &batch);
  return s.ok() ? absl::OkStatus() : DiskFails(s);
}

SegmentRef SegmentStore::FindCached(uint64_t sequence) {
  absl::MutexLock lock(&mutex_);
  const auto found = cache_.find(sequence);
  if (found == cache_.end()) return nullptr;
  by_use_.splice(by_use_.end(), by_use_, found->second);
  return found->second->segment;
}

void SegmentStore::Cache(uint64_t sequence, SegmentRef segment) {
  const size_t bytes = segment->bytes();
  if (bytes > cache_bytes_max_) return;
  std::list<Cached> dropped;  // freed once the lock is let go
  absl::MutexLock lock(&mutex_);
  if (cache_.contains(sequence)) return;
  while (cached_bytes() + bytes > cache_bytes_max_) {
    cached_bytes_.fetch_sub(by_use_.front().segment->bytes(), std::memory_order_relaxed);
    cache_.erase(by_use_.front().sequence);
    dropped.splice(dropped.end(), by_use_, by_use_.begin());
  }
  by_use_.push_back({sequence, std::move(segment)});
  cache_[sequence] = std::prev(by_use_.end());
  cached_bytes_.fetch_add(bytes, std::memory_order_relaxed);
}

}  // namespace allezon::aggregate_svc
