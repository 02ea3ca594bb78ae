// SPDX-License-Identifier: Apache-2.0
//
// What the kernel lets this process have: of memory and of processors by its cgroups, of version 1
// and 2, and by its affinity mask (in a container, which sees the whole machine in /proc, nothing
// else says it), and of descriptors.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace allezon::rpc {

struct CgroupLimits {
  // The lowest limit of the process's cgroup and of those above it that it can see.
  std::optional<uint64_t> memory_bytes;
  // As many processors' time as the lowest quota gives: 0.5 is half of one.
  std::optional<double> cpus;
};

// Reads proc/self/cgroup, proc/self/mountinfo and the files of the cgroups below the folder `root`.
// What is not there, or is no number, is no limit. Thread-safe, as are the others.
CgroupLimits ReadCgroupLimits(const std::string& root = "/");

// The memory of the machine, in bytes; none where proc/meminfo does not say it.
std::optional<uint64_t> ReadMachineMemoryBytes(const std::string& root = "/");

// How many threads can run at the same time: as many as the calling thread's affinity mask has
// processors, or as the quota pays for, a part of one counted as one. At least 1.
int UsableCpus(const std::string& root = "/");

// Raises the soft limit of descriptors, which is 1,024 on many systems, to the hard one, and
// returns it; 0, and it stays as it is, where the kernel refuses. For the start of a program.
uint64_t RaiseDescriptorLimit();

}  // namespace allezon::rpc
