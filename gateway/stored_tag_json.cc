// SPDX-License-Identifier: Apache-2.0
#include "gateway/stored_tag_json.h"

#include <google/protobuf/io/coded_stream.h>

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "allezon/v1/tag.pb.h"
#include "gateway/json_text.h"
#include "gateway/tag_json.h"
#include "gateway/time_text.h"

namespace allezon::gateway {
namespace {

using google::protobuf::io::CodedInputStream;

// A tag whose strings are where they were stored. What is absent has its default, as in a message.
struct TagFields {
  int64_t time_ms = 0;
  std::string_view cookie;
  std::string_view country;
  int device = 0;
  int action = 0;
  std::string_view origin;
  bool has_product_number = false;
  int64_t product_number = 0;
  std::string_view product_text;
  std::string_view brand_id;
  std::string_view category_id;
  int32_t price = 0;
};

// The wire format: https://protobuf.dev/programming-guides/encoding
enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
constexpr int kWireTypeBits = 3;

constexpr uint32_t Key(int field, WireType type) {
  return static_cast<uint32_t>(field) << kWireTypeBits | type;
}

bool Skip(CodedInputStream& in, uint32_t key) {
  uint64_t number = 0;
  uint32_t bytes = 0;
  switch (key & ((1u << kWireTypeBits) - 1)) {
    case kVarint:
      return in.ReadVarint64(&number);
    case kFixed64:
      return in.Skip(8);
    case kBytes:
      return in.ReadVarint32(&bytes) && bytes <= INT32_MAX && in.Skip(static_cast<int>(bytes));
    case kFixed32:
      return in.Skip(4);
    default:
      return false;
  }
}

template <typename Number>
bool ReadNumber(CodedInputStream& in, Number& number) {
  uint64_t read = 0;
  if (!in.ReadVarint64(&read)) return false;
  number = static_cast<Number>(read);
  return true;
}

bool ReadText(CodedInputStream& in, std::string_view& text) {
  uint32_t bytes = 0;
  if (!in.ReadVarint32(&bytes)) return false;
  const void* at = nullptr;
  int available = 0;
  in.GetDirectBufferPointerInline(&at, &available);
  if (bytes > static_cast<uint32_t>(available)) return false;
  text = {static_cast<const char*>(at), bytes};
  return in.Skip(static_cast<int>(bytes));
}

// Calls `read_field(key)` for each field until the message ends.
template <typename ReadField>
bool ReadFields(CodedInputStream& in, ReadField read_field) {
  while (const uint32_t key = in.ReadTag()) {
    if (!read_field(key)) return false;
  }
  return in.ConsumedEntireMessage();
}

template <typename ReadField>
bool ReadMessage(CodedInputStream& in, ReadField read_field) {
  int bytes = 0;
  if (!in.ReadVarintSizeAsInt(&bytes) || bytes > in.BytesUntilLimit()) return false;
  const CodedInputStream::Limit outer = in.PushLimit(bytes);
  const bool read = ReadFields(in, read_field);
  in.PopLimit(outer);
  return read;
}

bool ReadProductId(CodedInputStream& in, TagFields& tag) {
  return ReadMessage(in, [&](uint32_t key) {
    switch (key) {
      case Key(v1::ProductId::kTextFieldNumber, kBytes):
        tag.has_product_number = false;
        return ReadText(in, tag.product_text);
      case Key(v1::ProductId::kNumberFieldNumber, kVarint):
        tag.has_product_number = true;
        return ReadNumber(in, tag.product_number);
      default:
        return Skip(in, key);
    }
  });
}

bool ReadProduct(CodedInputStream& in, TagFields& tag) {
  return ReadMessage(in, [&](uint32_t key) {
    switch (key) {
      case Key(v1::ProductInfo::kProductIdFieldNumber, kBytes):
        return ReadProductId(in, tag);
      case Key(v1::ProductInfo::kBrandIdFieldNumber, kBytes):
        return ReadText(in, tag.brand_id);
      case Key(v1::ProductInfo::kCategoryIdFieldNumber, kBytes):
        return ReadText(in, tag.category_id);
      case Key(v1::ProductInfo::kPriceFieldNumber, kVarint): {
        uint32_t zigzag = 0;
        if (!ReadNumber(in, zigzag)) return false;
        tag.price = static_cast<int32_t>((zigzag >> 1) ^ (0 - (zigzag & 1)));
        return true;
      }
      default:
        return Skip(in, key);
    }
  });
}

bool Read(std::string_view serialised, TagFields& tag) {
  CodedInputStream in(reinterpret_cast<const uint8_t*>(serialised.data()),
                      static_cast<int>(serialised.size()));
  return ReadFields(in, [&](uint32_t key) {
    switch (key) {
      case Key(v1::Tag::kTimeMsFieldNumber, kVarint):
        return ReadNumber(in, tag.time_ms);
      case Key(v1::Tag::kCookieFieldNumber, kBytes):
        return ReadText(in, tag.cookie);
      case Key(v1::Tag::kCountryFieldNumber, kBytes):
        return ReadText(in, tag.country);
      case Key(v1::Tag::kDeviceFieldNumber, kVarint):
        return ReadNumber(in, tag.device);
      case Key(v1::Tag::kActionFieldNumber, kVarint):
        return ReadNumber(in, tag.action);
      case Key(v1::Tag::kOriginFieldNumber, kBytes):
        return ReadText(in, tag.origin);
      case Key(v1::Tag::kProductInfoFieldNumber, kBytes):
        return ReadProduct(in, tag);
      default:
        return Skip(in, key);
    }
  });
}

std::string_view DeviceText(int device) {
  switch (device) {
    case v1::DEVICE_PC:
      return "PC";
    case v1::DEVICE_MOBILE:
      return "MOBILE";
    case v1::DEVICE_TV:
      return "TV";
    default:
      return "";
  }
}

}  // namespace

bool AppendTagJson(std::string_view serialised, std::string& out) {
  TagFields tag;
  if (!Read(serialised, tag)) return false;
  out.append("{\"time\":\"");
  AppendTagTime(tag.time_ms, out);
  out.append("\",\"cookie\":");
  AppendJsonString(tag.cookie, out);
  out.append(",\"country\":");
  AppendJsonString(tag.country, out);
  out.append(",\"device\":\"");
  out.append(DeviceText(tag.device));
  out.append("\",\"action\":\"");
  out.append(ActionText(tag.action));
  out.append("\",\"origin\":");
  AppendJsonString(tag.origin, out);
  out.append(",\"product_info\":{\"product_id\":");
  if (tag.has_product_number) {
    absl::StrAppend(&out, tag.product_number);
  } else {
    AppendJsonString(tag.product_text, out);
  }
  out.append(",\"brand_id\":");
  AppendJsonString(tag.brand_id, out);
  out.append(",\"category_id\":");
  AppendJsonString(tag.category_id, out);
  out.append(",\"price\":");
  absl::StrAppend(&out, tag.price);
  out.append("}}");
  return true;
}

}  // namespace allezon::gateway
