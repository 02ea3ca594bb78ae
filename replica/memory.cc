// SPDX-License-Identifier: Apache-2.0
#include "replica/memory.h"

#include <algorithm>

namespace allezon::replica {
namespace {

// Parts are in 64ths of the whole. Together they leave sixteen: some 20 MiB of that go to the
// program and its threads, which at the least total is two thirds of it.
constexpr uint64_t kParts = 64;
constexpr uint64_t kRocksDbParts = 26, kMemtablesParts = 12;
constexpr uint64_t kRocksDbPartsBesideSegments = 16, kMemtablesPartsBesideSegments = 10;
constexpr uint64_t kSegmentsParts = 12;
constexpr uint64_t kDigestsParts = 4;
constexpr uint64_t kCallsParts = 5;
constexpr uint64_t kReadsParts = 2;
constexpr uint64_t kOwedParts = 3;
constexpr uint64_t kGrpcParts = 6;

// Two column families take most of what is written, and each may have three memtables: one that
// fills, and two that wait for their flush.
constexpr uint64_t kMemtables = 6;
// Larger ones take longer to search, and a start longer to read from the log.
constexpr uint64_t kWriteBufferBytesMax = 64 << 20;
// More than a day of 1,024 shards has.
constexpr uint64_t kDigestsBytesMax = 256 << 20;
// A peer that is away for longer gets the rest by a sync.
constexpr uint64_t kOwedBytesMax = 64 << 20;

}  // namespace

NodeMemory SplitNodeMemory(uint64_t total, bool has_segments, size_t peers) {
  const auto of = [total](uint64_t parts) { return total / kParts * parts; };
  NodeMemory memory;
  memory.rocksdb = of(has_segments ? kRocksDbPartsBesideSegments : kRocksDbParts);
  memory.memtables = of(has_segments ? kMemtablesPartsBesideSegments : kMemtablesParts);
  memory.write_buffer = std::min(memory.memtables / kMemtables, kWriteBufferBytesMax);
  memory.digests = std::min(of(kDigestsParts), kDigestsBytesMax);
  memory.segments = has_segments ? of(kSegmentsParts) : 0;
  memory.calls = of(kCallsParts);
  memory.reads = of(kReadsParts);
  memory.owed_a_peer = std::min(of(kOwedParts) / std::max<size_t>(peers, 1), kOwedBytesMax);
  memory.owed = memory.owed_a_peer * peers;
  memory.grpc = of(kGrpcParts);
  return memory;
}

std::vector<rpc::MemoryPart> PartsOf(const NodeMemory& memory) {
  std::vector<rpc::MemoryPart> parts = {{"rocksdb", memory.rocksdb}};
  parts.push_back({"digests", memory.digests});
  if (memory.segments > 0) parts.push_back({"segments", memory.segments});
  parts.push_back({"calls", memory.calls});
  parts.push_back({"reads", memory.reads});
  parts.push_back({"owed", memory.owed});
  parts.push_back({"grpc", memory.grpc});
  return parts;
}

}  // namespace allezon::replica
