// SPDX-License-Identifier: Apache-2.0
//
// How the memory of a node is split.
#pragma once

#include <cstdint>
#include <vector>

#include "rpc/memory.h"

namespace allezon::replica {

// The least that a node works with.
inline constexpr uint64_t kNodeMemoryLeastBytes = uint64_t{128} << 20;

// What each may take at most, in bytes. The rest is for the program itself, its threads, what the
// allocator holds back, and what compactions and merges need for a while.
struct NodeMemory {
  uint64_t rocksdb = 0;       // blocks and memtables
  uint64_t memtables = 0;     // of that
  uint64_t write_buffer = 0;  // each memtable
  uint64_t digests = 0;       // those that are not read from disk
  uint64_t segments = 0;      // 0 where the service has none
  uint64_t calls = 0;         // events of calls that are not answered
  uint64_t reads = 0;         // reads that wait, and answers on their way
  uint64_t owed_a_peer = 0;
  uint64_t owed = 0;  // to all peers
  uint64_t grpc = 0;  // messages on their way in and out
};

// `total` is at least kNodeMemoryLeastBytes.
NodeMemory SplitNodeMemory(uint64_t total, bool has_segments, size_t peers);

// For ReportMemory.
std::vector<rpc::MemoryPart> PartsOf(const NodeMemory& memory);

}  // namespace allezon::replica
