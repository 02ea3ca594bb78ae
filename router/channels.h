// SPDX-License-Identifier: Apache-2.0
//
// The placement of one service, and for each of its instances a gRPC channel and a circuit.
// Thread-safe.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "router/circuit.h"
#include "router/placement.h"

namespace grpc {
class Channel;
}

namespace allezon::router {

inline constexpr absl::Duration kProbeInterval = absl::Milliseconds(250);
inline constexpr absl::Duration kProbeTimeout = absl::Milliseconds(250);

class Channels {
 public:
  // Connects lazily; never blocks. `service` ("profile", "aggregate") labels metrics.
  explicit Channels(Placement placement, std::string_view service = "");
  // May wait for a probe, kProbeTimeout at most.
  ~Channels();

  const Placement& placement() const { return placement_; }
  // The channel to placement().instances[instance].
  const std::shared_ptr<grpc::Channel>& To(uint32_t instance) const;
  // The circuit of that instance; while it is open a probe looks every kProbeInterval whether the
  // instance answers again.
  // Shared with calls that outlive it.
  const std::shared_ptr<Circuit>& CircuitOf(uint32_t instance) const;

  // OK when every shard has a replica whose health service says SERVING, asked now; else
  // kUnavailable that says how many shards have none.
  absl::Status CheckReady(absl::Time deadline);

 private:
  struct Impl;
  const Placement placement_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace allezon::router
