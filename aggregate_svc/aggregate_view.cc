// SPDX-License-Identifier: Apache-2.0
#include "aggregate_svc/aggregate_view.h"

#include <rocksdb/db.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "replica/log_format.h"
#include "rpc/log.h"
#include "rpc/metrics.h"

namespace allezon::aggregate_svc {
namespace {

struct Meters {
  prometheus::Counter& sealed =
      rpc::MakeCounter("allezon_segments_sealed_total", "Segments sealed.");
  prometheus::Counter& loaded =
      rpc::MakeCounter("allezon_segments_loaded_total", "Sealed segments read back into memory.");
  prometheus::Counter& rebuilt = rpc::MakeCounter("allezon_segments_rebuilt_total",
                                                  "Segments rebuilt from the log at start-up.");
  prometheus::Counter& failures = rpc::MakeCounter("allezon_segment_failures_total",
                                                   "Segments that could not be stored or read.");
  prometheus::Gauge& bytes =
      rpc::MakeGauge("allezon_segments_resident_bytes", "Segments in memory.");
};

Meters& TheMeters() {
  static Meters meters;
  return meters;
}

absl::Status Failed(int64_t minute, const rocksdb::Status& status) {
  return absl::UnavailableError(
      absl::StrCat("the segment of minute ", minute, " cannot be read: ", status.ToString()));
}

}  // namespace

struct AggregateView::Minute {
  explicit Minute(int64_t n) : number(n) {}

  const int64_t number;
  std::atomic<uint64_t> last_use{0};
  absl::Mutex mutex;
  bool loaded ABSL_GUARDED_BY(mutex) = false;
  // No longer in the map: who holds it still must look it up again.
  bool evicted ABSL_GUARDED_BY(mutex) = false;
  // Whether it holds what its sealed value does not.
  bool dirty ABSL_GUARDED_BY(mutex) = false;
  // Why it could not be loaded; nothing is answered from it then, and nothing stored.
  absl::Status status ABSL_GUARDED_BY(mutex);
  absl::Time last_append ABSL_GUARDED_BY(mutex) = absl::InfinitePast();
  Segment segment ABSL_GUARDED_BY(mutex);
};

AggregateView::AggregateView(AggregateViewOptions options) : options_(options) { TheMeters(); }

AggregateView::~AggregateView() = default;

void AggregateView::Configure(rocksdb::ColumnFamilyOptions& options) {
  // A few values of up to megabytes: every one is read whole, so blocks need no cache and keys no
  // filter.
  rocksdb::BlockBasedTableOptions table;
  table.no_block_cache = true;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  // Columns of small codes shrink well, and are written once.
  options.compression = rocksdb::kZSTD;
  options.write_buffer_size = std::min(options.write_buffer_size, size_t{16} << 20);
}

absl::Status AggregateView::Open(const replica::ViewContext& context) {
  context_ = context;
  const std::vector<int64_t> logged = context_.log->Minutes();
  std::set<int64_t> missing(logged.begin(), logged.end());
  std::vector<std::string> orphans;
  std::unique_ptr<rocksdb::Iterator> it(context_.db->NewIterator({}, context_.column_family));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const auto minute = replica::ParseMinuteKey(it->key().ToStringView());
    if (!minute || !missing.contains(*minute)) {
      orphans.push_back(it->key().ToString());
      continue;
    }
    const absl::StatusOr<replica::Digest> digest = Segment::DigestOf(it->value().ToStringView());
    if (digest.ok() && *digest == context_.log->MinuteDigest(*minute)) missing.erase(*minute);
  }
  if (!it->status().ok()) {
    return absl::DataLossError(absl::StrCat("segments cannot be read: ", it->status().ToString()));
  }
  for (const std::string& key : orphans) {
    if (const auto s = context_.db->Delete({}, context_.column_family, key); !s.ok()) {
      return absl::UnavailableError(s.ToString());
    }
  }
  for (const int64_t minute : missing) {
    if (absl::Status status = Rebuild(minute); !status.ok()) return status;
  }
  if (!missing.empty()) {
    rpc::LogInfo("segments rebuilt from the log",
                 {{"rebuilt", missing.size()}, {"minutes", logged.size()}});
  }
  return absl::OkStatus();
}

absl::Status AggregateView::Rebuild(int64_t minute) {
  Segment segment;
  absl::Status status = context_.log->ReadMinute(
      minute, [&](const replica::LogEntry& entry) { segment.Append(entry); });
  if (!status.ok()) return status;
  TheMeters().rebuilt.Increment();
  // Stored at once instead of being kept, so that a start-up needs no memory for what nobody asks
  // for.
  const auto put =
      context_.db->Put({}, context_.column_family, replica::MinuteKey(minute), segment.Encode());
  return put.ok() ? absl::OkStatus() : absl::UnavailableError(put.ToString());
}

AggregateView::MinuteRef AggregateView::Find(int64_t minute) {
  absl::MutexLock lock(&mutex_);
  MinuteRef& found = minutes_[minute];
  if (found == nullptr) found = std::make_shared<Minute>(minute);
  found->last_use.store(clock_.fetch_add(1, std::memory_order_relaxed), std::memory_order_relaxed);
  return found;
}

void AggregateView::Load(Minute& minute) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(minute.mutex) {
  minute.loaded = true;
  rocksdb::PinnableSlice value;
  const rocksdb::Status got =
      context_.db->Get({}, context_.column_family, replica::MinuteKey(minute.number), &value);
  if (got.IsNotFound()) return;
  absl::StatusOr<Segment> segment = got.ok() ? Segment::Decode(value.ToStringView())
                                             : absl::StatusOr<Segment>(Failed(minute.number, got));
  if (segment.ok()) {
    minute.segment = *std::move(segment);
    TheMeters().loaded.Increment();
    return;
  }
  // The log still has it all: the next start rebuilds it.
  minute.status = segment.status();
  TheMeters().failures.Increment();
  rpc::LogError("a segment cannot be read",
                {{"minute", minute.number}, {"detail", std::string(minute.status.message())}});
}

void AggregateView::Committed(absl::Span<const replica::LogEntry> entries) {
  std::map<int64_t, std::vector<const replica::LogEntry*>> by_minute;
  for (const replica::LogEntry& entry : entries) by_minute[entry.minute].push_back(&entry);
  for (const auto& [minute, some] : by_minute) Append(minute, some);
  if (resident_bytes() > options_.resident_bytes_max) EnforceBound();
}

void AggregateView::Append(int64_t number, absl::Span<const replica::LogEntry* const> entries) {
  while (true) {
    const MinuteRef minute = Find(number);
    absl::MutexLock lock(&minute->mutex);
    if (minute->evicted) continue;
    const size_t before = minute->loaded ? minute->segment.bytes() : 0;
    if (!minute->loaded) Load(*minute);
    for (const replica::LogEntry* entry : entries) minute->segment.Append(*entry);
    minute->dirty = true;
    minute->last_append = absl::Now();
    resident_bytes_.fetch_add(minute->segment.bytes() - before, std::memory_order_relaxed);
    return;
  }
}

absl::StatusOr<std::vector<MinuteAnswer>> AggregateView::Scan(absl::Span<const uint32_t> shards,
                                                              int64_t from, int64_t to,
                                                              const Filter& filter) {
  std::vector<MinuteAnswer> answers;
  for (int64_t number = from; number < to;) {
    MinuteAnswer answer;
    const MinuteRef minute = Find(number);
    {
      absl::MutexLock lock(&minute->mutex);
      if (minute->evicted) continue;
      if (!minute->loaded) {
        Load(*minute);
        resident_bytes_.fetch_add(minute->segment.bytes(), std::memory_order_relaxed);
      }
    }
    {
      absl::ReaderMutexLock lock(&minute->mutex);
      if (minute->evicted) continue;
      if (!minute->status.ok()) return minute->status;
      answer.totals = minute->segment.Scan(shards, filter);
      answer.oldest_accepted_s = minute->segment.OldestAcceptedS(shards);
    }
    answer.taken_through_s = context_.log->TakenThroughS(number);
    answers.push_back(answer);
    ++number;
  }
  if (resident_bytes() > options_.resident_bytes_max) EnforceBound();
  return answers;
}

bool AggregateView::Seal(Minute& minute) ABSL_EXCLUSIVE_LOCKS_REQUIRED(minute.mutex) {
  // A segment that was never read whole must not overwrite the value that could not be read.
  if (!minute.status.ok()) return false;
  // Not synced: a value that a crash loses is rebuilt from the log, which is.
  const auto put = context_.db->Put({}, context_.column_family, replica::MinuteKey(minute.number),
                                    minute.segment.Encode());
  if (!put.ok()) {
    TheMeters().failures.Increment();
    return false;
  }
  minute.dirty = false;
  TheMeters().sealed.Increment();
  return true;
}

std::vector<AggregateView::MinuteRef> AggregateView::AllMinutes() const {
  absl::MutexLock lock(&mutex_);
  std::vector<MinuteRef> all;
  all.reserve(minutes_.size());
  for (const auto& [number, minute] : minutes_) all.push_back(minute);
  return all;
}

size_t AggregateView::resident_minutes() const {
  absl::MutexLock lock(&mutex_);
  return minutes_.size();
}

bool AggregateView::Evict(const MinuteRef& minute) {
  {
    absl::MutexLock lock(&minute->mutex);
    if (minute->evicted || !minute->loaded) return false;
    if (minute->dirty && !Seal(*minute)) return false;
    minute->evicted = true;
    resident_bytes_.fetch_sub(minute->segment.bytes(), std::memory_order_relaxed);
  }
  absl::MutexLock lock(&mutex_);
  const auto found = minutes_.find(minute->number);
  if (found != minutes_.end() && found->second == minute) minutes_.erase(found);
  return true;
}

void AggregateView::EnforceBound() {
  // Down to seven eighths, so that this is not done again for every tag.
  const size_t goal = options_.resident_bytes_max / 8 * 7;
  // By a copy of the last uses, which go on changing.
  std::vector<std::pair<uint64_t, MinuteRef>> by_use;
  for (MinuteRef& minute : AllMinutes()) {
    const uint64_t last_use = minute->last_use.load(std::memory_order_relaxed);
    by_use.emplace_back(last_use, std::move(minute));
  }
  std::sort(by_use.begin(), by_use.end());
  for (const auto& [last_use, minute] : by_use) {
    if (resident_bytes() <= goal) return;
    Evict(minute);
  }
}

void AggregateView::StageTakeMinute(int64_t minute, uint32_t, rocksdb::WriteBatch& batch) {
  batch.Delete(context_.column_family, replica::MinuteKey(minute));
}

void AggregateView::MinuteTaken(int64_t number, uint32_t) {
  const MinuteRef minute = Find(number);
  {
    absl::MutexLock lock(&minute->mutex);
    if (minute->loaded) {
      resident_bytes_.fetch_sub(minute->segment.bytes(), std::memory_order_relaxed);
    }
    minute->evicted = true;
    // It may have been sealed between the commit and now.
    context_.db->Delete({}, context_.column_family, replica::MinuteKey(number))
        .PermitUncheckedError();
  }
  absl::MutexLock lock(&mutex_);
  minutes_.erase(number);
}

void AggregateView::Tick() {
  const absl::Time quiet_since = absl::Now() - options_.seal_after;
  for (const MinuteRef& minute : AllMinutes()) {
    absl::MutexLock lock(&minute->mutex);
    if (!minute->evicted && minute->dirty && minute->last_append <= quiet_since) Seal(*minute);
  }
  if (resident_bytes() > options_.resident_bytes_max) EnforceBound();
  TheMeters().bytes.Set(static_cast<double>(resident_bytes()));
}

void AggregateView::Close() {
  for (const MinuteRef& minute : AllMinutes()) {
    absl::MutexLock lock(&minute->mutex);
    if (!minute->evicted && minute->dirty) Seal(*minute);
  }
}

}  // namespace allezon::aggregate_svc
