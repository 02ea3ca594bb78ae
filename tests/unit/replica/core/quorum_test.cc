// SPDX-License-Identifier: Apache-2.0
#include "replica/core/quorum.h"

#include <gtest/gtest.h>

namespace allezon::replica {
namespace {

constexpr uint32_t kReader = 4;
constexpr uint32_t kOther = 5;
using Voters = std::vector<Quorum::Voters>;
const absl::Status kDown = absl::UnavailableError("down");

TEST(QuorumTest, AcknowledgesAtTheQuorumAndNotBefore) {
  Quorum quorum(2, 100);
  std::vector<WriteOutcome> outcomes;
  ASSERT_TRUE(quorum.Begin(7, Voters{{2}}, 1000).ok());
  quorum.Stored(7, absl::OkStatus(), outcomes);
  EXPECT_TRUE(outcomes.empty());
  quorum.Yes(7, 0, kOther, false, outcomes);
  ASSERT_EQ(outcomes.size(), 1u);
  EXPECT_EQ(outcomes[0].id, 7u);
  EXPECT_TRUE(outcomes[0].failures.empty());
  EXPECT_FALSE(quorum.IsPending(7));
  quorum.Yes(7, 0, kOther, false, outcomes);  // the third one comes late
  EXPECT_EQ(outcomes.size(), 1u);
}

TEST(QuorumTest, NeverAcknowledgesWhatTheCoordinatorLacks) {
  Quorum quorum(2, 100);
  std::vector<WriteOutcome> outcomes;
  ASSERT_TRUE(quorum.Begin(1, Voters{{2}}, 1000).ok());
  quorum.Yes(1, 0, kOther, false, outcomes);
  quorum.Yes(1, 0, kOther, false, outcomes);
  EXPECT_TRUE(outcomes.empty()) << "both peers have it, this node does not";
  quorum.Stored(1, absl::OkStatus(), outcomes);
  ASSERT_EQ(outcomes.size(), 1u);
  EXPECT_TRUE(outcomes[0].failures.empty());

  ASSERT_TRUE(quorum.Begin(2, Voters{{2}}, 1000).ok());
  quorum.Yes(2, 0, kOther, false, outcomes);
  quorum.Stored(2, kDown, outcomes);
  ASSERT_EQ(outcomes.size(), 2u);
  EXPECT_EQ(outcomes[1].failures[0], kDown);
}

TEST(QuorumTest, FailsAsSoonAsTooFewVotesAreLeft) {
  Quorum quorum(2, 100);
  std::vector<WriteOutcome> outcomes;
  ASSERT_TRUE(quorum.Begin(1, Voters{{2}}, 1000).ok());
  quorum.CountOut(1, 0, kOther, kDown, outcomes);
  EXPECT_TRUE(outcomes.empty());
  quorum.CountOut(1, 0, kOther, kDown, outcomes);
  ASSERT_EQ(outcomes.size(), 1u);
  ASSERT_EQ(outcomes[0].failures.size(), 1u);
  EXPECT_EQ(outcomes[0].failures[0].code(), absl::StatusCode::kUnavailable);
}

TEST(QuorumTest, AReplicaThatWasCountedOutMayStillSayYes) {
  Quorum quorum(2, 100);
  std::vector<WriteOutcome> outcomes;
  ASSERT_TRUE(quorum.Begin(1, Voters{{2}}, 1000).ok());
  quorum.CountOut(1, 0, kOther, kDown, outcomes);
  quorum.Yes(1, 0, kOther, true, outcomes);
  quorum.Stored(1, absl::OkStatus(), outcomes);
  ASSERT_EQ(outcomes.size(), 1u);
  EXPECT_TRUE(outcomes[0].failures.empty());
}

TEST(QuorumTest, AnswersOnceEveryEventIsDecidedEachForItself) {
  Quorum quorum(2, 100);
  std::vector<WriteOutcome> outcomes;
  ASSERT_TRUE(quorum.Begin(1, Voters{{1}, {1}}, 1000).ok());
  quorum.CountOut(1, 1, kOther, kDown, outcomes);
  quorum.Yes(1, 0, kOther, false, outcomes);
  EXPECT_TRUE(outcomes.empty());
  quorum.Stored(1, absl::OkStatus(), outcomes);
  ASSERT_EQ(outcomes.size(), 1u);
  EXPECT_TRUE(outcomes[0].failures[0].ok());
  EXPECT_FALSE(outcomes[0].failures[1].ok());
}

TEST(QuorumTest, TheDeadlineEndsWhatIsUndecidedOnly) {
  Quorum quorum(2, 100);
  std::vector<WriteOutcome> outcomes;
  ASSERT_TRUE(quorum.Begin(1, Voters{{2}, {2}}, 1000).ok());
  ASSERT_TRUE(quorum.Begin(2, Voters{{2}}, 2000).ok());
  quorum.Stored(1, absl::OkStatus(), outcomes);
  quorum.Yes(1, 0, kOther, false, outcomes);
  quorum.Expire(999, outcomes);
  EXPECT_TRUE(outcomes.empty());
  quorum.Expire(1000, outcomes);
  ASSERT_EQ(outcomes.size(), 1u);
  EXPECT_TRUE(outcomes[0].failures[0].ok());
  EXPECT_EQ(outcomes[0].failures[1].code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(quorum.IsPending(2));
  EXPECT_EQ(quorum.events_pending(), 1u);
}

// A write that has its quorum, and waits for the one that is read first.
void BeginWithoutReader(Quorum& quorum, WriteId id, Instant deadline,
                        std::vector<WriteOutcome>& outcomes) {
  ASSERT_TRUE(quorum.Begin(id, Voters{{2, kReader}}, deadline).ok());
  quorum.Stored(id, absl::OkStatus(), outcomes);
  quorum.Yes(id, 0, kOther, false, outcomes);
}

TEST(QuorumTest, WaitsForTheOneThatIsReadFirst) {
  Quorum quorum(2, 100);
  std::vector<WriteOutcome> outcomes;
  BeginWithoutReader(quorum, 1, 1000, outcomes);
  EXPECT_TRUE(outcomes.empty()) << "it has its quorum, but who reads would not find it";
  quorum.Yes(1, 0, kReader, false, outcomes);
  ASSERT_EQ(outcomes.size(), 1u);
  EXPECT_TRUE(outcomes[0].failures.empty());
}

TEST(QuorumTest, DoesNotWaitForOneThatFails) {
  Quorum quorum(2, 100);
  std::vector<WriteOutcome> outcomes;
  BeginWithoutReader(quorum, 1, 1000, outcomes);
  quorum.CountOut(1, 0, kReader, kDown, outcomes);
  ASSERT_EQ(outcomes.size(), 1u);
  EXPECT_TRUE(outcomes[0].failures.empty());
}

TEST(QuorumTest, DoesNotWaitForOneThatIsLateButForTheQuorum) {
  Quorum quorum(2, 100);
  std::vector<WriteOutcome> outcomes;
  ASSERT_TRUE(quorum.Begin(1, Voters{{2, kReader}}, 1000).ok());
  ASSERT_TRUE(quorum.Begin(2, Voters{{2, kReader}}, 1000).ok());
  ASSERT_TRUE(quorum.Begin(3, Voters{{2, kOther}}, 1000).ok());
  for (const WriteId id : {1, 2, 3}) quorum.Stored(id, absl::OkStatus(), outcomes);
  quorum.Yes(1, 0, kOther, false, outcomes);
  quorum.Yes(3, 0, kReader, false, outcomes);
  quorum.StopWaitingFor(kReader, outcomes);
  ASSERT_EQ(outcomes.size(), 1u);
  EXPECT_EQ(outcomes[0].id, 1u);
  quorum.Yes(2, 0, kOther, false, outcomes);
  ASSERT_EQ(outcomes.size(), 2u);
  EXPECT_EQ(outcomes[1].id, 2u);
  EXPECT_TRUE(quorum.IsPending(3)) << "it waits for another one";
}

TEST(QuorumTest, DoesNotWaitForTheOneThatIsReadFirstUntilItsDeadline) {
  Quorum quorum(2, 100);
  std::vector<WriteOutcome> outcomes;
  BeginWithoutReader(quorum, 1, 1000, outcomes);
  BeginWithoutReader(quorum, 2, 1001, outcomes);
  quorum.StopWaitingUntil(1000, outcomes);
  ASSERT_EQ(outcomes.size(), 1u);
  EXPECT_EQ(outcomes[0].id, 1u);
  EXPECT_TRUE(outcomes[0].failures.empty());
}

TEST(QuorumTest, RefusesMoreThanItsBound) {
  Quorum quorum(1, 3);
  std::vector<WriteOutcome> outcomes;
  ASSERT_TRUE(quorum.Begin(1, Voters{{1}, {1}}, 1000).ok());
  EXPECT_EQ(quorum.Begin(2, Voters{{1}, {1}}, 1000).code(), absl::StatusCode::kResourceExhausted);
  quorum.Expire(1000, outcomes);
  EXPECT_TRUE(quorum.Begin(2, Voters{{1}, {1}}, 2000).ok());
}

}  // namespace
}  // namespace allezon::replica
