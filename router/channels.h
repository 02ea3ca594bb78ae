// SPDX-License-Identifier: Apache-2.0
//
// The placement of one service and a gRPC channel to each of its instances. Thread-safe.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "router/placement.h"

namespace grpc {
class Channel;
}

namespace allezon::router {

class Channels {
 public:
  // Connects lazily; never blocks.
  explicit Channels(Placement placement);
  ~Channels();

  const Placement& placement() const { return placement_; }
  // The channel to placement().instances[instance].
  const std::shared_ptr<grpc::Channel>& To(uint32_t instance) const;

  // OK when every shard has a replica whose health service says SERVING, asked now; else
  // kUnavailable that says how many shards have none.
  absl::Status CheckReady(absl::Time deadline);

 private:
  struct Impl;
  const Placement placement_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace allezon::router
