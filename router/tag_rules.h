// SPDX-License-Identifier: Apache-2.0
//
// The rules that every tag keeps, wherever it comes in. Pure functions.
#pragma once

#include <cstddef>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "allezon/v1/tag.pb.h"

namespace allezon::router {

inline constexpr size_t kTextBytesMax = 256;
inline constexpr size_t kIdempotencyKeyBytesMax = 128;
// 0000-01-01T00:00:00.000Z and 9999-12-31T23:59:59.999Z, the times that text can say.
inline constexpr int64_t kTimeMsMin = -62'167'219'200'000;
inline constexpr int64_t kTimeMsMax = 253'402'300'799'999;

// OK, or kInvalidArgument (rpc::InvalidField) that names the field as the tag's message does:
// cookie, time_ms, product_info.price, … A time further ahead of `now` than `future_max` is
// refused. UTF-8 is not looked at: strings of a parsed message are valid.
absl::Status CheckTag(const v1::Tag& tag, absl::Time now, absl::Duration future_max);

// OK for a key of 1 to 128 visible ASCII characters, else kInvalidArgument without a field.
absl::Status CheckIdempotencyKey(std::string_view key);

}  // namespace allezon::router
