// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/world.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstring>

namespace allezon::sim {

int64_t Random::Skewed(int64_t low, int64_t high) {
  const double ratio = static_cast<double>(high) / static_cast<double>(low);
  return static_cast<int64_t>(static_cast<double>(low) * std::pow(ratio, Unit()));
}

void Trace::Add(const TraceEntry& entry) {
  const auto mix = [this](uint64_t value) {
    hash_ = (hash_ ^ value) * 0x9e3779b97f4a7c15u;
    hash_ ^= hash_ >> 29;
  };
  mix(static_cast<uint64_t>(entry.time_us));
  for (const char* c = entry.what; *c != 0; ++c) mix(static_cast<uint64_t>(*c));
  mix(static_cast<uint64_t>(entry.node) << 32 | static_cast<uint32_t>(entry.peer));
  mix(static_cast<uint64_t>(entry.shard));
  mix(static_cast<uint64_t>(entry.tag));
  mix(static_cast<uint64_t>(entry.value));
  entries_.push_back(entry);
  if (print_) Print(entry, stdout);
}

void Trace::Print(const TraceEntry& entry, std::FILE* out) {
  std::fprintf(out, "  %11.6f", static_cast<double>(entry.time_us) / 1e6);
  if (entry.node >= 0) {
    std::fprintf(out, " n%d", entry.node);
  } else {
    std::fprintf(out, "   ");
  }
  std::fprintf(out, " %s", entry.what);
  if (entry.peer >= 0) std::fprintf(out, " n%d", entry.peer);
  if (entry.shard >= 0) std::fprintf(out, " shard=%" PRId64, entry.shard);
  if (entry.tag >= 0) std::fprintf(out, " tag=%" PRId64, entry.tag);
  if (entry.value >= 0) std::fprintf(out, " (%" PRId64 ")", entry.value);
  std::fputc('\n', out);
}

bool Trace::Concerns(const TraceEntry& entry, int64_t shard, int64_t tag) const {
  if (tag >= 0 && entry.tag >= 0) return entry.tag == tag;
  if (entry.tag >= 0) return shard < 0 || entry.shard == shard;
  return shard < 0 || entry.shard < 0 || entry.shard == shard;
}

void Trace::PrintAbout(int64_t shard, int64_t tag, size_t count, std::FILE* out) const {
  std::vector<const TraceEntry*> about;
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    const bool of_tag = tag >= 0 && entry->tag == tag;
    if (of_tag || (about.size() < count && Concerns(*entry, shard, tag))) {
      about.push_back(&*entry);
    }
  }
  std::fprintf(out, "the last of %zu entries that tell about it (all: --trace):\n",
               entries_.size());
  for (auto entry = about.rbegin(); entry != about.rend(); ++entry) Print(**entry, out);
}

void World::At(Time time, Task task) {
  due_.push_back({std::max(time, now_), next_order_++, std::move(task)});
  std::push_heap(due_.begin(), due_.end(), Later);
}

void World::RunUntil(Time end) {
  while (!due_.empty() && !violated() && due_.front().time <= end) {
    std::pop_heap(due_.begin(), due_.end(), Later);
    Due due = std::move(due_.back());
    due_.pop_back();
    now_ = due.time;
    due.task();
  }
  if (!violated()) now_ = end;
}

void World::Violate(std::string what, int64_t shard, int64_t tag) {
  if (violated()) return;
  violation_ = std::move(what);
  violation_shard_ = shard;
  violation_tag_ = tag;
}

}  // namespace allezon::sim
