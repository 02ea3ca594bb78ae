// SPDX-License-Identifier: Apache-2.0
#include "replica/core/identity.h"

#include <gmock/gmock.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"

namespace allezon::replica {
namespace {

using ::testing::HasSubstr;

v1::NodeIdentity Node(std::string_view instance, std::string_view disk, uint64_t incarnation,
                      std::string_view version = "1.2.3") {
  v1::NodeIdentity node;
  node.set_cluster("allezon");
  node.set_service("profile");
  node.set_instance(std::string(instance));
  node.set_disk(std::string(disk));
  node.set_incarnation(incarnation);
  node.set_version(std::string(version));
  return node;
}

// A process of p0, p1 or p2.
class Process {
 public:
  Process(uint32_t index, std::string_view disk, uint64_t incarnation, uint64_t previous = 0,
          std::string_view version = "1.2.3")
      : index(index),
        identities(Node(absl::StrCat("p", index), disk, incarnation, version), previous,
                   {"p0", "p1", "p2"}) {}

  // Polls whoever answers under the name of `peer`.
  absl::Status Poll(uint32_t peer, Process& answers) {
    v1::PollRequest request;
    identities.SetPoll(peer, request);
    if (absl::Status s = answers.identities.CheckTo(request.to()); !s.ok()) return s;
    v1::PollResponse response;
    const auto from = answers.identities.Polled(request, response);
    if (!from.ok()) return from.status();
    if (*from) {
      EXPECT_EQ(**from, index);
    }
    return identities.PollAnswered(peer, response);
  }
  absl::Status Poll(Process& peer) { return Poll(peer.index, peer); }

  // Any other call between nodes; OK: it was taken, and its answer counts.
  absl::Status Call(uint32_t peer, const Process& answers) const {
    v1::ReplicateRequest request;
    identities.SetTo(peer, *request.mutable_to());
    identities.SetFrom(*request.mutable_from());
    if (absl::Status s = answers.identities.CheckTo(request.to()); !s.ok()) return s;
    if (auto from = answers.identities.CheckFrom(request.from()); !from.ok()) return from.status();
    v1::ReplicateResponse response;
    answers.identities.SetBy(*response.mutable_by());
    return identities.CheckBy(peer, response.by());
  }
  absl::Status Call(const Process& peer) const { return Call(peer.index, peer); }

  const uint32_t index;
  Identities identities;
};

// What `caller` makes of an answer of `answers` under its own name.
absl::Status CheckBy(const Process& answers, const Process& caller) {
  return caller.identities.CheckBy(answers.index, answers.identities.own());
}

TEST(IdentitiesTest, OnePollIntroducesBothToEachOther) {
  Process p0(0, "d0", 10), p1(1, "d1", 20);
  EXPECT_THAT(p0.Call(p1).message(), HasSubstr("no poll has introduced"));
  ASSERT_EQ(p0.Poll(p1), absl::OkStatus());
  EXPECT_EQ(p0.Call(p1), absl::OkStatus());
  EXPECT_EQ(p1.Call(p0), absl::OkStatus());
  v1::NodeIdentity to;
  p0.identities.SetTo(1, to);
  EXPECT_EQ(to.SerializeAsString(), Node("p1", "d1", 20).SerializeAsString());
}

TEST(IdentitiesTest, IsReachedOnceEveryPeerThatAnswersHasCalled) {
  Process p0(0, "d0", 10), p1(1, "d1", 20), p2(2, "d2", 30);
  EXPECT_TRUE(p0.identities.IsReachedByAll()) << "nobody is known to be there";
  ASSERT_EQ(p0.Poll(p1), absl::OkStatus());
  EXPECT_FALSE(p0.identities.IsReachedByAll());
  ASSERT_EQ(p2.Poll(p0), absl::OkStatus());
  EXPECT_FALSE(p0.identities.IsReachedByAll());
  ASSERT_EQ(p1.Poll(p0), absl::OkStatus());
  EXPECT_TRUE(p0.identities.IsReachedByAll());
  Process anew(1, "d1", 21, 20);
  ASSERT_EQ(p0.Poll(anew), absl::OkStatus());
  EXPECT_FALSE(p0.identities.IsReachedByAll()) << "another process has not called";
}

TEST(IdentitiesTest, AnAddressThatLeadsToAnotherNodeLeadsNowhere) {
  Process p0(0, "d0", 10), p1(1, "d1", 20), p2(2, "d2", 30);
  ASSERT_EQ(p2.Poll(p0), absl::OkStatus());
  ASSERT_EQ(p2.Poll(p1), absl::OkStatus());
  EXPECT_EQ(p2.Poll(0, p1),
            absl::FailedPreconditionError(
                "this is profile/p1 of cluster allezon, the call is for profile/p0"));
  EXPECT_TRUE(absl::IsFailedPrecondition(p2.Call(0, p1)));
  // Also where the other one does not look.
  EXPECT_EQ(p2.identities.CheckBy(0, Node("p1", "d1", 20)),
            absl::UnavailableError("the answer is by profile/p1 of cluster allezon, the call is "
                                   "for profile/p0"));
  v1::PollResponse response;
  *response.mutable_by() = Node("p1", "d1", 20);
  EXPECT_TRUE(absl::IsUnavailable(p2.identities.PollAnswered(0, response)));
  EXPECT_EQ(p2.Call(p0), absl::OkStatus()) << "what is known of p0 stands";
}

TEST(IdentitiesTest, WhoDoesNotSayWhoHeIsCountsForNothing) {
  Process p0(0, "d0", 10), p1(1, "d1", 20);
  ASSERT_EQ(p0.Poll(p1), absl::OkStatus());
  EXPECT_TRUE(absl::IsFailedPrecondition(p1.identities.CheckTo({})));
  EXPECT_TRUE(absl::IsFailedPrecondition(p1.identities.CheckFrom({}).status()));
  EXPECT_TRUE(absl::IsUnavailable(p0.identities.CheckBy(1, {})));
  EXPECT_TRUE(absl::IsUnavailable(p0.identities.PollAnswered(1, {})));
  v1::PollRequest request;
  v1::PollResponse response;
  EXPECT_TRUE(absl::IsFailedPrecondition(p1.identities.Polled(request, response).status()));
  // A name alone is not enough.
  EXPECT_TRUE(absl::IsUnavailable(p0.identities.CheckBy(1, Node("p1", "", 0))));
  EXPECT_TRUE(absl::IsFailedPrecondition(p1.identities.CheckFrom(Node("p0", "", 0)).status()));
  response.Clear();
  *response.mutable_by() = Node("p1", "", 0);
  EXPECT_TRUE(absl::IsUnavailable(p0.identities.PollAnswered(1, response)));
}

TEST(IdentitiesTest, WhoRunsAnotherVersionIsNobodysPeer) {
  for (const std::string_view version : {"1.3.0", ""}) {
    Process p0(0, "d0", 10), p1(1, "d1", 20), other(1, "d1", 21, 20, version);
    ASSERT_EQ(p0.Poll(p1), absl::OkStatus());
    EXPECT_TRUE(absl::IsFailedPrecondition(p0.Poll(other)));
    EXPECT_TRUE(absl::IsFailedPrecondition(other.Poll(p0)));
    EXPECT_TRUE(absl::IsFailedPrecondition(p0.Call(other)));
    EXPECT_THAT(p0.identities.CheckFrom(other.identities.own()).status().message(),
                HasSubstr("this is profile/p0 of cluster allezon in version 1.2.3, the call is by "
                          "profile/p1 of cluster allezon in "));
    // Also where the other one does not look.
    v1::PollResponse response;
    *response.mutable_by() = other.identities.own();
    EXPECT_THAT(p0.identities.PollAnswered(1, response),
                absl::UnavailableError(CheckBy(other, p0).message()));
    EXPECT_TRUE(absl::IsUnavailable(CheckBy(other, p0)));
    EXPECT_THAT(CheckBy(other, p0).message(), HasSubstr("the call is for version 1.2.3"));
    EXPECT_EQ(p0.Call(p1), absl::OkStatus()) << "what is known of p1 stands";
  }
}

TEST(IdentitiesTest, StrangersAreNoPeers) {
  Process p1(1, "d1", 20);
  v1::NodeIdentity other_cluster = Node("p0", "d0", 10);
  other_cluster.set_cluster("other");
  v1::NodeIdentity other_service = Node("p0", "d0", 10);
  other_service.set_service("aggregate");
  for (const v1::NodeIdentity& from :
       {other_cluster, other_service, Node("p9", "d9", 10), Node("p1", "d1", 20)}) {
    v1::PollRequest request;
    *request.mutable_from() = from;
    v1::PollResponse response;
    EXPECT_TRUE(absl::IsFailedPrecondition(p1.identities.Polled(request, response).status()));
    EXPECT_TRUE(absl::IsFailedPrecondition(p1.identities.CheckFrom(from).status()));
  }
}

TEST(IdentitiesTest, AProcessThatStartedAnewCountsOnceItWasPolled) {
  Process p0(0, "d0", 10), p1(1, "d1", 20);
  ASSERT_EQ(p0.Poll(p1), absl::OkStatus());
  Process restarted(1, "d1", 21, 20);
  EXPECT_TRUE(absl::IsFailedPrecondition(p0.Call(restarted)));
  EXPECT_TRUE(absl::IsUnavailable(p0.identities.CheckBy(1, Node("p1", "d1", 21))));
  EXPECT_FALSE(restarted.Call(p0).ok()) << "nor does it know whom it calls";
  ASSERT_EQ(p0.Poll(restarted), absl::OkStatus());
  EXPECT_EQ(p0.Call(restarted), absl::OkStatus());
  EXPECT_TRUE(absl::IsUnavailable(p0.identities.CheckBy(1, Node("p1", "d1", 20))))
      << "a late vote of the process before";
  // Another disk, likewise, and introduced by its own poll.
  Process wiped(1, "d9", 30);
  EXPECT_TRUE(absl::IsFailedPrecondition(p0.Call(wiped)));
  ASSERT_EQ(wiped.Poll(p0), absl::OkStatus());
  EXPECT_EQ(p0.Call(wiped), absl::OkStatus());
  EXPECT_EQ(wiped.Call(p0), absl::OkStatus());
}

TEST(IdentitiesTest, OfTwoProcessesUnderOneIdTheOlderOneIsRefusedAndEnds) {
  Process p0(0, "d0", 10), p1(1, "d1", 20), p2(2, "d2", 30);
  ASSERT_EQ(p1.Poll(p0), absl::OkStatus());
  ASSERT_EQ(p1.Poll(p2), absl::OkStatus());
  Process later(1, "d9", 21);
  ASSERT_EQ(later.Poll(p0), absl::OkStatus());
  EXPECT_TRUE(absl::IsFailedPrecondition(p1.Call(p0))) << "its vote";
  EXPECT_TRUE(absl::IsFailedPrecondition(p0.Call(p1)));
  EXPECT_TRUE(absl::IsUnavailable(p0.Poll(p1))) << "whose place was taken";
  EXPECT_EQ(p1.identities.MustEnd(), absl::OkStatus());
  EXPECT_TRUE(absl::IsUnavailable(p1.Poll(p0)));
  EXPECT_THAT(p1.identities.MustEnd().message(), HasSubstr("has taken its place"));
  EXPECT_EQ(p1.identities.WantedIncarnation(), std::nullopt);
  EXPECT_TRUE(absl::IsFailedPrecondition(p2.Call(p1))) << "it says nothing more to anybody";
  EXPECT_EQ(later.identities.MustEnd(), absl::OkStatus());
  EXPECT_EQ(p0.Call(later), absl::OkStatus());
}

TEST(IdentitiesTest, ANewDiskWhoseClockIsBehindGoesAboveWhatPeersRemember) {
  Process p0(0, "d0", 10), p1(1, "d1", 20), wiped(1, "d9", 5);
  ASSERT_EQ(p0.Poll(p1), absl::OkStatus());
  EXPECT_TRUE(absl::IsUnavailable(wiped.Poll(p0)));
  EXPECT_EQ(wiped.identities.MustEnd(), absl::OkStatus());
  ASSERT_EQ(wiped.identities.WantedIncarnation(), 21u);
  EXPECT_EQ(wiped.identities.own().incarnation(), 5u) << "not before it is stored";
  wiped.identities.Raise(21);
  EXPECT_EQ(wiped.identities.WantedIncarnation(), std::nullopt);
  EXPECT_EQ(wiped.identities.own().incarnation(), 21u);
  ASSERT_EQ(wiped.Poll(p0), absl::OkStatus());
  EXPECT_EQ(p0.Call(wiped), absl::OkStatus());
  // An answer to an earlier poll changes nothing.
  v1::PollResponse late;
  *late.mutable_by() = p0.identities.own();
  late.set_superseded_by(20);
  EXPECT_TRUE(absl::IsUnavailable(wiped.identities.PollAnswered(0, late)));
  EXPECT_EQ(wiped.identities.MustEnd(), absl::OkStatus());
}

TEST(IdentitiesTest, TwoNewDisksOfOneIncarnationAreTold) {
  Process p0(0, "d0", 10), a(1, "da", 20), b(1, "db", 20);
  ASSERT_EQ(a.Poll(p0), absl::OkStatus());
  EXPECT_TRUE(absl::IsUnavailable(b.Poll(p0)));
  EXPECT_EQ(b.identities.WantedIncarnation(), 21u);
}

// p1 ran on d1 as 20, then as 21; a copy of the folder was made in between.
TEST(IdentitiesTest, AnOldCopyOfAFolderIsRefused) {
  for (const bool copy_polls_first : {false, true}) {
    Process p0(0, "d0", 10), p1(1, "d1", 21, 20), copy(1, "d1", 22, 20);
    ASSERT_EQ(p1.Poll(p0), absl::OkStatus());
    EXPECT_TRUE(absl::IsFailedPrecondition(copy.Call(p0))) << "its vote";
    if (!copy_polls_first) {
      EXPECT_THAT(p0.Poll(copy).message(), HasSubstr("old copy"));
      EXPECT_TRUE(absl::IsFailedPrecondition(p0.Call(copy)));
    }
    EXPECT_TRUE(absl::IsUnavailable(copy.Poll(p0)));
    EXPECT_THAT(copy.identities.MustEnd().message(), HasSubstr("Empty the folder"));
    EXPECT_EQ(p0.Call(p1), absl::OkStatus()) << "the node is who it was";
  }
}

TEST(IdentitiesTest, ADiskThatComesBackAfterAnotherOneTookItsPlaceIsRefused) {
  Process p0(0, "d0", 10), p1(1, "d1", 20), wiped(1, "d9", 30), back(1, "d1", 40, 20);
  ASSERT_EQ(p1.Poll(p0), absl::OkStatus());
  ASSERT_EQ(wiped.Poll(p0), absl::OkStatus());
  EXPECT_TRUE(absl::IsUnavailable(back.Poll(p0)));
  EXPECT_FALSE(back.identities.MustEnd().ok());
  // With a clock that is behind as well: it is no new disk, and does not go above.
  Process behind(1, "d1", 21, 20);
  EXPECT_TRUE(absl::IsUnavailable(behind.Poll(p0)));
  EXPECT_FALSE(behind.identities.MustEnd().ok());
  EXPECT_EQ(behind.identities.WantedIncarnation(), std::nullopt);
}

TEST(IdentitiesTest, AFolderWhoseLastProcessNobodyHeardOfIsNoOldCopy) {
  Process p0(0, "d0", 10), p1(1, "d1", 20);
  ASSERT_EQ(p1.Poll(p0), absl::OkStatus());
  Process again(1, "d1", 22, 21);
  EXPECT_EQ(again.Poll(p0), absl::OkStatus());
}

}  // namespace
}  // namespace allezon::replica
