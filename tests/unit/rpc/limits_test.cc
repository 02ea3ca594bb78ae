// SPDX-License-Identifier: Apache-2.0
#include "rpc/limits.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "rpc/grpc_cpus.h"

namespace allezon::rpc {
namespace {

namespace fs = std::filesystem;

// A root file system with what a kernel would show.
class LimitsTest : public ::testing::Test {
 protected:
  LimitsTest() {
    std::string folder = fs::temp_directory_path() / "limits-XXXXXX";
    root_ = mkdtemp(folder.data());
  }
  ~LimitsTest() override { fs::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    const fs::path file = root_ / path;
    fs::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  // A container as most have it: a namespace of its own, whose root is its cgroup.
  void UseVersion2(const std::string& own = "/") {
    Write("proc/self/cgroup", "0::" + own + "\n");
    Write("proc/self/mountinfo",
          "28 20 0:25 / /sys rw - sysfs sysfs rw\n"
          "31 28 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup rw\n");
  }
  // `mounted` is the cgroup that is seen at the mount points.
  void UseVersion1(const std::string& own, const std::string& mounted) {
    Write("proc/self/cgroup", "12:cpu,cpuacct:" + own + "\n5:memory:" + own + "\n0::/\n");
    Write("proc/self/mountinfo",
          "32 31 0:29 " + mounted +
              " /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n" + "35 31 0:32 " +
              mounted + " /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
  }
  CgroupLimits Read() const { return ReadCgroupLimits(root_); }

  fs::path root_;
};

TEST_F(LimitsTest, WithoutCgroupsThereAreNone) {
  const CgroupLimits limits = Read();
  EXPECT_FALSE(limits.memory_bytes);
  EXPECT_FALSE(limits.cpus);
  EXPECT_FALSE(ReadMachineMemoryBytes(root_));
}

TEST_F(LimitsTest, Version2OfAContainer) {
  UseVersion2();
  Write("sys/fs/cgroup/memory.max", "268435456\n");
  Write("sys/fs/cgroup/cpu.max", "150000 100000\n");
  EXPECT_EQ(Read().memory_bytes, 268435456u);
  EXPECT_EQ(Read().cpus, 1.5);
}

TEST_F(LimitsTest, Version2WithoutALimit) {
  UseVersion2("/service");
  Write("sys/fs/cgroup/service/memory.max", "max\n");
  Write("sys/fs/cgroup/service/cpu.max", "max 100000\n");
  EXPECT_FALSE(Read().memory_bytes);
  EXPECT_FALSE(Read().cpus);
}

TEST_F(LimitsTest, TheLowestLimitOnTheWayUpCounts) {
  UseVersion2("/pod/container");
  Write("sys/fs/cgroup/pod/container/memory.max", "max\n");
  Write("sys/fs/cgroup/pod/memory.max", "1000000\n");
  Write("sys/fs/cgroup/pod/memory.high", "900000\n");
  Write("sys/fs/cgroup/pod/container/cpu.max", "400000 100000\n");
  Write("sys/fs/cgroup/pod/cpu.max", "50000 100000\n");
  EXPECT_EQ(Read().memory_bytes, 900000u);
  EXPECT_EQ(Read().cpus, 0.5);
}

TEST_F(LimitsTest, Version1OfAContainerThatSeesThePathsOfTheMachine) {
  UseVersion1("/kubepods/pod1/c1", "/kubepods/pod1/c1");
  Write("sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n");
  Write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "25000\n");
  Write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Read().memory_bytes, 536870912u);
  EXPECT_EQ(Read().cpus, 0.25);
}

TEST_F(LimitsTest, Version1BelowTheTop) {
  UseVersion1("/a/b", "/");
  Write("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
  Write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "700000\n");
  Write("sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us", "-1\n");
  Write("sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Read().memory_bytes, 700000u);
  EXPECT_FALSE(Read().cpus);
}

TEST_F(LimitsTest, Version1OfAnotherContainerSPathFallsBackToWhatIsMounted) {
  UseVersion1("/kubepods/pod1/c1", "/kubepods/pod2/c2");
  Write("sys/fs/cgroup/memory/memory.limit_in_bytes", "800000\n");
  EXPECT_EQ(Read().memory_bytes, 800000u);
}

TEST_F(LimitsTest, WhatIsNoNumberIsNoLimit) {
  UseVersion2();
  Write("sys/fs/cgroup/memory.max", "lots\n");
  Write("sys/fs/cgroup/cpu.max", "0 100000\n");
  EXPECT_FALSE(Read().memory_bytes);
  EXPECT_FALSE(Read().cpus);
}

TEST_F(LimitsTest, TheMemoryOfTheMachine) {
  Write("proc/meminfo", "MemFree:    12 kB\nMemTotal:       24684032 kB\n");
  EXPECT_EQ(ReadMachineMemoryBytes(root_), uint64_t{24684032} << 10);
  EXPECT_GT(ReadMachineMemoryBytes().value_or(0), uint64_t{64} << 20);
}

int AffinityCpus() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  EXPECT_EQ(sched_getaffinity(0, sizeof mask, &mask), 0);
  return CPU_COUNT(&mask);
}

TEST_F(LimitsTest, CpusAreThoseOfTheMaskAndOfTheQuota) {
  EXPECT_EQ(UsableCpus(root_), AffinityCpus());
  UseVersion2();
  Write("sys/fs/cgroup/cpu.max", "10000 100000\n");
  EXPECT_EQ(UsableCpus(root_), 1);
  Write("sys/fs/cgroup/cpu.max", "110000 100000\n");
  EXPECT_EQ(UsableCpus(root_), std::min(2, AffinityCpus()));
  Write("sys/fs/cgroup/cpu.max", "100000000 100000\n");
  EXPECT_EQ(UsableCpus(root_), AffinityCpus());
}

TEST_F(LimitsTest, AThreadThatIsBoundToOneProcessorHasOne) {
  int cpus = 0;
  std::thread bound([&] {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    ASSERT_EQ(sched_getaffinity(0, sizeof mask, &mask), 0);
    int first = 0;
    while (!CPU_ISSET(first, &mask)) ++first;
    CPU_ZERO(&mask);
    CPU_SET(first, &mask);
    ASSERT_EQ(sched_setaffinity(0, sizeof mask, &mask), 0);
    cpus = UsableCpus(root_);
  });
  bound.join();
  EXPECT_EQ(cpus, 1);
}

TEST(GrpcCpusTest, WhatGrpcCallsIsOurs) {
  EXPECT_EQ(GrpcCpus(), UsableCpus());
  // The first one in the order in which libraries look symbols up.
  Dl_info found{};
  void* const symbol = dlsym(RTLD_DEFAULT, "gpr_cpu_num_cores");
  ASSERT_NE(symbol, nullptr);
  ASSERT_NE(dladdr(symbol, &found), 0);
  EXPECT_EQ(std::string(found.dli_fname).find("libgpr"), std::string::npos) << found.dli_fname;
}

TEST(DescriptorLimitTest, TheSoftOneIsRaisedToTheHardOne) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit lowered = before;
  lowered.rlim_cur = 100;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &lowered), 0);
  EXPECT_EQ(RaiseDescriptorLimit(), before.rlim_max);
  rlimit after{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &after), 0);
  EXPECT_EQ(after.rlim_cur, before.rlim_max);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

}  // namespace
}  // namespace allezon::rpc
