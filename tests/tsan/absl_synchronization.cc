// SPDX-License-Identifier: Apache-2.0
//
// Tells ThreadSanitizer what absl::Mutex and absl::CondVar order. The packaged absl is built
// without the sanitizer, so that every member that a Mutex guards would look like a race. The
// definitions here are found before those of absl's shared library, which they call. Only in builds
// with ALLEZON_SANITIZE=thread; the mangled names are those of the packaged absl (20220623), and a
// process whose absl lacks one of them aborts at its first use.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <cstdlib>

#include "absl/synchronization/mutex.h"

namespace {

template <typename Function>
Function* Real(const char* mangled_name) {
  void* const symbol = dlsym(RTLD_NEXT, mangled_name);
  if (symbol == nullptr) abort();
  return reinterpret_cast<Function*>(symbol);
}

// A condition is evaluated by whichever thread holds the mutex inside of absl, where our Lock and
// Unlock do not see it.
class Watched {
 public:
  Watched(absl::Mutex* mutex, const absl::Condition& condition)
      : mutex_(mutex), condition_(condition), watching_(&Watched::Evaluate, this) {}
  const absl::Condition& condition() const { return watching_; }

 private:
  // A reader may have had the lock before another one began to wait, and evaluate that one's
  // condition when it unlocks: until the acquire it has not seen this being made.
  __attribute__((no_sanitize_thread)) static bool Evaluate(void* self) {
    auto* const watched = static_cast<Watched*>(self);
    __tsan_acquire(watched->mutex_);
    return watched->Holds();
  }

  bool Holds() const {
    const bool holds = condition_.Eval();
    __tsan_release(mutex_);
    return holds;
  }

  absl::Mutex* const mutex_;
  const absl::Condition& condition_;
  const absl::Condition watching_;
};

}  // namespace

#define ALLEZON_REAL(function, name) static auto* const real = Real<function>(name)

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  ALLEZON_REAL(void(Mutex*), "_ZN4absl7debian35Mutex4LockEv");
  real(this);
  __tsan_acquire(this);
}

void Mutex::Unlock() {
  ALLEZON_REAL(void(Mutex*), "_ZN4absl7debian35Mutex6UnlockEv");
  __tsan_release(this);
  real(this);
}

bool Mutex::TryLock() {
  ALLEZON_REAL(bool(Mutex*), "_ZN4absl7debian35Mutex7TryLockEv");
  const bool locked = real(this);
  if (locked) __tsan_acquire(this);
  return locked;
}

void Mutex::ReaderLock() {
  ALLEZON_REAL(void(Mutex*), "_ZN4absl7debian35Mutex10ReaderLockEv");
  real(this);
  __tsan_acquire(this);
}

void Mutex::ReaderUnlock() {
  ALLEZON_REAL(void(Mutex*), "_ZN4absl7debian35Mutex12ReaderUnlockEv");
  __tsan_release(this);
  real(this);
}

bool Mutex::ReaderTryLock() {
  ALLEZON_REAL(bool(Mutex*), "_ZN4absl7debian35Mutex13ReaderTryLockEv");
  const bool locked = real(this);
  if (locked) __tsan_acquire(this);
  return locked;
}

void Mutex::Await(const Condition& condition) {
  ALLEZON_REAL(void(Mutex*, const Condition&), "_ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE");
  const Watched watched(this, condition);
  __tsan_release(this);
  real(this, watched.condition());
  __tsan_acquire(this);
}

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  ALLEZON_REAL(bool(Mutex*, const Condition&, Duration),
               "_ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  const Watched watched(this, condition);
  __tsan_release(this);
  const bool holds = real(this, watched.condition(), timeout);
  __tsan_acquire(this);
  return holds;
}

bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  ALLEZON_REAL(bool(Mutex*, const Condition&, Time),
               "_ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  const Watched watched(this, condition);
  __tsan_release(this);
  const bool holds = real(this, watched.condition(), deadline);
  __tsan_acquire(this);
  return holds;
}

void Mutex::LockWhen(const Condition& condition) {
  ALLEZON_REAL(void(Mutex*, const Condition&), "_ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE");
  const Watched watched(this, condition);
  real(this, watched.condition());
  __tsan_acquire(this);
}

bool Mutex::LockWhenWithTimeout(const Condition& condition, Duration timeout) {
  ALLEZON_REAL(bool(Mutex*, const Condition&, Duration),
               "_ZN4absl7debian35Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  const Watched watched(this, condition);
  const bool holds = real(this, watched.condition(), timeout);
  __tsan_acquire(this);
  return holds;
}

bool Mutex::LockWhenWithDeadline(const Condition& condition, Time deadline) {
  ALLEZON_REAL(bool(Mutex*, const Condition&, Time),
               "_ZN4absl7debian35Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  const Watched watched(this, condition);
  const bool holds = real(this, watched.condition(), deadline);
  __tsan_acquire(this);
  return holds;
}

void CondVar::Wait(Mutex* mutex) {
  ALLEZON_REAL(void(CondVar*, Mutex*), "_ZN4absl7debian37CondVar4WaitEPNS0_5MutexE");
  __tsan_release(mutex);
  real(this, mutex);
  __tsan_acquire(mutex);
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  ALLEZON_REAL(bool(CondVar*, Mutex*, Duration),
               "_ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  __tsan_release(mutex);
  const bool expired = real(this, mutex, timeout);
  __tsan_acquire(mutex);
  return expired;
}

bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  ALLEZON_REAL(bool(CondVar*, Mutex*, Time),
               "_ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  __tsan_release(mutex);
  const bool expired = real(this, mutex, deadline);
  __tsan_acquire(mutex);
  return expired;
}

ABSL_NAMESPACE_END
}  // namespace absl
