// SPDX-License-Identifier: Apache-2.0
//
// grpc.health.v1.Health of a server. gRPC's own is not used: it says SERVING until it is told
// otherwise, and reflection cannot show it.
#pragma once

#include <grpc/health/v1/health.grpc.pb.h>

#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"

namespace allezon::rpc {

// The name that says SERVING for as long as the server answers at all, whatever it waits for, its
// shutdown included. For those who restart processes that hang.
inline constexpr std::string_view kLiveName = "live";

// Thread-safe. Must outlive the server that it is registered with.
class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  // Not serving at first. `names` have a health of their own; "" is always there. All of them
  // change together; kLiveName, which is there too, never does.
  explicit HealthService(std::vector<std::string> names);

  void SetServing(bool serving) ABSL_LOCKS_EXCLUDED(mutex_);
  // Not serving from now on, whatever SetServing says; ends all watches, so that they do not hold
  // up the server's shutdown. Idempotent.
  void Shutdown() ABSL_LOCKS_EXCLUDED(mutex_);

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* call,
                                  const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override
      ABSL_LOCKS_EXCLUDED(mutex_);
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(
      grpc::CallbackServerContext* call,
      const grpc::health::v1::HealthCheckRequest* request) override ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  using Status = grpc::health::v1::HealthCheckResponse::ServingStatus;
  class Watcher;

  bool Knows(const std::string& name) const;
  Status StatusNow(bool of_life) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  void AdvanceAll() ABSL_LOCKS_EXCLUDED(mutex_);

  const std::vector<std::string> names_;
  mutable absl::Mutex mutex_;
  bool serving_ ABSL_GUARDED_BY(mutex_) = false;
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
  // Those that are not finishing.
  absl::flat_hash_set<Watcher*> watchers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace allezon::rpc
