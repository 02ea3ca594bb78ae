// SPDX-License-Identifier: Apache-2.0
#include "aggregate_svc/minutes.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "aggregate_svc/minute.h"

namespace allezon::aggregate_svc {
namespace {

// A minute's own allocation, its places here and, while something of it is open, among the written
// ones.
constexpr size_t kMinuteOverheadBytes = 192;
// Who adds a minute beyond bounds lets so many leave: more than one, so that the rest shrinks.
constexpr int kLooksAMinute = 4;
// Looked at with the mutex held.
constexpr size_t kTrimStep = 1000;

}  // namespace

size_t Minute::bytes() const {
  size_t bytes = sizeof(Minute) + kMinuteOverheadBytes +
                 dropped_while_sealing.capacity() * sizeof(dropped_while_sealing[0]);
  for (const Side& side : sides) {
    const Closed& closed = side.closed;
    bytes += closed.sealed.capacity() * sizeof(SealedRef) +
             closed.leaving_dropped.capacity() * sizeof(closed.leaving_dropped[0]);
    for (const SealedRef& one : closed.sealed) {
      bytes += one.dropped.capacity() * sizeof(one.dropped[0]);
    }
  }
  return bytes;
}

bool Minute::HasDropped() const {
  return std::any_of(sides.begin(), sides.end(), [](const Side& side) {
    return std::any_of(side.closed.sealed.begin(), side.closed.sealed.end(),
                       [](const SealedRef& one) { return !one.dropped.empty(); });
  });
}

bool Minute::IsStored() const {
  const bool is_open = std::any_of(sides.begin(), sides.end(), [](const Side& side) {
    return side.open != nullptr || side.closed.leaving != nullptr;
  });
  return !is_open && !is_sealing && !is_stale_on_disk && lost.ok() && !HasDropped();
}

bool Minute::IsEmpty() const {
  return is_loaded && sides[kPlus].closed.sealed.empty() && sides[kMinus].closed.sealed.empty() &&
         IsStored();
}

Minutes::Minutes(size_t bytes_max)
    : bytes_max_(bytes_max),
      first_left_(std::numeric_limits<int64_t>::max()),
      last_left_(std::numeric_limits<int64_t>::min()) {}

Minutes::~Minutes() = default;

bool Minutes::IsFullLocked() const { return bytes() > bytes_max_ && by_use_.size() > kStayMin; }

bool Minutes::MayBeOnDiskLocked(int64_t number) const {
  return first_left_ <= number && number <= last_left_;
}

MinuteRef Minutes::FindLocked(int64_t number, bool may_make) {
  if (const auto found = minutes_.find(number); found != minutes_.end()) {
    by_use_.splice(by_use_.end(), by_use_, found->second->place.by_use);
    return by_use_.back();
  }
  const bool may_be_on_disk = MayBeOnDiskLocked(number);
  if (!may_make && !may_be_on_disk) return nullptr;
  MinuteRef minute = std::make_shared<Minute>(number, /*loaded=*/!may_be_on_disk);
  minute->place.by_use = by_use_.insert(by_use_.end(), minute);
  minute->place.bytes = sizeof(Minute) + kMinuteOverheadBytes;
  minutes_[number] = minute.get();
  bytes_.fetch_add(minute->place.bytes, std::memory_order_relaxed);
  return minute;
}

MinuteRef Minutes::FindOrMake(int64_t number) {
  std::list<MinuteRef> left;  // freed once the mutex is let go
  absl::MutexLock lock(&mutex_);
  MinuteRef minute = FindLocked(number, /*may_make=*/true);
  for (int i = 0; i < kLooksAMinute && IsFullLocked(); ++i) TryLeaveLocked(left);
  return minute;
}

MinuteRef Minutes::Find(int64_t number) {
  std::list<MinuteRef> left;
  absl::MutexLock lock(&mutex_);
  MinuteRef minute = FindLocked(number, /*may_make=*/false);
  for (int i = 0; i < kLooksAMinute && IsFullLocked(); ++i) TryLeaveLocked(left);
  return minute;
}

void Minutes::EraseLocked(Minute& minute, std::list<MinuteRef>& left) {
  minutes_.erase(minute.number);
  bytes_.fetch_sub(minute.place.bytes, std::memory_order_relaxed);
  if (minute.place.written) written_.erase(*minute.place.written);
  left.splice(left.end(), by_use_, minute.place.by_use);
}

void Minutes::Release(MinuteRef minute) {
  std::list<MinuteRef> left;
  absl::MutexLock lock(&mutex_);
  // Ours, that of by_use_, and that of written_. As references are given out under mutex_ alone,
  // nobody can get another one.
  const long ours = minute->place.written ? 3 : 2;
  if (minute.use_count() > ours || !minute->mutex.TryLock()) {
    minute.reset();
    return;
  }
  const bool is_empty = minute->IsEmpty();
  minute->mutex.Unlock();
  if (is_empty) EraseLocked(*minute, left);
  // With the mutex held: who releases it next must see that we have.
  minute.reset();
}

void Minutes::CountBytes(const MinuteRef& minute) {
  size_t bytes = 0;
  {
    absl::ReaderMutexLock lock(&minute->mutex);
    bytes = minute->bytes();
  }
  absl::MutexLock lock(&mutex_);
  bytes_.fetch_add(bytes - minute->place.bytes, std::memory_order_relaxed);
  minute->place.bytes = bytes;
}

void Minutes::NoteWritten(const MinuteRef& minute, absl::Time last_append) {
  absl::MutexLock lock(&mutex_);
  const auto to = last_append == absl::InfinitePast() ? written_.begin() : written_.end();
  if (auto& place = minute->place.written) {
    (*place)->last_append = last_append;
    written_.splice(to, written_, *place);
  } else {
    place = written_.insert(to, {minute, last_append});
  }
}

MinuteRef Minutes::TakeWritten(absl::Time quiet_since) {
  absl::MutexLock lock(&mutex_);
  if (written_.empty() || written_.front().last_append > quiet_since) return nullptr;
  MinuteRef minute = std::move(written_.front().minute);
  written_.pop_front();
  minute->place.written.reset();
  return minute;
}

Minutes::Left Minutes::TryLeaveLocked(std::list<MinuteRef>& left) {
  Minute& minute = *by_use_.front();
  bool is_stored = false, is_empty = false, has_dropped = false;
  // Where only by_use_ refers to it, nobody holds its mutex, or will. Taken all the same, to see
  // what its last user wrote.
  if (by_use_.front().use_count() == 1 && minute.mutex.TryLock()) {
    is_stored = minute.IsStored();
    is_empty = minute.IsEmpty();
    has_dropped = minute.HasDropped();
    minute.mutex.Unlock();
  }
  if (!is_stored) {
    by_use_.splice(by_use_.end(), by_use_, by_use_.begin());
    return has_dropped ? Left::kDropped : Left::kInUse;
  }
  if (!is_empty) {
    first_left_ = std::min(first_left_, minute.number);
    last_left_ = std::max(last_left_, minute.number);
  }
  EraseLocked(minute, left);
  return Left::kYes;
}

std::vector<MinuteRef> Minutes::Trim(size_t dropped_max) {
  std::vector<MinuteRef> dropped;
  size_t looks = count();
  while (looks > 0) {
    std::list<MinuteRef> left;
    absl::MutexLock lock(&mutex_);
    for (size_t i = 0; i < kTrimStep && looks > 0; ++i, --looks) {
      if (!IsFullLocked()) return dropped;
      if (TryLeaveLocked(left) == Left::kDropped && dropped.size() < dropped_max) {
        dropped.push_back(by_use_.back());
      }
    }
  }
  return dropped;
}

size_t Minutes::excess_bytes() const {
  const size_t taken = bytes();
  return taken > bytes_max_ ? taken - bytes_max_ : 0;
}

size_t Minutes::count() const {
  absl::MutexLock lock(&mutex_);
  return by_use_.size();
}

}  // namespace allezon::aggregate_svc
