// SPDX-License-Identifier: Apache-2.0
//
// The process of an aggregate node.
#include "absl/flags/flag.h"
#include "aggregate_svc/aggregate_view.h"
#include "aggregate_svc/service.h"
#include "replica/node.h"
#include "router/readers.h"

ABSL_FLAG(uint32_t, segments_mib, 0,
          "MiB for minutes that are written or read; 0: a part of --memory_mib");
ABSL_FLAG(uint32_t, seal_after_s, 10, "a minute that got nothing for so many seconds is sealed");

int main(int argc, char** argv) {
  using namespace allezon;
  replica::NodeSpec spec;
  spec.service = "aggregate";
  spec.summary = "aggregate_svc: how much of something happened, minute by minute";
  spec.has_segments = true;
  spec.adjust_memory = [](replica::NodeMemory& memory) {
    if (const uint32_t mib = absl::GetFlag(FLAGS_segments_mib))
      memory.segments = uint64_t{mib} << 20;
  };
  spec.make_view = [](absl::Duration, const replica::NodeMemory& memory) {
    aggregate_svc::AggregateViewOptions options;
    options.resident_bytes_max = memory.segments;
    options.seal_after = absl::Seconds(absl::GetFlag(FLAGS_seal_after_s));
    return std::make_unique<aggregate_svc::AggregateView>(options);
  };
  spec.make_services = [](replica::View& view, const replica::NodeContext& context) {
    std::vector<std::unique_ptr<grpc::Service>> services;
    services.push_back(std::make_unique<aggregate_svc::AggregateReplicaServiceImpl>(
        context, static_cast<aggregate_svc::AggregateView&>(view)));
    services.push_back(std::make_unique<aggregate_svc::AggregateServiceImpl>(
        context, router::MakeAggregateReader(*context.channels)));
    return services;
  };
  spec.health_names = {"allezon.v1.AggregateService", "allezon.v1.AggregateReplicaService"};
  return replica::RunNode(argc, argv, spec);
}
