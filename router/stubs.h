// SPDX-License-Identifier: Apache-2.0
//
// gRPC stubs of instances. A channel of Channels is made anew while its instance is away under a
// name; a stub goes with its channel.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "router/channels.h"

namespace allezon::router {

// Of one instance. Thread-safe.
template <typename Stub>
class InstanceStub {
 public:
  using Make = std::function<std::shared_ptr<Stub>(const std::shared_ptr<grpc::Channel>&)>;

  // `channels` must outlive it.
  InstanceStub(const Channels& channels, uint32_t instance, Make make)
      : channels_(channels), instance_(instance), make_(std::move(make)) {}

  // Of the channel as it is now. A call that was started on it goes on when it is let go.
  std::shared_ptr<Stub> Get() const {
    const uint64_t generation = channels_.GenerationOf(instance_);
    absl::MutexLock lock(&mutex_);
    if (stub_ == nullptr || generation_ != generation) {
      stub_ = make_(channels_.To(instance_));
      generation_ = generation;
    }
    return stub_;
  }

 private:
  const Channels& channels_;
  const uint32_t instance_;
  const Make make_;
  mutable absl::Mutex mutex_;
  mutable uint64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
  mutable std::shared_ptr<Stub> stub_ ABSL_GUARDED_BY(mutex_);
};

// By instance.
template <typename Service>
using Stubs = std::deque<InstanceStub<typename Service::Stub>>;

// Of all instances; `channels` must outlive them.
template <typename Service>
Stubs<Service> MakeStubs(const Channels& channels) {
  Stubs<Service> stubs;
  for (uint32_t i = 0; i < channels.placement().instances.size(); ++i) {
    stubs.emplace_back(channels, i, [](const auto& channel) { return Service::NewStub(channel); });
  }
  return stubs;
}

}  // namespace allezon::router
