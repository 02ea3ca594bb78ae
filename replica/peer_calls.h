// SPDX-License-Identifier: Apache-2.0
//
// Calls to peers: what the core wants sent, sent over gRPC. Each names whom it is for; an answer by
// anybody else is told as kUnavailable.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "allezon/v1/replica.grpc.pb.h"
#include "replica/core/identity.h"
#include "replica/core/types.h"
#include "router/channels.h"
#include "router/stubs.h"

namespace allezon::replica {

// Thread-safe. Callbacks come from gRPC's threads.
class PeerCalls {
 public:
  using Replicated = std::function<void(uint32_t peer, BatchId batch, const absl::Status&,
                                        const v1::ReplicateResponse&)>;
  using Ended = std::function<void(CallId, const absl::Status&, PeerResponse)>;

  // `channels` and `identities` must outlive it.
  PeerCalls(router::Channels& channels, Identities& identities, Replicated replicated, Ended ended);
  // Stops.
  ~PeerCalls();

  void Send(const Actions::Replicate& batch);
  void Send(Actions::Call call);
  // Cancels what is under way and waits until its callbacks have ended. What is sent later is told
  // kCancelled at once. Idempotent.
  void Stop();

 private:
  struct Flight;
  template <typename Request>
  struct Unary;

  // False once stopped.
  bool Depart(Flight* flight);
  void Land(Flight* flight);
  // Logs who does not count as a peer, and why, where that has changed with the answer to a poll.
  void Note(uint32_t peer, const absl::Status& answer) ABSL_LOCKS_EXCLUDED(mutex_);
  // Calls done(status, response) once the call has ended.
  template <typename Request, typename Done>
  void Start(uint32_t peer, Instant timeout_us, std::unique_ptr<Unary<Request>> call, Done done);

  const router::Placement& placement_;
  Identities& identities_;
  const Replicated replicated_;
  const Ended ended_;
  router::Stubs<v1::ReplicaService> stubs_;
  absl::Mutex mutex_;
  std::unordered_set<Flight*> flights_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> refusals_ ABSL_GUARDED_BY(mutex_);  // by peer, of the last poll
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace allezon::replica
