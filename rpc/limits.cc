// SPDX-License-Identifier: Apache-2.0
#include "rpc/limits.h"

#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string_view>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace allezon::rpc {
namespace {

namespace fs = std::filesystem;

// Version 1 says "none" by the largest number that is a multiple of a page.
constexpr uint64_t kNoLimitBytes = uint64_t{1} << 60;
// Beside the kernel's 1,024, what a mask of the largest machines takes.
constexpr int kCpusMax = 16'384;

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::optional<uint64_t> Number(absl::string_view text) {
  uint64_t number = 0;
  if (!absl::SimpleAtoi(text, &number)) return std::nullopt;
  return number;
}

template <typename T>
void Lower(std::optional<T>& limit, std::optional<T> other) {
  if (other && (!limit || *other < *limit)) limit = other;
}

// A hierarchy of cgroups, as this process sees it.
struct Hierarchy {
  fs::path top;  // where it is mounted
  fs::path own;  // the process's cgroup: `top`, or below it
};

bool Has(absl::string_view list, absl::string_view word) {
  const std::vector<absl::string_view> words = absl::StrSplit(list, ',');
  return std::find(words.begin(), words.end(), word) != words.end();
}

// The process's path in the hierarchy of `controller`, "" for version 2. Lines are
// `number:controllers:path`, `0::path` for version 2.
std::optional<std::string> OwnPath(const std::string& cgroup, absl::string_view controller) {
  for (const absl::string_view line : absl::StrSplit(cgroup, '\n')) {
    const std::vector<absl::string_view> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) continue;
    if (controller.empty() ? fields[1].empty() : Has(fields[1], controller)) {
      return std::string(fields[2]);
    }
  }
  return std::nullopt;
}

// Where the process's cgroup of `controller` is, "" for version 2. A line of mountinfo has the
// mount's root in the hierarchy and its mount point as its fields 3 and 4, and after a `-` its
// type, source and options.
std::optional<Hierarchy> FindHierarchy(const fs::path& root, absl::string_view controller) {
  const std::optional<std::string> own = OwnPath(ReadFile(root / "proc/self/cgroup"), controller);
  if (!own) return std::nullopt;
  std::optional<Hierarchy> found;
  for (const absl::string_view line :
       absl::StrSplit(ReadFile(root / "proc/self/mountinfo"), '\n')) {
    const std::vector<absl::string_view> fields = absl::StrSplit(line, ' ');
    const auto dash = std::find(fields.begin(), fields.end(), absl::string_view("-"));
    if (dash - fields.begin() < 5 || fields.end() - dash < 4) continue;
    const bool is_v2 = dash[1] == "cgroup2";
    if (controller.empty() ? !is_v2 : dash[1] != "cgroup" || !Has(dash[3], controller)) continue;
    const fs::path top = root / fs::path(std::string(fields[4])).relative_path();
    // In a container the mount's root is the container's cgroup, and paths may begin with it, or
    // lead out of what is mounted.
    const fs::path below = fs::path(*own).lexically_relative(std::string(fields[3]));
    const bool is_inside = !below.empty() && *below.begin() != "..";
    if (!found || is_inside) found = {top, is_inside ? (top / below).lexically_normal() : top};
    if (is_inside) break;
  }
  return found;
}

// Calls `visit` with the process's cgroup, and with those above it up to where they are mounted.
void VisitUpwards(const Hierarchy& hierarchy, const std::function<void(const fs::path&)>& visit) {
  const fs::path top = hierarchy.top.lexically_normal();
  fs::path at = hierarchy.own;
  if (!at.has_filename()) at = at.parent_path();
  for (;; at = at.parent_path()) {
    visit(at);
    if (at == top || at == at.parent_path()) return;
  }
}

std::optional<uint64_t> MemoryLimit(const fs::path& file) {
  const std::optional<uint64_t> bytes = Number(ReadFile(file));
  return bytes && *bytes < kNoLimitBytes ? bytes : std::nullopt;
}

std::optional<double> Quota(std::optional<uint64_t> quota_us, std::optional<uint64_t> period_us) {
  if (!quota_us || !period_us || *quota_us == 0 || *period_us == 0) return std::nullopt;
  return static_cast<double>(*quota_us) / static_cast<double>(*period_us);
}

}  // namespace

CgroupLimits ReadCgroupLimits(const std::string& root) {
  CgroupLimits limits;
  // Where both versions are mounted, a controller is in one of them.
  if (const auto memory = FindHierarchy(root, "memory")) {
    VisitUpwards(*memory, [&](const fs::path& group) {
      Lower(limits.memory_bytes, MemoryLimit(group / "memory.limit_in_bytes"));
    });
  }
  if (const auto cpu = FindHierarchy(root, "cpu")) {
    VisitUpwards(*cpu, [&](const fs::path& group) {
      Lower(limits.cpus, Quota(Number(ReadFile(group / "cpu.cfs_quota_us")),
                               Number(ReadFile(group / "cpu.cfs_period_us"))));
    });
  }
  if (const auto unified = FindHierarchy(root, "")) {
    VisitUpwards(*unified, [&](const fs::path& group) {
      Lower(limits.memory_bytes, MemoryLimit(group / "memory.max"));
      // Beyond this one a process is slowed down until it hardly moves.
      Lower(limits.memory_bytes, MemoryLimit(group / "memory.high"));
      const std::string cpu_max = ReadFile(group / "cpu.max");
      const std::vector<absl::string_view> fields =
          absl::StrSplit(cpu_max, absl::ByAnyChar(" \n"), absl::SkipEmpty());
      if (fields.size() == 2) Lower(limits.cpus, Quota(Number(fields[0]), Number(fields[1])));
    });
  }
  return limits;
}

std::optional<uint64_t> ReadMachineMemoryBytes(const std::string& root) {
  const std::string meminfo = ReadFile(fs::path(root) / "proc/meminfo");
  for (const absl::string_view line : absl::StrSplit(meminfo, '\n')) {
    const std::vector<absl::string_view> fields = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (fields.size() < 2 || fields[0] != "MemTotal:") continue;
    const std::optional<uint64_t> kib = Number(fields[1]);
    if (kib) return *kib << 10;
  }
  return std::nullopt;
}

int UsableCpus(const std::string& root) {
  int cpus = 1;
  if (cpu_set_t* mask = CPU_ALLOC(kCpusMax); mask != nullptr) {
    const size_t bytes = CPU_ALLOC_SIZE(kCpusMax);
    if (sched_getaffinity(0, bytes, mask) == 0) cpus = std::max(1, CPU_COUNT_S(bytes, mask));
    CPU_FREE(mask);
  }
  if (const std::optional<double> quota = ReadCgroupLimits(root).cpus) {
    cpus = std::min(cpus, std::max(1, static_cast<int>(std::ceil(*quota))));
  }
  return cpus;
}

uint64_t RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  limit.rlim_cur = limit.rlim_max;
  return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : 0;
}

}  // namespace allezon::rpc
