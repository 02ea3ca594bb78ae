// SPDX-License-Identifier: Apache-2.0
#include "rpc/memory.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <string>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "rpc/log.h"
#include "rpc/metrics.h"

ABSL_FLAG(
    uint32_t, memory_mib, 0,
    "MiB for the whole process, of which caches, buffers and queues have their parts; 0: the "
    "cgroup's limit, or where there is none a quarter of the machine's memory, 3 GiB at most");

namespace allezon::rpc {
namespace {

// Pools of glibc's allocator: threads that share one wait for each other, but each pool keeps what
// was freed in it. Left alone it makes eight for each processor of the machine.
constexpr int kPoolsPerCpu = 4;
constexpr int kPoolsMin = 2;
constexpr uint64_t kPoolBytesMin = 32 << 20;
// Blocks from this size on go back to the kernel when they are freed.
constexpr int kBlockBytesMax = 512 << 10;
// What the top of a pool may keep.
constexpr int kFreedBytesMax = 1 << 20;

std::string Mib(uint64_t bytes) { return absl::StrCat(bytes >> 20, " MiB"); }

// Memory of the process that no file backs, by the kernel; 0 where it does not say it.
uint64_t AnonymousBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    const std::vector<absl::string_view> fields =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    uint64_t kib = 0;
    if (fields.size() >= 2 && fields[0] == "RssAnon:" && absl::SimpleAtoi(fields[1], &kib)) {
      return kib << 10;
    }
  }
  return 0;
}

}  // namespace

absl::StatusOr<MemoryTotal> MemoryTotalOf(uint32_t memory_mib, uint64_t least_bytes,
                                          std::optional<uint64_t> cgroup_bytes,
                                          std::optional<uint64_t> machine_bytes) {
  MemoryTotal total;
  if (memory_mib > 0) {
    total = {uint64_t{memory_mib} << 20, "--memory_mib"};
  } else if (cgroup_bytes && (!machine_bytes || *cgroup_bytes < *machine_bytes)) {
    total = {*cgroup_bytes, "the cgroup's limit"};
  } else if (machine_bytes) {
    total = {std::min(*machine_bytes / 4, kMachineShareMaxBytes), "a quarter of the machine's"};
  } else {
    return absl::InvalidArgumentError(
        "--memory_mib: neither a cgroup nor /proc/meminfo says how much memory there is; name it");
  }
  if (total.bytes < least_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("--memory_mib: ", Mib(total.bytes), " (",
                                                   total.from, ") are too few; the least are ",
                                                   Mib(least_bytes + (1 << 20) - 1)));
  }
  return total;
}

absl::StatusOr<MemoryTotal> MemoryTotalOfFlags(uint64_t least_bytes) {
  const std::optional<uint64_t> cgroup = ReadCgroupLimits().memory_bytes;
  const uint32_t flag = absl::GetFlag(FLAGS_memory_mib);
  absl::StatusOr<MemoryTotal> total =
      MemoryTotalOf(flag, least_bytes, cgroup, ReadMachineMemoryBytes());
  if (total.ok() && cgroup && total->bytes > *cgroup) {
    LogWarn("--memory_mib is more than the cgroup's limit: the process may be killed",
            {{"memory_mib", flag}, {"limit_mib", *cgroup >> 20}});
  }
  return total;
}

absl::Status ReportMemory(const MemoryTotal& total, std::vector<MemoryPart> parts) {
  uint64_t sum = 0;
  for (const MemoryPart& part : parts) sum += part.bytes;
  if (sum > total.bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("--memory_mib: ", Mib(total.bytes), " (", total.from,
                     ") are too few for the parts that other flags set; the least are ",
                     Mib(sum + (1 << 20) - 1)));
  }
  parts.push_back({"rest", total.bytes - sum});
  std::string split;
  for (const MemoryPart& part : parts) {
    absl::StrAppend(&split, split.empty() ? "" : ", ",
                    absl::string_view(part.name.data(), part.name.size()), " ", part.bytes >> 20);
    MakeGauge("allezon_memory_part_bytes", "What a part of the process takes at most.",
              {{"part", std::string(part.name)}})
        .Set(static_cast<double>(part.bytes));
  }
  MakeGauge("allezon_memory_budget_bytes", "Memory that the process may take.")
      .Set(static_cast<double>(total.bytes));
  prometheus::Gauge& anonymous = MakeGauge("allezon_memory_anonymous_bytes",
                                           "Memory that the process takes, files' pages aside.");
  // For as long as the process lives.
  static const ScrapeHook hook(
      [&anonymous] { anonymous.Set(static_cast<double>(AnonymousBytes())); });
  LogInfo("memory", {{"mib", total.bytes >> 20}, {"from", total.from}, {"parts_mib", split}});
  return absl::OkStatus();
}

void LimitFreedMemory(const MemoryTotal& total) {
  const auto pools_max = static_cast<int>(std::min<uint64_t>(total.bytes / kPoolBytesMin, 1024));
  mallopt(M_ARENA_MAX,
          std::clamp(kPoolsPerCpu * UsableCpus(), kPoolsMin, std::max(kPoolsMin, pools_max)));
  mallopt(M_MMAP_THRESHOLD, kBlockBytesMax);
  mallopt(M_TRIM_THRESHOLD, kFreedBytesMax);
}

bool ByteBudget::Take(size_t bytes) {
  size_t left = left_.load(std::memory_order_relaxed);
  do {
    if (left < bytes) return false;
  } while (!left_.compare_exchange_weak(left, left - bytes, std::memory_order_relaxed));
  return true;
}

}  // namespace allezon::rpc
