// SPDX-License-Identifier: Apache-2.0
//
// What a simulated run stands on: true time, the order of what happens, dice, and the record of it.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "tests/sim/random.h"

namespace allezon::sim {

// Microseconds of true time since the run began; no node sees it.
using Time = int64_t;
inline constexpr Time kMs = 1'000;
inline constexpr Time kSecond = 1'000'000;

using Task = std::function<void()>;

// One thing that happened. Fields that do not apply are -1.
struct TraceEntry {
  Time time_us;
  const char* what;  // a literal
  int node;
  int peer;
  int64_t shard;
  int64_t tag;  // index into the oracle's
  int64_t value;
};

// Everything that happened in a run, to be read after a violation, and its hash, which is equal
// exactly where two runs were.
class Trace {
 public:
  explicit Trace(bool print) : print_(print) {}
  void Add(const TraceEntry& entry);
  uint64_t hash() const { return hash_; }
  // The last `count` entries that tell about the shard, the tag or whole nodes, and all that tell
  // about the tag.
  void PrintAbout(int64_t shard, int64_t tag, size_t count, std::FILE* out) const;

 private:
  static void Print(const TraceEntry& entry, std::FILE* out);
  bool Concerns(const TraceEntry& entry, int64_t shard, int64_t tag) const;

  const bool print_;
  std::vector<TraceEntry> entries_;
  uint64_t hash_ = 0;
};

class World {
 public:
  World(uint64_t seed, bool print_trace) : random(seed), trace_(print_trace) {}
  World(const World&) = delete;

  Time now() const { return now_; }
  // Runs `task` later; tasks of the same time run in the order in which they were given.
  void At(Time time, Task task);
  void After(Time delay, Task task) { At(now_ + delay, std::move(task)); }
  // Runs what is due until then; stops early once something was violated.
  void RunUntil(Time end);

  void Note(const char* what, int node = -1, int peer = -1, int64_t shard = -1, int64_t tag = -1,
            int64_t value = -1) {
    trace_.Add({now_, what, node, peer, shard, tag, value});
  }
  const Trace& trace() const { return trace_; }

  // A promise is broken: the run ends. Only the first counts.
  void Violate(std::string what, int64_t shard = -1, int64_t tag = -1);
  bool violated() const { return !violation_.empty(); }
  const std::string& violation() const { return violation_; }
  int64_t violation_shard() const { return violation_shard_; }
  int64_t violation_tag() const { return violation_tag_; }

  Random random;

 private:
  struct Due {
    Time time;
    uint64_t order;
    Task task;
  };
  static bool Later(const Due& a, const Due& b) {
    return a.time != b.time ? a.time > b.time : a.order > b.order;
  }

  Time now_ = 0;
  uint64_t next_order_ = 0;
  std::vector<Due> due_;  // a heap, the next first
  Trace trace_;
  std::string violation_;
  int64_t violation_shard_ = -1;
  int64_t violation_tag_ = -1;
};

}  // namespace allezon::sim
