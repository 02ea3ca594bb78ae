// SPDX-License-Identifier: Apache-2.0
#include "gateway/tag_json.h"

#include <simdjson.h>

#include <array>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "gateway/json_text.h"
#include "gateway/time_text.h"
#include "router/tag_rules.h"
#include "rpc/status.h"

namespace allezon::gateway {
namespace {

namespace ondemand = simdjson::ondemand;
constexpr size_t kKeptTextBytes = 8 << 10;
static_assert(kJsonPaddingBytes >= simdjson::SIMDJSON_PADDING);

absl::Status Malformed(std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("not valid JSON: ", absl::string_view(what.data(), what.size())));
}

absl::Status Malformed(simdjson::error_code error) {
  return Malformed(simdjson::error_message(error));
}

// The field that an object's key names; `fields` is a table of their names, without the dotted
// prefix.
template <size_t n>
int IndexOf(const std::array<std::string_view, n>& fields, std::string_view name) {
  for (size_t i = 0; i < n; ++i) {
    if (fields[i] == name) return static_cast<int>(i);
  }
  return -1;
}

// A scalar's text as it stands in the document, without the white space behind it.
std::string_view Token(ondemand::value& value) {
  std::string_view token = value.raw_json_token();
  while (!token.empty() && (token.back() == ' ' || token.back() == '\t' || token.back() == '\n' ||
                            token.back() == '\r')) {
    token.remove_suffix(1);
  }
  return token;
}

// The library checks only what is looked at, and refuses numbers that fit none of its types, so a
// value that is not used is checked here.
absl::Status SkipValue(ondemand::value& value) {
  ondemand::json_type type;
  if (auto error = value.type().get(type)) return Malformed(error);
  std::string_view text;
  if (type == ondemand::json_type::object || type == ondemand::json_type::array) {
    if (type == ondemand::json_type::object) {
      ondemand::object object;
      if (auto error = value.get_object().get(object)) return Malformed(error);
      if (auto error = object.raw_json().get(text)) return Malformed(error);
    } else {
      ondemand::array array;
      if (auto error = value.get_array().get(array)) return Malformed(error);
      if (auto error = array.raw_json().get(text)) return Malformed(error);
    }
  } else {
    text = Token(value);
  }
  if (IsJsonValue(text)) return absl::OkStatus();
  if (IsTooDeepJson(text)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a field that is not used nests deeper than ", kJsonDepthMax));
  }
  return Malformed("a field that is not used has a broken value");
}

absl::Status ReadText(std::string_view field, ondemand::value& value, std::string_view& text) {
  const std::string_view token = Token(value);
  if (token.empty() || token[0] != '"') return rpc::InvalidField(field, "must be a string");
  if (auto error = value.get_string().get(text)) return Malformed(error);
  // The document is UTF-8, but an escape may still have made half a surrogate pair.
  if (!simdjson::validate_utf8(text.data(), text.size())) {
    return Malformed("an escape is half a surrogate pair");
  }
  if (text.size() > router::kTextBytesMax) {
    return rpc::InvalidField(field, absl::StrCat("has ", text.size(), " bytes of UTF-8; ",
                                                 router::kTextBytesMax, " are allowed"));
  }
  return absl::OkStatus();
}

absl::Status ReadText(std::string_view field, ondemand::value& value, std::string* out) {
  std::string_view text;
  if (absl::Status s = ReadText(field, value, text); !s.ok()) return s;
  out->assign(text);
  return absl::OkStatus();
}

// Takes a number off the document, so that the next field follows.
absl::Status ReadInteger(std::string_view field, ondemand::value& value, std::string_view expected,
                         std::optional<int64_t>& number) {
  ondemand::json_type type;
  if (auto error = value.type().get(type)) return Malformed(error);
  const std::string_view token = Token(value);
  number = type == ondemand::json_type::number ? ParseJsonInteger(token) : std::nullopt;
  if (!number) return rpc::InvalidField(field, expected);
  return absl::OkStatus();
}

absl::Status ReadPrice(ondemand::value& value, v1::ProductInfo& product) {
  constexpr std::string_view kField = "product_info.price", kRule = "must be an integer of 32 bits";
  std::optional<int64_t> number;
  if (absl::Status s = ReadInteger(kField, value, kRule, number); !s.ok()) return s;
  if (*number < std::numeric_limits<int32_t>::min() ||
      *number > std::numeric_limits<int32_t>::max()) {
    return rpc::InvalidField(kField, kRule);
  }
  product.set_price(static_cast<int32_t>(*number));
  return absl::OkStatus();
}

absl::Status ReadProductId(ondemand::value& value, v1::ProductId& id) {
  constexpr std::string_view kField = "product_info.product_id";
  if (Token(value).starts_with('"')) return ReadText(kField, value, id.mutable_text());
  std::optional<int64_t> number;
  absl::Status s = ReadInteger(kField, value, "must be a string or an integer of 64 bits", number);
  if (s.ok()) id.set_number(*number);
  return s;
}

// Goes through an object: `read(i, value)` for each field of `names`, each exactly once.
template <size_t n, typename Read>
absl::Status ReadObject(ondemand::object& object, std::string_view prefix,
                        const std::array<std::string_view, n>& names, const Read& read) {
  const auto full_name = [&](size_t i) {
    return absl::StrCat(absl::string_view(prefix.data(), prefix.size()),
                        absl::string_view(names[i].data(), names[i].size()));
  };
  std::array<bool, n> seen{};
  for (auto item : object) {
    ondemand::field field;
    if (auto error = std::move(item).get(field)) return Malformed(error);
    std::string_view key;
    if (auto error = field.unescaped_key().get(key)) return Malformed(error);
    const int i = IndexOf(names, key);
    if (i >= 0 && seen[i]) return rpc::InvalidField(full_name(i), "is given twice");
    absl::Status s = i < 0 ? SkipValue(field.value()) : read(i, field.value());
    if (!s.ok()) return s;
    if (i >= 0) seen[i] = true;
  }
  for (size_t i = 0; i < n; ++i) {
    if (!seen[i]) return rpc::InvalidField(full_name(i), "is missing");
  }
  return absl::OkStatus();
}

absl::Status ReadProduct(ondemand::value& value, v1::ProductInfo& product) {
  static constexpr std::array<std::string_view, 4> kNames = {"product_id", "brand_id",
                                                             "category_id", "price"};
  if (!Token(value).starts_with('{')) {
    return rpc::InvalidField("product_info", "must be an object");
  }
  ondemand::object object;
  if (auto error = value.get_object().get(object)) return Malformed(error);
  return ReadObject(object, "product_info.", kNames, [&](int i, ondemand::value& field) {
    switch (i) {
      case 0:
        return ReadProductId(field, *product.mutable_product_id());
      case 1:
        return ReadText("product_info.brand_id", field, product.mutable_brand_id());
      case 2:
        return ReadText("product_info.category_id", field, product.mutable_category_id());
      default:
        return ReadPrice(field, product);
    }
  });
}

absl::Status ReadTime(ondemand::value& value, v1::Tag& tag) {
  std::string_view text;
  if (absl::Status s = ReadText("time", value, text); !s.ok()) return s;
  const std::optional<int64_t> time_ms = ParseTagTime(text);
  if (!time_ms) {
    return rpc::InvalidField("time", "must be a date that exists, as 2022-03-22T12:15:00.000Z");
  }
  tag.set_time_ms(*time_ms);
  return absl::OkStatus();
}

absl::Status ReadDevice(ondemand::value& value, v1::Tag& tag) {
  std::string_view text;
  if (absl::Status s = ReadText("device", value, text); !s.ok()) return s;
  if (text == "PC") {
    tag.set_device(v1::DEVICE_PC);
  } else if (text == "MOBILE") {
    tag.set_device(v1::DEVICE_MOBILE);
  } else if (text == "TV") {
    tag.set_device(v1::DEVICE_TV);
  } else {
    return rpc::InvalidField("device", "must be PC, MOBILE or TV");
  }
  return absl::OkStatus();
}

absl::Status ReadAction(ondemand::value& value, v1::Tag& tag) {
  std::string_view text;
  if (absl::Status s = ReadText("action", value, text); !s.ok()) return s;
  if (text == "VIEW") {
    tag.set_action(v1::ACTION_VIEW);
  } else if (text == "BUY") {
    tag.set_action(v1::ACTION_BUY);
  } else {
    return rpc::InvalidField("action", "must be VIEW or BUY");
  }
  return absl::OkStatus();
}

absl::Status ReadField(int i, ondemand::value& value, v1::Tag& tag) {
  switch (i) {
    case 0:
      return ReadTime(value, tag);
    case 1:
      if (absl::Status s = ReadText("cookie", value, tag.mutable_cookie()); !s.ok()) return s;
      if (tag.cookie().empty()) return rpc::InvalidField("cookie", "must not be empty");
      return absl::OkStatus();
    case 2:
      return ReadText("country", value, tag.mutable_country());
    case 3:
      return ReadDevice(value, tag);
    case 4:
      return ReadAction(value, tag);
    case 5:
      return ReadText("origin", value, tag.mutable_origin());
    default:
      return ReadProduct(value, *tag.mutable_product_info());
  }
}

}  // namespace

struct TagParser::Impl {
  ondemand::parser parser;
};

TagParser::TagParser() : impl_(std::make_unique<Impl>()) {}
TagParser::~TagParser() = default;

absl::Status TagParser::Parse(std::string_view text, v1::Tag& tag) {
  static constexpr std::array<std::string_view, 7> kNames = {
      "time", "cookie", "country", "device", "action", "origin", "product_info"};
  tag.Clear();
  ondemand::document document;
  // A parser keeps several times its longest text; a long one gets a parser of its own.
  ondemand::parser passing;
  ondemand::parser& parser = text.size() > kKeptTextBytes ? passing : impl_->parser;
  if (auto error = parser
                       .iterate(simdjson::padded_string_view(text.data(), text.size(),
                                                             text.size() + kJsonPaddingBytes))
                       .get(document)) {
    return Malformed(error);
  }
  ondemand::json_type type;
  if (auto error = document.type().get(type)) return Malformed(error);
  if (type != ondemand::json_type::object) return Malformed("a tag is a JSON object");
  ondemand::object object;
  if (auto error = document.get_object().get(object)) return Malformed(error);
  absl::Status s = ReadObject(
      object, "", kNames, [&](int i, ondemand::value& value) { return ReadField(i, value, tag); });
  if (!s.ok()) return s;
  const char* rest = nullptr;
  if (!document.current_location().get(rest)) return Malformed("something follows the tag");
  return absl::OkStatus();
}

std::string_view ActionText(int action) {
  switch (action) {
    case v1::ACTION_VIEW:
      return "VIEW";
    case v1::ACTION_BUY:
      return "BUY";
    default:
      return "";
  }
}

}  // namespace allezon::gateway
