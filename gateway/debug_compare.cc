// SPDX-License-Identifier: Apache-2.0
#include "gateway/debug_compare.h"

#include <simdjson.h>

#include "absl/strings/str_cat.h"
#include "rpc/utf8.h"

namespace allezon::gateway {
namespace {

using simdjson::dom::element;
using simdjson::dom::element_type;

constexpr size_t kValueBytesMax = 80;
constexpr size_t kPathBytesMax = 200;

std::string Short(element value) {
  // A large value is not printed whole only to be cut.
  if (value.is_array()) return absl::StrCat("an array of ", value.get_array().value().size());
  if (value.is_object()) return absl::StrCat("an object of ", value.get_object().value().size());
  const std::string text = simdjson::minify(value);
  if (text.size() <= kValueBytesMax) return text;
  const std::string_view cut = rpc::TruncateUtf8(text, kValueBytesMax);
  return absl::StrCat(absl::string_view(cut.data(), cut.size()), "…");
}

std::string Said(std::string_view path, std::string_view expected, std::string_view got) {
  const std::string_view where = rpc::TruncateUtf8(path, kPathBytesMax);
  std::string out;
  out.append(where).append(": expected ").append(expected).append(", answered ").append(got);
  return out;
}

bool IsNumber(element_type type) {
  return type == element_type::INT64 || type == element_type::UINT64 ||
         type == element_type::DOUBLE;
}

// Walks both at once and appends to `path` on its way down. Recurses as deep as our answer is.
class Comparison {
 public:
  std::optional<std::string> Compare(element expected, element answer) {
    if (IsNumber(expected.type()) && IsNumber(answer.type())) {
      return Scalar(expected, answer, Equal(expected, answer));
    }
    if (expected.type() != answer.type()) return Scalar(expected, answer, false);
    switch (answer.type()) {
      case element_type::ARRAY:
        return Arrays(expected, answer);
      case element_type::OBJECT:
        return Objects(expected, answer);
      case element_type::STRING:
        return Scalar(expected, answer,
                      expected.get_string().value() == answer.get_string().value());
      case element_type::BOOL:
        return Scalar(expected, answer, expected.get_bool().value() == answer.get_bool().value());
      default:
        return std::nullopt;  // null
    }
  }

 private:
  static bool Equal(element a, element b) {
    if (a.type() == element_type::DOUBLE || b.type() == element_type::DOUBLE) {
      return a.get_double().value() == b.get_double().value();
    }
    if (a.is_int64() != b.is_int64()) return false;
    return a.is_int64() ? a.get_int64().value() == b.get_int64().value()
                        : a.get_uint64().value() == b.get_uint64().value();
  }

  std::optional<std::string> Scalar(element expected, element answer, bool equal) const {
    if (equal) return std::nullopt;
    return Said(path_, Short(expected), Short(answer));
  }

  std::optional<std::string> Arrays(element expected, element answer) {
    const simdjson::dom::array a = expected.get_array().value(), b = answer.get_array().value();
    auto i = a.begin();
    auto j = b.begin();
    const size_t length = path_.size();
    for (size_t index = 0; i != a.end() && j != b.end(); ++i, ++j, ++index) {
      absl::StrAppend(&path_, "[", index, "]");
      if (auto difference = Compare(*i, *j)) return difference;
      path_.resize(length);
    }
    return Scalar(expected, answer, !(i != a.end()) && !(j != b.end()));
  }

  std::optional<std::string> Objects(element expected, element answer) {
    const simdjson::dom::object a = expected.get_object().value(), b = answer.get_object().value();
    const size_t length = path_.size();
    for (const auto [key, value] : b) {
      path_.append(".").append(key);
      element other;
      if (a.at_key(key).get(other)) return Said(path_, "nothing", Short(value));
      if (auto difference = Compare(other, value)) return difference;
      path_.resize(length);
    }
    for (const auto [key, value] : a) {
      element other;
      if (!b.at_key(key).get(other)) continue;
      path_.append(".").append(key);
      return Said(path_, Short(value), "nothing");
    }
    return Scalar(expected, answer, a.size() == b.size());
  }

  std::string path_ = "$";
};

}  // namespace

std::optional<std::string> Difference(std::string_view expected, std::string_view answer) {
  // Two parsers, made anew: bodies may have megabytes, and threads keep what they hold.
  simdjson::dom::parser expected_parser, answer_parser;
  element ours, theirs;
  if (auto error = answer_parser.parse(answer.data(), answer.size()).get(ours)) {
    return absl::StrCat("the answer cannot be read: ", simdjson::error_message(error));
  }
  if (auto error = expected_parser.parse(expected.data(), expected.size()).get(theirs)) {
    return absl::StrCat("the body is not JSON: ", simdjson::error_message(error));
  }
  return Comparison().Compare(theirs, ours);
}

}  // namespace allezon::gateway
