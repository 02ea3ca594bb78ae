// SPDX-License-Identifier: Apache-2.0
#include "rpc/status.h"

#include <google/rpc/error_details.pb.h>
#include <grpcpp/support/status.h>

#include <algorithm>
#include <cstdint>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "rpc/utf8.h"

namespace allezon::rpc {
namespace {

constexpr char kBadRequestType[] = "type.googleapis.com/google.rpc.BadRequest";
constexpr char kRetryInfoType[] = "type.googleapis.com/google.rpc.RetryInfo";

// gRPC gives a call's trailers 8 KiB and fails the whole call where they need more. The message
// stands there twice, percent-encoded (up to 3 bytes a byte) and in the details; the details are
// base64 (4 bytes for 3): 3 * 1,024 + (1,024 + 2,048) * 4 / 3 bytes are under 7.2 KiB.
constexpr size_t kMessageBytesMax = 1'024;
constexpr size_t kDetailsBytesMax = 2'048;
// What InvalidField puts into a detail, so that a detail is never dropped for its size.
constexpr size_t kFieldBytesMax = 256;
constexpr size_t kDescriptionBytesMax = 1'024;
// Longest delay that is worth saying; also keeps it inside google.protobuf.Duration.
constexpr absl::Duration kRetryDelayMax = absl::Hours(24 * 365);

std::string Bounded(std::string_view text, size_t bytes_max) {
  const std::string valid = ReplaceInvalidUtf8(text);
  return std::string(TruncateUtf8(valid, bytes_max));
}

std::string_view View(absl::string_view text) { return {text.data(), text.size()}; }

absl::StatusCode ToAbslCode(grpc::StatusCode code) {
  if (code < grpc::StatusCode::OK || code > grpc::StatusCode::UNAUTHENTICATED) {
    return absl::StatusCode::kUnknown;
  }
  return static_cast<absl::StatusCode>(code);  // the two enumerations are equal by definition
}

template <typename Message>
bool ReadPayload(const absl::Status& status, const char* type, Message& message) {
  const absl::optional<absl::Cord> payload = status.GetPayload(type);
  return payload.has_value() && message.ParseFromString(std::string(*payload));
}

}  // namespace

absl::Status InvalidField(std::string_view field, std::string_view description) {
  const std::string bounded = Bounded(description, kDescriptionBytesMax);
  absl::Status status = absl::InvalidArgumentError(bounded);
  google::rpc::BadRequest detail;
  auto* violation = detail.add_field_violations();
  violation->set_field(Bounded(field, kFieldBytesMax));
  violation->set_description(bounded);
  status.SetPayload(kBadRequestType, absl::Cord(detail.SerializeAsString()));
  return status;
}

std::string FieldOf(const absl::Status& status) {
  google::rpc::BadRequest detail;
  if (!ReadPayload(status, kBadRequestType, detail)) return "";
  return detail.field_violations_size() == 0 ? "" : detail.field_violations(0).field();
}

absl::Status WithRetryDelay(absl::Status status, absl::Duration delay) {
  const absl::Duration bounded = std::clamp(delay, absl::ZeroDuration(), kRetryDelayMax);
  google::rpc::RetryInfo detail;
  absl::Duration rest;
  detail.mutable_retry_delay()->set_seconds(absl::IDivDuration(bounded, absl::Seconds(1), &rest));
  detail.mutable_retry_delay()->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  status.SetPayload(kRetryInfoType, absl::Cord(detail.SerializeAsString()));
  return status;
}

absl::Duration RetryDelayOf(const absl::Status& status) {
  google::rpc::RetryInfo detail;
  if (!ReadPayload(status, kRetryInfoType, detail)) return absl::ZeroDuration();
  // The peer's word: bounded again, so that no one downstream sleeps for ever or a negative time.
  const absl::Duration delay = absl::Seconds(detail.retry_delay().seconds()) +
                               absl::Nanoseconds(detail.retry_delay().nanos());
  return std::clamp(delay, absl::ZeroDuration(), kRetryDelayMax);
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string message = Bounded(View(status.message()), kMessageBytesMax);
  google::rpc::Status details;
  details.set_code(static_cast<int32_t>(code));
  details.set_message(message);
  size_t details_bytes = 0;
  status.ForEachPayload([&](absl::string_view type, const absl::Cord& payload) {
    const size_t bytes = type.size() + payload.size();
    if (details_bytes + bytes > kDetailsBytesMax) return;
    details_bytes += bytes;
    google::protobuf::Any& any = *details.add_details();
    any.set_type_url(std::string(type));
    any.set_value(std::string(payload));
  });
  // Sent also where they say no more than code and message do: see IsTransportFailure.
  // Who prints only the message must see which field it is about; the details keep the two apart.
  const std::string field = FieldOf(status);
  const std::string text =
      field.empty() ? message : Bounded(absl::StrCat(field, ": ", message), kMessageBytesMax);
  return grpc::Status(code, text, details.SerializeAsString());
}

absl::Status FromGrpc(const grpc::Status& status) {
  const absl::StatusCode code = ToAbslCode(status.error_code());
  google::rpc::Status details;
  if (code == absl::StatusCode::kOk || status.error_details().empty() ||
      !details.ParseFromString(status.error_details())) {
    return absl::Status(code, status.error_message());
  }
  absl::Status result(code, details.message());
  for (const google::protobuf::Any& any : details.details()) {
    result.SetPayload(any.type_url(), absl::Cord(any.value()));
  }
  return result;
}

bool IsTransportFailure(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::UNKNOWN:
      return status.error_details().empty();
    default:
      return false;
  }
}

}  // namespace allezon::rpc
