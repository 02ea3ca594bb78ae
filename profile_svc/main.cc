// SPDX-License-Identifier: Apache-2.0
//
// The process of a profile node.
#include "profile_svc/profile_view.h"
#include "profile_svc/service.h"
#include "replica/node.h"
#include "router/readers.h"

int main(int argc, char** argv) {
  using namespace allezon;
  replica::NodeSpec spec;
  spec.service = "profile";
  spec.summary = "profile_svc: what each user has done lately";
  spec.make_view = [](absl::Duration retention, const replica::NodeMemory&) {
    return std::make_unique<profile_svc::ProfileView>(retention);
  };
  spec.make_services = [](replica::View& view, const replica::NodeContext& context) {
    std::vector<std::unique_ptr<grpc::Service>> services;
    services.push_back(std::make_unique<profile_svc::ProfileReplicaServiceImpl>(
        context, static_cast<profile_svc::ProfileView&>(view)));
    services.push_back(std::make_unique<profile_svc::ProfileServiceImpl>(
        context, router::MakeProfileReader(*context.channels)));
    return services;
  };
  spec.health_names = {"allezon.v1.ProfileService", "allezon.v1.ProfileReplicaService"};
  return replica::RunNode(argc, argv, spec);
}
