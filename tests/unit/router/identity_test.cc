// SPDX-License-Identifier: Apache-2.0
#include "router/identity.h"

#include <gmock/gmock.h>

#include <string>

namespace allezon::router {
namespace {

using ::testing::HasSubstr;

v1::NodeIdentity Node(std::string_view cluster, std::string_view service,
                      std::string_view instance) {
  v1::NodeIdentity node;
  node.set_cluster(std::string(cluster));
  node.set_service(std::string(service));
  node.set_instance(std::string(instance));
  return node;
}

TEST(ClusterNameTest, IsAShortName) {
  for (const std::string_view name : {"allezon", "a", "A-b_c.9"}) {
    EXPECT_TRUE(CheckClusterName(name).ok()) << name;
  }
  EXPECT_TRUE(CheckClusterName(std::string(64, 'a')).ok());
  for (const std::string& name : {std::string(), std::string("a b"), std::string("a/b"),
                                  std::string("ż"), std::string("a\0b", 3), std::string(65, 'a')}) {
    const absl::Status status = CheckClusterName(name);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << name;
    EXPECT_THAT(status.message(), HasSubstr("--cluster"));
  }
}

TEST(IdentityTest, ACallForSomebodyElseIsRefusedWithBothNames) {
  v1::NodeIdentity own = Node("allezon", "profile", "p1");
  own.set_disk("d1");
  own.set_incarnation(7);
  const auto check = [&](const v1::NodeIdentity& to) { return CheckIsMeant("this is", own, to); };
  EXPECT_TRUE(check(Node("allezon", "profile", "p1")).ok());
  EXPECT_TRUE(check(own).ok());

  EXPECT_EQ(check(Node("allezon", "profile", "p0")),
            absl::FailedPreconditionError(
                "this is profile/p1 of cluster allezon, the call is for profile/p0"));
  EXPECT_EQ(check(Node("allezon", "aggregate", "p1")),
            absl::FailedPreconditionError(
                "this is profile/p1 of cluster allezon, the call is for aggregate/p1"));
  EXPECT_EQ(check(Node("other", "profile", "p1")),
            absl::FailedPreconditionError("this is profile/p1 of cluster allezon, the call is for "
                                          "profile/p1 of cluster other"));
  EXPECT_EQ(check({}), absl::FailedPreconditionError(
                           "this is profile/p1 of cluster allezon, the call is for nobody"));
  v1::NodeIdentity to = own;
  to.set_disk("d2");
  EXPECT_EQ(check(to), absl::FailedPreconditionError("this is profile/p1 of cluster allezon on "
                                                     "disk d1, the call is for disk d2"));
  to = own;
  to.set_incarnation(6);
  EXPECT_EQ(check(to), absl::FailedPreconditionError("this is profile/p1 of cluster allezon in "
                                                     "incarnation 7, the call is for incarnation "
                                                     "6"));
}

TEST(IdentityTest, AnAnswerByNobodyCountsForNothing) {
  EXPECT_EQ(CheckAnswerBy({}, Node("allezon", "profile", "p0")),
            absl::FailedPreconditionError(
                "the answer is by nobody, the call is for profile/p0 of cluster allezon"));
}

}  // namespace
}  // namespace allezon::router
