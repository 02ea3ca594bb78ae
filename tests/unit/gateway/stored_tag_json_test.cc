// SPDX-License-Identifier: Apache-2.0
#include "gateway/stored_tag_json.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <optional>

#include "allezon/v1/tag.pb.h"

namespace allezon::gateway {
namespace {

std::optional<std::string> Print(const std::string& stored) {
  std::string out;
  if (!AppendTagJson(stored, out)) return std::nullopt;
  return out;
}

v1::Tag FullTag() {
  v1::Tag tag;
  tag.set_time_ms(1'647'951'300'007);
  tag.set_cookie("a \"quoted\" zażółć");
  tag.set_country(std::string(200, 'P'));  // a length of two bytes
  tag.set_device(v1::DEVICE_TV);
  tag.set_action(v1::ACTION_BUY);
  tag.set_origin("campaign");
  v1::ProductInfo& product = *tag.mutable_product_info();
  product.mutable_product_id()->set_number(-7);
  product.set_brand_id("Nike");
  product.set_category_id("shoes");
  product.set_price(-1299);
  return tag;
}

const std::string& FullText() {
  static const std::string text =
      R"({"time":"2022-03-22T12:15:00.007Z","cookie":"a \"quoted\" zażółć","country":")" +
      std::string(200, 'P') +
      R"(","device":"TV","action":"BUY","origin":"campaign","product_info":{"product_id":-7,)"
      R"("brand_id":"Nike","category_id":"shoes","price":-1299}})";
  return text;
}

TEST(StoredTagJsonTest, EveryFieldIsPrinted) {
  EXPECT_EQ(Print(FullTag().SerializeAsString()), FullText());
}

TEST(StoredTagJsonTest, WhatIsAbsentHasItsDefault) {
  EXPECT_EQ(Print(""), R"({"time":"1970-01-01T00:00:00.000Z","cookie":"","country":"","device":"",)"
                       R"("action":"","origin":"","product_info":{"product_id":"","brand_id":"",)"
                       R"("category_id":"","price":0}})");
}

TEST(StoredTagJsonTest, NumbersHaveTheirWholeRange) {
  for (const int32_t price :
       {0, 1, -1, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()}) {
    v1::Tag tag;
    tag.mutable_product_info()->set_price(price);
    EXPECT_TRUE(
        Print(tag.SerializeAsString())->ends_with("\"price\":" + std::to_string(price) + "}}"));
  }
  for (const int64_t id :
       {std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()}) {
    v1::Tag tag;
    tag.mutable_product_info()->mutable_product_id()->set_number(id);
    EXPECT_NE(Print(tag.SerializeAsString())->find("\"product_id\":" + std::to_string(id) + ","),
              std::string::npos);
  }
}

TEST(StoredTagJsonTest, ATextIdIsNoNumber) {
  v1::Tag tag;
  tag.mutable_product_info()->mutable_product_id()->set_text("7");
  EXPECT_NE(Print(tag.SerializeAsString())->find(R"("product_id":"7",)"), std::string::npos);
}

// As a node with a newer version may store them.
TEST(StoredTagJsonTest, FieldsOfALaterVersionArePassedOver) {
  const std::string later = std::string("\xa0\x06\x05", 3) +           // field 100, a number
                            std::string("\xa1\x06", 2) + "12345678" +  // 8 bytes
                            std::string("\xa2\x06\x03", 3) + "abc" +   // 3 bytes
                            std::string("\xa5\x06", 2) + "1234";       // 4 bytes
  EXPECT_EQ(Print(later + FullTag().SerializeAsString() + later), FullText());
  v1::Tag tag = FullTag();
  std::string product = tag.product_info().SerializeAsString() + later;
  tag.clear_product_info();
  EXPECT_EQ(Print(tag.SerializeAsString() + "\x3a" + static_cast<char>(product.size()) + product),
            FullText());
}

// Protobuf itself says what is a message and what is none.
TEST(StoredTagJsonTest, WhatIsNoMessageIsRefused) {
  const std::string stored = FullTag().SerializeAsString();
  for (size_t bytes = 0; bytes <= stored.size(); ++bytes) {
    const std::string cut = stored.substr(0, bytes);
    EXPECT_EQ(Print(cut).has_value(), v1::Tag().ParseFromString(cut)) << bytes;
  }
  int refused = 0;
  for (size_t at = 0; at < stored.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = stored;
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << bit));
      const bool printed = Print(flipped).has_value();
      if (!printed) ++refused;
      // It also refuses text that is no UTF-8, which no node has stored.
      EXPECT_TRUE(printed || !v1::Tag().ParseFromString(flipped)) << at << " " << bit;
    }
  }
  EXPECT_GT(refused, 20);
}

}  // namespace
}  // namespace allezon::gateway
