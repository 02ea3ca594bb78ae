// SPDX-License-Identifier: Apache-2.0
//
// The placement of one service, and for each of its instances a gRPC channel, its identity and a
// circuit. Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "allezon/v1/identity.pb.h"
#include "router/circuit.h"
#include "router/identity.h"
#include "router/placement.h"

namespace grpc {
class Channel;
}

namespace allezon::router {

inline constexpr absl::Duration kProbeInterval = absl::Milliseconds(250);
inline constexpr absl::Duration kProbeTimeout = absl::Milliseconds(250);
// The name of an instance that cannot be reached is resolved anew this often: it may have come back
// under another address, or may not have had a name yet. So a process asks DNS at most once in that
// time for each instance that is away.
inline constexpr absl::Duration kResolvePeriod = absl::Seconds(1);

class Channels {
 public:
  // Connects lazily; never blocks. `service` ("profile", "aggregate") also labels metrics.
  explicit Channels(Placement placement, std::string_view service = "",
                    std::string_view cluster = kClusterDefault);
  // May wait for a probe, kProbeTimeout at most.
  ~Channels();

  const Placement& placement() const { return placement_; }
  // The channel to placement().instances[instance], as it is now: while an instance whose address
  // is a name cannot be reached, its channel is made anew every kResolvePeriod. See stubs.h.
  std::shared_ptr<grpc::Channel> To(uint32_t instance) const;
  // Another number once To may give another channel.
  uint64_t GenerationOf(uint32_t instance) const;
  // Whom calls over that channel are for: cluster, service and instance. To be copied into `to` of
  // each request; an answer counts only if CheckAnswerBy says that its `by` is the same.
  const v1::NodeIdentity& IdentityOf(uint32_t instance) const;
  // The circuit of that instance; while it is open a probe looks every kProbeInterval whether the
  // instance answers again.
  // Shared with calls that outlive it.
  const std::shared_ptr<Circuit>& CircuitOf(uint32_t instance) const;

  // Asks every instance for its health, and whether it is who it is taken for and goes by the same
  // placement; what it returns waits for the answers, and must be called while this lives. OK as
  // soon as every shard has a replica that says SERVING and is the right one; else, once all have
  // answered or at the deadline, kUnavailable that says how many shards have none, and why.
  std::function<absl::Status()> StartReadyCheck(absl::Time deadline);

 private:
  struct Impl;
  const Placement placement_;
  std::unique_ptr<Impl> impl_;
};

// Whether all services are ready, asked at once: what hangs in one takes no time from another.
absl::Status CheckReady(absl::Span<Channels* const> services, absl::Time deadline);

}  // namespace allezon::router
