// SPDX-License-Identifier: Apache-2.0
//
// User tags as JSON, read by the rules of the API; how they are written: stored_tag_json.h.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "allezon/v1/tag.pb.h"

namespace allezon::gateway {

// How many bytes behind the text a parser may read (never use).
inline constexpr size_t kJsonPaddingBytes = 64;

// Reads tags; keeps its buffers from one to the next. Not thread-safe.
class TagParser {
 public:
  TagParser();
  ~TagParser();

  // Reads exactly one JSON tag into `tag`, whatever it held before. `text` must be readable for
  // kJsonPaddingBytes past its end. kInvalidArgument: it is no JSON, or a field is missing, given
  // twice or outside the rules; then rpc::FieldOf names it ("product_info.price"). Unknown fields
  // are ignored, but must be JSON.
  absl::Status Parse(std::string_view text, v1::Tag& tag);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// "VIEW" or "BUY".
std::string_view ActionText(int action);

}  // namespace allezon::gateway
