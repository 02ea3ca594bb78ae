// SPDX-License-Identifier: Apache-2.0
//
// The dice of a simulated run. Its own generator, so that a seed means the same on every machine.
#pragma once

#include <cstdint>

namespace allezon::sim {

// splitmix64.
class Random {
 public:
  // Streams of neighbouring seeds must not be shifts of each other.
  explicit Random(uint64_t seed) : state_(Mix(seed ^ 0x5851f42d4c957f2du)) {}

  uint64_t Next() { return Mix(state_ += 0x9e3779b97f4a7c15u); }
  // 0 to n-1.
  uint64_t Below(uint64_t n) { return Next() % n; }
  // Both ends included.
  int64_t Between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(Below(static_cast<uint64_t>(high - low) + 1));
  }
  double Unit() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }
  bool Chance(double probability) { return Unit() < probability; }
  // Mostly near `low`, seldom near `high`: a uniform exponent.
  int64_t Skewed(int64_t low, int64_t high);

 private:
  static uint64_t Mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  uint64_t state_;
};

}  // namespace allezon::sim
