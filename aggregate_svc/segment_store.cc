// SPDX-License-Identifier: Apache-2.0
#include "aggregate_svc/segment_store.h"

#include <rocksdb/db.h>
#include <rocksdb/slice_transform.h>
#include <rocksdb/write_batch.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "aggregate_svc/segment_keys.h"
#include "replica/prefix_filter.h"
#include "rpc/log.h"
#include "rpc/metrics.h"

namespace allezon::aggregate_svc {
namespace {

// A commit that comes behind a write of segments waits for it: so it stays short.
constexpr size_t kBatchBytesMax = size_t{1} << 20;
constexpr size_t kBatchRemovalsMax = 1000;

constexpr size_t kMinuteKeyBytes = 8;
constexpr double kBloomBitsPerMinute = 10;
// Of a memtable: enough for the minutes that fit in one.
constexpr double kMemtableBloomRatio = 0.02;
// Many minutes may be small, and their blocks' index should be.
constexpr size_t kBlockBytes = size_t{16} << 10;

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

void SegmentStore::Configure(rocksdb::ColumnFamilyOptions& options) {
  // Whether anything is there of a minute is asked for every minute that begins: filters of
  // memtable and files tell mostly that nothing is. Keys are read whole only where they are known
  // to be.
  replica::FilterByPrefix({std::shared_ptr<const rocksdb::SliceTransform>(
                               rocksdb::NewFixedPrefixTransform(kMinuteKeyBytes)),
                           kMemtableBloomRatio, kBloomBitsPerMinute, kBlockBytes},
                          options);
  // Columns of small codes shrink well, and are written once; RocksDB compresses them in its own
  // threads, where an explicit compression would make who seals wait.
  options.compression = rocksdb::kZSTD;
  options.write_buffer_size = std::min(options.write_buffer_size, size_t{16} << 20);
}

absl::StatusOr<std::vector<SealedRef>> SegmentStore::Find(int64_t minute) const {
  const std::string first = replica::MinuteKey(minute);
  const std::string end = replica::MinuteKey(minute + 1);
  const rocksdb::Slice bound(end);
  rocksdb::ReadOptions options;
  options.prefix_same_as_start = true;
  options.iterate_upper_bound = &bound;
  std::vector<SealedRef> sealed;
  std::unique_ptr<rocksdb::Iterator> it(context_.db->NewIterator(options, context_.column_family));
  for (it->Seek(first); it->Valid(); it->Next()) {
    const auto key = ParseKey(it->key().ToStringView());
    if (!key) continue;
    const auto digest = Segment::DigestInHeader(it->value().ToStringView());
    if (!digest) {
      // Who reads it finds it broken, and that the log's digest is another one.
      rpc::LogError("a segment cannot be read", {{"minute", minute}});
    }
    sealed.push_back({key->sequence, digest.value_or(replica::Digest()), {}});
  }
  if (const rocksdb::Status& status = it->status(); !status.ok()) {
    if (status.IsCorruption()) context_.note_damage(status.ToString());
    return DiskFails(status);
  }
  return sealed;
}

absl::StatusOr<SegmentRef> SegmentStore::Read(int64_t minute, uint64_t sequence) {
  if (SegmentRef cached = FindCached({minute, sequence}); cached != nullptr) return cached;
  // It is kept decoded.
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  rocksdb::PinnableSlice value;
  const rocksdb::Status got =
      context_.db->Get(options, context_.column_family, FormatKey({minute, sequence}), &value);
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
  Cache({minute, sequence}, segment);
  return segment;
}

void SegmentStore::StageRemove(int64_t minute, absl::Span<const SealedRef> sealed,
                               rocksdb::WriteBatch& batch) const {
  for (const SealedRef& one : sealed) {
    batch.Delete(context_.column_family, FormatKey({minute, one.sequence}));
  }
}

absl::Status SegmentStore::Remove(int64_t minute, absl::Span<const SealedRef> sealed) {
  if (sealed.empty()) return absl::OkStatus();
  rocksdb::WriteBatch batch;
  StageRemove(minute, sealed, batch);
  Forget(minute, sealed);
  const auto s = context_.db->Write({}, &batch);
  return s.ok() ? absl::OkStatus() : DiskFails(s);
}

absl::Status SegmentStore::RemoveAll(int64_t minute) {
  rocksdb::WriteBatch batch;
  batch.DeleteRange(context_.column_family, replica::MinuteKey(minute),
                    replica::MinuteKey(minute + 1));
  const auto s = context_.db->Write({}, &batch);
  return s.ok() ? absl::OkStatus() : DiskFails(s);
}

void SegmentStore::Forget(int64_t minute, absl::Span<const SealedRef> sealed) {
  absl::MutexLock lock(&mutex_);
  for (const SealedRef& one : sealed) {
    const auto found = cache_.find({minute, one.sequence});
    if (found == cache_.end()) continue;
    cached_bytes_.fetch_sub(found->second->segment->bytes(), std::memory_order_relaxed);
    by_use_.erase(found->second);
    cache_.erase(found);
  }
}

SegmentRef SegmentStore::FindCached(const CacheKey& key) {
  absl::MutexLock lock(&mutex_);
  const auto found = cache_.find(key);
  if (found == cache_.end()) return nullptr;
  by_use_.splice(by_use_.end(), by_use_, found->second);
  return found->second->segment;
}

void SegmentStore::Cache(const CacheKey& key, SegmentRef segment) {
  const size_t bytes = segment->bytes();
  if (bytes > cache_bytes_max_) return;
  std::list<Cached> dropped;  // freed once the lock is let go
  absl::MutexLock lock(&mutex_);
  if (cache_.contains(key)) return;
  while (cached_bytes() + bytes > cache_bytes_max_) {
    cached_bytes_.fetch_sub(by_use_.front().segment->bytes(), std::memory_order_relaxed);
    cache_.erase(by_use_.front().key);
    dropped.splice(dropped.end(), by_use_, by_use_.begin());
  }
  by_use_.push_back({key, std::move(segment)});
  cache_[key] = std::prev(by_use_.end());
  cached_bytes_.fetch_add(bytes, std::memory_order_relaxed);
}

SegmentStore::Batch::Batch(SegmentStore& store)
    : store_(store), batch_(std::make_unique<rocksdb::WriteBatch>()) {}

SegmentStore::Batch::~Batch() = default;

SealedRef SegmentStore::Batch::Replace(int64_t minute, absl::Span<const SealedRef> replaced,
                                       SegmentRef segment, Sign sign) {
  Remove(minute, replaced);
  const uint64_t number = store_.next_sequence_.fetch_add(1, std::memory_order_relaxed);
  const SealedRef sealed{
      number | (sign == kMinus ? SealedRef::kMinusBit : 0), segment->digest(), {}};
  batch_->Put(store_.context_.column_family, FormatKey({minute, sealed.sequence}),
              segment->Encode());
  stored_.push_back({minute, sealed.sequence, std::move(segment)});
  return sealed;
}

void SegmentStore::Batch::Remove(int64_t minute, absl::Span<const SealedRef> sealed) {
  if (sealed.empty()) return;
  store_.StageRemove(minute, sealed, *batch_);
  replaced_.emplace_back(minute, std::vector<SealedRef>(sealed.begin(), sealed.end()));
}

size_t SegmentStore::Batch::bytes() const { return batch_->GetDataSize(); }

absl::Status SegmentStore::Batch::Write() {
  rocksdb::Status status;
  if (batch_->Count() > 0) status = store_.context_.db->Write({}, batch_.get());
  if (status.ok()) {
    for (const auto& [minute, sealed] : replaced_) store_.Forget(minute, sealed);
    for (Stored& one : stored_) {
      TheMeters().sealed.Increment();
      store_.Cache({one.minute, one.sequence}, std::move(one.segment));
    }
  }
  batch_->Clear();
  replaced_.clear();
  stored_.clear();
  return status.ok() ? absl::OkStatus() : DiskFails(status);
}

absl::Status SegmentStore::Batch::WriteIfLarge() {
  if (bytes() < kBatchBytesMax && batch_->Count() < kBatchRemovalsMax) return absl::OkStatus();
  return Write();
}

void SegmentStore::PassSequence(uint64_t sequence) {
  const uint64_t next = (sequence & ~SealedRef::kMinusBit) + 1;
  if (next > next_sequence_.load(std::memory_order_relaxed)) {
    next_sequence_.store(next, std::memory_order_relaxed);
  }
}

SegmentStore::Walk::Walk(SegmentStore& store, Batch& batch) : store_(store), batch_(batch) {
  rocksdb::ReadOptions options;
  options.total_order_seek = true;
  options.fill_cache = false;
  it_.reset(store_.context_.db->NewIterator(options, store_.context_.column_family));
  it_->SeekToFirst();
}

SegmentStore::Walk::~Walk() = default;

absl::Status SegmentStore::Walk::Next() {
  sealed_.clear();
  is_valid_ = false;
  for (; it_->Valid(); it_->Next()) {
    const auto key = ParseKey(it_->key().ToStringView());
    if (key && is_valid_ && key->minute != minute_) break;
    if (key) store_.PassSequence(key->sequence);
    const auto digest = Segment::DigestOf(it_->value().ToStringView());
    if (!key || !digest.ok()) {
      batch_.batch_->Delete(store_.context_.column_family, it_->key());
      if (absl::Status status = batch_.WriteIfLarge(); !status.ok()) return status;
      continue;
    }
    is_valid_ = true;
    minute_ = key->minute;
    sealed_.push_back({key->sequence, *digest, {}});
  }
  if (it_->status().ok()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("segments cannot be read: ", it_->status().ToString()));
}

}  // namespace allezon::aggregate_svc
