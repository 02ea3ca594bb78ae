// SPDX-License-Identifier: Apache-2.0
//
// A wall clock that is wrong by ALLEZON_CLOCK_SHIFT_S seconds, for one process: preloaded into a
// node by shifted_clock.py. Only CLOCK_REALTIME is another one; absolute times that the process
// waits for by that clock are put back to the kernel's, so that waits last as long as they should.
// (libfaketime leaves Abseil's waits alone, which are futex calls by CLOCK_REALTIME: a node ahead
// would wait for days.) Not for programs with a sanitizer.
#include <dlfcn.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>

#include <cerrno>
#include <cstdarg>
#include <cstdlib>

namespace {

// Monotonic clocks count from the machine's start, in less than this; a condition variable does not
// tell which clock it has.
constexpr time_t kRealTimeMinS = 500'000'000;

time_t ShiftS() {
  static const time_t shift_s = [] {
    const char* text = getenv("ALLEZON_CLOCK_SHIFT_S");
    return text == nullptr ? 0 : strtoll(text, nullptr, 10);
  }();
  return shift_s;
}

bool IsRealTime(clockid_t clock) {
  return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI;
}

template <typename Function>
Function* Real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

// The kernel's time of an absolute one of this process.
timespec Unshifted(const timespec& time) { return {time.tv_sec - ShiftS(), time.tv_nsec}; }

}  // namespace

#define REAL(name) static auto* const real = Real<decltype(name)>(#name)

extern "C" {

int clock_gettime(clockid_t clock, timespec* now) noexcept {
  REAL(clock_gettime);
  const int result = real(clock, now);
  if (result == 0 && IsRealTime(clock)) now->tv_sec += ShiftS();
  return result;
}

int timespec_get(timespec* now, int base) noexcept {
  return clock_gettime(CLOCK_REALTIME, now) == 0 ? base : 0;
}

int gettimeofday(timeval* now, void*) noexcept {
  timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  now->tv_sec = time.tv_sec;
  now->tv_usec = time.tv_nsec / 1000;
  return 0;
}

time_t time(time_t* now) noexcept {
  timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  if (now != nullptr) *now = time.tv_sec;
  return time.tv_sec;
}

int pthread_cond_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex,
                           const timespec* until) {
  REAL(pthread_cond_timedwait);
  const timespec kernels = until->tv_sec < kRealTimeMinS ? *until : Unshifted(*until);
  return real(condition, mutex, &kernels);
}

int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock,
                           const timespec* until) {
  REAL(pthread_cond_clockwait);
  const timespec kernels = IsRealTime(clock) ? Unshifted(*until) : *until;
  return real(condition, mutex, clock, &kernels);
}

int pthread_mutex_timedlock(pthread_mutex_t* mutex, const timespec* until) noexcept {
  REAL(pthread_mutex_timedlock);
  const timespec kernels = Unshifted(*until);
  return real(mutex, &kernels);
}

int sem_timedwait(sem_t* semaphore, const timespec* until) {
  REAL(sem_timedwait);
  const timespec kernels = Unshifted(*until);
  return real(semaphore, &kernels);
}

int clock_nanosleep(clockid_t clock, int flags, const timespec* time, timespec* left) {
  REAL(clock_nanosleep);
  if (!IsRealTime(clock) || (flags & TIMER_ABSTIME) == 0) return real(clock, flags, time, left);
  const timespec kernels = Unshifted(*time);
  return real(clock, flags, &kernels, left);
}

int timerfd_settime(int fd, int flags, const itimerspec* time, itimerspec* old) noexcept {
  REAL(timerfd_settime);
  itimerspec kernels = *time;
  if ((flags & TFD_TIMER_ABSTIME) != 0 && time->it_value.tv_sec >= kRealTimeMinS) {
    kernels.it_value = Unshifted(time->it_value);
  }
  return real(fd, flags, &kernels, old);
}

long syscall(long number, ...) noexcept {
  REAL(syscall);
  va_list list;
  va_start(list, number);
  long a[6];
  for (long& argument : a) argument = va_arg(list, long);
  va_end(list);
  timespec kernels;
  if (number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME) != 0 && a[3] != 0) {
    kernels = Unshifted(*reinterpret_cast<const timespec*>(a[3]));
    // The kernel refuses times before 1970; this one has passed.
    if (kernels.tv_sec < 0) kernels = {0, 0};
    a[3] = reinterpret_cast<long>(&kernels);
  }
  if (number == SYS_clock_gettime) {
    return clock_gettime(static_cast<clockid_t>(a[0]), reinterpret_cast<timespec*>(a[1]));
  }
  return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

}  // extern "C"
