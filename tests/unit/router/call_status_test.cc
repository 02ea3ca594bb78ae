// SPDX-License-Identifier: Apache-2.0
#include "router/call_status.h"

#include <grpcpp/support/status.h>
#include <gtest/gtest.h>

#include "rpc/status.h"

namespace allezon::router {
namespace {

TEST(CallStatusTest, AnotherPlacementIsAReasonToAskAnother) {
  const absl::Status status =
      StatusOfCall(rpc::ToGrpc(absl::FailedPreconditionError("another placement")));
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(status.message(), "another placement");
  EXPECT_GT(rpc::RetryDelayOf(status), absl::ZeroDuration());
}

TEST(CallStatusTest, AQuestionThatAReplicaCallsWrongIsOurFault) {
  EXPECT_TRUE(absl::IsInternal(StatusOfCall(rpc::ToGrpc(absl::InvalidArgumentError("x")))));
}

TEST(CallStatusTest, ATransportWithoutAReasonIsUnavailable) {
  EXPECT_TRUE(absl::IsUnavailable(StatusOfCall({grpc::StatusCode::UNKNOWN, "Stream removed"})));
  EXPECT_TRUE(absl::IsUnknown(StatusOfCall(rpc::ToGrpc(absl::UnknownError("said by a node")))));
}

TEST(CallStatusTest, EverythingElseIsWhatItSays) {
  EXPECT_TRUE(StatusOfCall(grpc::Status::OK).ok());
  const absl::Status busy =
      rpc::WithRetryDelay(absl::ResourceExhaustedError("full"), absl::Seconds(2));
  EXPECT_EQ(StatusOfCall(rpc::ToGrpc(busy)), busy);
}

}  // namespace
}  // namespace allezon::router
