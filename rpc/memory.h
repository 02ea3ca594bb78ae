// SPDX-License-Identifier: Apache-2.0
//
// One number for the memory of a process (--memory_mib), of which all that grows has a part.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "rpc/limits.h"

namespace allezon::rpc {

struct MemoryTotal {
  uint64_t bytes = 0;
  std::string from;  // who says so, for people
};

// `memory_mib` MiB; where it is 0, the cgroup's limit; where there is none, a quarter of the
// machine's memory, kMachineShareMaxBytes at most, since the process is not alone there.
// kInvalidArgument where that is less than `least_bytes`, with a message that names both.
inline constexpr uint64_t kMachineShareMaxBytes = uint64_t{3} << 30;
absl::StatusOr<MemoryTotal> MemoryTotalOf(uint32_t memory_mib, uint64_t least_bytes,
                                          std::optional<uint64_t> cgroup_bytes,
                                          std::optional<uint64_t> machine_bytes);
// The same by --memory_mib, and by what the kernel says.
absl::StatusOr<MemoryTotal> MemoryTotalOfFlags(uint64_t least_bytes);

// What a part of the process takes at most, and what it is called in logs and metrics.
struct MemoryPart {
  std::string_view name;
  uint64_t bytes = 0;
};

// Adds what the parts leave as another one, "rest"; logs how the total is split, and has metrics
// tell it, beside what the process really takes. kInvalidArgument where the parts, some of which
// flags may have said, are more than the whole; the message names the least. Call once, at the
// start.
absl::Status ReportMemory(const MemoryTotal& total, std::vector<MemoryPart> parts);

// Has the allocator keep little of what was freed, in few pools. Call before any thread is made.
void LimitFreedMemory(const MemoryTotal& total);

// Bytes of one kind that the process may hold at a time. Thread-safe.
class ByteBudget {
 public:
  explicit ByteBudget(size_t bytes_max) : bytes_max_(bytes_max), left_(bytes_max) {}
  ByteBudget(const ByteBudget&) = delete;
  ByteBudget& operator=(const ByteBudget&) = delete;

  // False, with nothing taken, where less is left.
  bool Take(size_t bytes);
  void Give(size_t bytes) { left_.fetch_add(bytes, std::memory_order_relaxed); }
  size_t bytes_max() const { return bytes_max_; }
  size_t taken() const { return bytes_max_ - left_.load(std::memory_order_relaxed); }

 private:
  const size_t bytes_max_;
  std::atomic<size_t> left_;
};

// What was taken of a budget, given back at the end of its life. The budget must outlive it.
class BytesTaken {
 public:
  BytesTaken() = default;
  BytesTaken(BytesTaken&& other) noexcept
      : budget_(std::exchange(other.budget_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  BytesTaken& operator=(BytesTaken&& other) noexcept {
    std::swap(budget_, other.budget_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~BytesTaken() {
    if (budget_ != nullptr) budget_->Give(bytes_);
  }
  // None where less is left.
  static std::optional<BytesTaken> From(ByteBudget& budget, size_t bytes) {
    if (!budget.Take(bytes)) return std::nullopt;
    BytesTaken taken;
    taken.budget_ = &budget;
    taken.bytes_ = bytes;
    return taken;
  }

 private:
  ByteBudget* budget_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace allezon::rpc
