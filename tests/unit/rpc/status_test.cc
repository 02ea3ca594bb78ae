// SPDX-License-Identifier: Apache-2.0
#include "rpc/status.h"

#include <google/rpc/error_details.pb.h>
#include <grpcpp/support/status.h>
#include <gtest/gtest.h>

#include <string>

namespace allezon::rpc {
namespace {

absl::Status ThereAndBack(const absl::Status& status) { return FromGrpc(ToGrpc(status)); }

TEST(StatusTest, OkStaysOk) {
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpc(grpc::Status::OK).ok());
  EXPECT_TRUE(WithRetryDelay(absl::OkStatus(), absl::Seconds(1)).ok());
}

TEST(StatusTest, EveryCodeAndItsMessageSurvive) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "what happened");
    EXPECT_EQ(ToGrpc(status).error_code(), code);
    EXPECT_EQ(ToGrpc(status).error_message(), "what happened");
    EXPECT_EQ(ThereAndBack(status), status);
  }
}

TEST(StatusTest, WhatAServerSaysIsToldApartFromWhatTheTransportSays) {
  for (const auto code : {grpc::StatusCode::UNAVAILABLE, grpc::StatusCode::DEADLINE_EXCEEDED,
                          grpc::StatusCode::CANCELLED}) {
    EXPECT_TRUE(IsTransportFailure(grpc::Status(code, "failed to connect"))) << code;
    const auto said = static_cast<absl::StatusCode>(code);
    EXPECT_FALSE(IsTransportFailure(ToGrpc(absl::Status(said, "failed to connect")))) << code;
  }
  EXPECT_FALSE(IsTransportFailure(grpc::Status::OK));
  EXPECT_FALSE(IsTransportFailure(grpc::Status(grpc::StatusCode::UNIMPLEMENTED, "no method")));
}

TEST(StatusTest, CodesThatDoNotExistAreUnknown) {
  EXPECT_EQ(FromGrpc(grpc::Status(static_cast<grpc::StatusCode>(17), "m")),
            absl::UnknownError("m"));
  EXPECT_EQ(FromGrpc(grpc::Status(grpc::StatusCode::DO_NOT_USE, "m")), absl::UnknownError("m"));
  EXPECT_EQ(ToGrpc(absl::Status(static_cast<absl::StatusCode>(99), "m")).error_code(),
            grpc::StatusCode::UNKNOWN);
}

TEST(StatusTest, AFieldSurvives) {
  const absl::Status status = InvalidField("product_info.price", "price must be an integer");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "price must be an integer");
  EXPECT_EQ(FieldOf(status), "product_info.price");
  EXPECT_EQ(ThereAndBack(status), status);
  EXPECT_EQ(FieldOf(ThereAndBack(status)), "product_info.price");
}

TEST(StatusTest, ADelaySurvivesToTheNanosecond) {
  for (const absl::Duration delay :
       {absl::Nanoseconds(1), absl::Milliseconds(1'500), absl::Seconds(3), absl::Hours(1)}) {
    const absl::Status status = WithRetryDelay(absl::UnavailableError("busy"), delay);
    EXPECT_EQ(RetryDelayOf(status), delay);
    EXPECT_EQ(RetryDelayOf(ThereAndBack(status)), delay);
  }
}

TEST(StatusTest, ADelayThatMakesNoSenseIsBounded) {
  const absl::Status error = absl::UnavailableError("busy");
  EXPECT_EQ(RetryDelayOf(WithRetryDelay(error, -absl::Seconds(5))), absl::ZeroDuration());
  EXPECT_LT(RetryDelayOf(WithRetryDelay(error, absl::InfiniteDuration())),
            absl::InfiniteDuration());
  EXPECT_EQ(RetryDelayOf(WithRetryDelay(WithRetryDelay(error, absl::Seconds(1)), absl::Seconds(2))),
            absl::Seconds(2));
}

TEST(StatusTest, FieldAndDelayTravelTogether) {
  const absl::Status status =
      ThereAndBack(WithRetryDelay(InvalidField("time", "too far ahead"), absl::Seconds(7)));
  EXPECT_EQ(FieldOf(status), "time");
  EXPECT_EQ(RetryDelayOf(status), absl::Seconds(7));
}

TEST(StatusTest, AStatusWithoutDetailsHasNoFieldAndNoDelay) {
  EXPECT_EQ(FieldOf(absl::UnavailableError("m")), "");
  EXPECT_EQ(RetryDelayOf(absl::UnavailableError("m")), absl::ZeroDuration());
  EXPECT_EQ(FieldOf(absl::OkStatus()), "");
}

TEST(StatusTest, TheDetailsAreThePublishedModel) {
  const grpc::Status status =
      ToGrpc(WithRetryDelay(InvalidField("time", "no such date"), absl::Milliseconds(2'500)));
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.code(), 3);
  EXPECT_EQ(details.message(), "no such date");
  google::rpc::BadRequest bad_request;
  google::rpc::RetryInfo retry;
  ASSERT_EQ(details.details_size(), 2);
  for (const google::protobuf::Any& any : details.details()) {
    EXPECT_TRUE(any.UnpackTo(&bad_request) || any.UnpackTo(&retry)) << any.type_url();
  }
  ASSERT_EQ(bad_request.field_violations_size(), 1);
  EXPECT_EQ(bad_request.field_violations(0).field(), "time");
  EXPECT_EQ(bad_request.field_violations(0).description(), "no such date");
  EXPECT_EQ(retry.retry_delay().seconds(), 2);
  EXPECT_EQ(retry.retry_delay().nanos(), 500'000'000);
}

TEST(StatusTest, BrokenDetailsOfAPeerLeaveCodeAndMessage) {
  const grpc::Status garbage(grpc::StatusCode::UNAVAILABLE, "m", "\xff\xff\xff garbage");
  EXPECT_EQ(FromGrpc(garbage), absl::UnavailableError("m"));
  // Details that parse, holding a payload that does not.
  google::rpc::Status details;
  for (const char* type : {"BadRequest", "RetryInfo"}) {
    google::protobuf::Any& any = *details.add_details();
    any.set_type_url(std::string("type.googleapis.com/google.rpc.") + type);
    any.set_value("\xff\xff");
  }
  const absl::Status status =
      FromGrpc(grpc::Status(grpc::StatusCode::UNAVAILABLE, "m", details.SerializeAsString()));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(FieldOf(status), "");
  EXPECT_EQ(RetryDelayOf(status), absl::ZeroDuration());
}

TEST(StatusTest, TextThatIsNotUtf8DoesNotCostTheDetails) {
  const absl::Status status =
      ThereAndBack(WithRetryDelay(InvalidField("fie\xffld", "bad \xc3 byte"), absl::Seconds(1)));
  EXPECT_EQ(FieldOf(status), "fie\uFFFDld");
  EXPECT_EQ(status.message(), "bad \uFFFD byte");
  EXPECT_EQ(
      RetryDelayOf(ThereAndBack(WithRetryDelay(absl::UnavailableError("\xff"), absl::Seconds(1)))),
      absl::Seconds(1));
}

TEST(StatusTest, LongTextIsCutAndTheDetailsStay) {
  const std::string long_text(100'000, '\x01');
  const absl::Status status =
      FromGrpc(ToGrpc(WithRetryDelay(InvalidField(long_text, long_text), absl::Seconds(1))));
  EXPECT_LT(status.message().size(), 2'000u);
  EXPECT_FALSE(FieldOf(status).empty());
  EXPECT_EQ(RetryDelayOf(status), absl::Seconds(1));
}

TEST(StatusTest, AClientThatPrintsOnlyTheMessageSeesTheField) {
  const grpc::Status status = ToGrpc(InvalidField("cookie", "is empty"));
  EXPECT_EQ(status.error_message(), "cookie: is empty");
  EXPECT_EQ(FromGrpc(status).message(), "is empty");
  EXPECT_EQ(FieldOf(FromGrpc(status)), "cookie");
}

}  // namespace
}  // namespace allezon::rpc
