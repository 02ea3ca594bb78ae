// SPDX-License-Identifier: Apache-2.0
#include "router/identity.h"

#include <gmock/gmock.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace allezon::router {
namespace {

using ::testing::HasSubstr;

v1::NodeIdentity Node(std::string_view cluster, std::string_view service,
                      std::string_view instance) {
  v1::NodeIdentity node;
  node.set_cluster(std::string(cluster));
  node.set_service(std::string(service));
  node.set_instance(std::string(instance));
  node.set_version("1.2.3");
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

TEST(IdentityTest, OnlyEqualVersionsGetAlong) {
  EXPECT_TRUE(GetAlong("1.2.3", "1.2.3"));
  for (const std::string_view other : {"1.2.4", "1.2", "1.2.3-rc1", "0.1.0", ""}) {
    EXPECT_FALSE(GetAlong("1.2.3", other)) << other;
    EXPECT_FALSE(GetAlong(other, "1.2.3")) << other;
  }
  EXPECT_FALSE(GetAlong("", "")) << "two that do not tell may be of any two versions";
}

TEST(IdentityTest, AnotherVersionIsRefusedAndBothAreNamed) {
  const v1::NodeIdentity own = Node("allezon", "profile", "p1");
  v1::NodeIdentity other = own;
  other.set_version("1.3.0");
  constexpr char kWay[] =
      "; a cluster runs one version: stop all its programs before another version starts";
  EXPECT_EQ(CheckIsMeant("this is", own, other).message(),
            absl::StrCat("this is profile/p1 of cluster allezon in version 1.2.3, the call is for "
                         "version 1.3.0",
                         kWay));
  EXPECT_EQ(CheckAnswerBy(other, own).message(),
            absl::StrCat("the answer is by profile/p1 of cluster allezon in version 1.3.0, the "
                         "call is for version 1.2.3",
                         kWay));
  // A program from before versions were told.
  other.clear_version();
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckIsMeant("this is", own, other)));
  EXPECT_THAT(CheckIsMeant("this is", own, other).message(),
              HasSubstr("in version 1.2.3, the call is for an unknown version; "));
  EXPECT_THAT(CheckAnswerBy(other, own).message(),
              HasSubstr("in an unknown version, the call is for version 1.2.3; "));
  // Who is somebody else altogether says so.
  other.set_instance("p2");
  EXPECT_THAT(CheckIsMeant("this is", own, other).message(), HasSubstr("is for profile/p2"));
}

TEST(IdentityTest, AnAnswerByNobodyCountsForNothing) {
  EXPECT_EQ(CheckAnswerBy({}, Node("allezon", "profile", "p0")),
            absl::FailedPreconditionError(
                "the answer is by nobody, the call is for profile/p0 of cluster allezon"));
}

}  // namespace
}  // namespace allezon::router
