// SPDX-License-Identifier: Apache-2.0
#include "gateway/json_text.h"

#include <simdjson.h>

#include <algorithm>
#include <charconv>

namespace allezon::gateway {
namespace {

// Powers of ten beyond which a number is either 0 or has no place in 64 bits, whatever its digits:
// a text has less than 2^32 of them.
constexpr int64_t kPowerMax = int64_t{1} << 40;
constexpr int64_t kDigitsMax = 19;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// A recursive descent over the grammar; recursion is bounded by kJsonDepthMax.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  bool Document() {
    Space();
    if (!Value(0)) return false;
    Space();
    return at_ == text_.size();
  }
  bool is_too_deep() const { return is_too_deep_; }

 private:
  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool Take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void Space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) {
      ++at_;
    }
  }
  bool Word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  bool HasRoom(int depth) {
    is_too_deep_ = depth == kJsonDepthMax;
    return !is_too_deep_;
  }
  bool Value(int depth) {
    switch (Peek()) {
      case '{':
        return HasRoom(depth) && Object(depth);
      case '[':
        return HasRoom(depth) && Array(depth);
      case '"':
        return String();
      case 't':
        return Word("true");
      case 'f':
        return Word("false");
      case 'n':
        return Word("null");
      default:
        return Number();
    }
  }

  bool Object(int depth) {
    Take('{');
    Space();
    if (Take('}')) return true;
    for (;;) {
      Space();
      if (!String()) return false;
      Space();
      if (!Take(':')) return false;
      Space();
      if (!Value(depth + 1)) return false;
      Space();
      if (Take('}')) return true;
      if (!Take(',')) return false;
    }
  }

  bool Array(int depth) {
    Take('[');
    Space();
    if (Take(']')) return true;
    for (;;) {
      Space();
      if (!Value(depth + 1)) return false;
      Space();
      if (Take(']')) return true;
      if (!Take(',')) return false;
    }
  }

  bool String() {
    if (!Take('"')) return false;
    while (at_ < text_.size()) {
      const unsigned char c = static_cast<unsigned char>(text_[at_++]);
      if (c == '"') return true;
      if (c < 0x20) return false;
      if (c == '\\' && !Escape()) return false;
    }
    return false;
  }

  bool Escape() {
    const char c = Peek();
    ++at_;
    if (c != 'u') return c != '\0' && std::string_view("\"\\/bfnrt").find(c) != std::string::npos;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char hex = Peek();
      if (!IsDigit(hex) && !(hex >= 'a' && hex <= 'f') && !(hex >= 'A' && hex <= 'F')) return false;
    }
    return true;
  }

  bool Digits() {
    if (!IsDigit(Peek())) return false;
    while (IsDigit(Peek())) ++at_;
    return true;
  }

  bool Number() {
    Take('-');
    if (!Take('0') && !Digits()) return false;
    if (Take('.') && !Digits()) return false;
    if (Take('e') || Take('E')) {
      if (!Take('+')) Take('-');
      return Digits();
    }
    return true;
  }

  const std::string_view text_;
  size_t at_ = 0;
  bool is_too_deep_ = false;
};

}  // namespace

void AppendJsonString(std::string_view utf8, std::string& out) {
  static constexpr char kHex[] = "0123456789abcdef";
  out.push_back('"');
  size_t copied = 0;
  for (size_t i = 0; i < utf8.size(); ++i) {
    const unsigned char c = static_cast<unsigned char>(utf8[i]);
    if (c >= 0x20 && c != '"' && c != '\\') continue;
    out.append(utf8, copied, i - copied);
    copied = i + 1;
    out.push_back('\\');
    switch (c) {
      case '"':
      case '\\':
        out.push_back(static_cast<char>(c));
        break;
      case '\n':
        out.push_back('n');
        break;
      case '\r':
        out.push_back('r');
        break;
      case '\t':
        out.push_back('t');
        break;
      default:
        out.append("u00");
        out.push_back(kHex[c >> 4]);
        out.push_back(kHex[c & 15]);
    }
  }
  out.append(utf8, copied, utf8.size() - copied);
  out.push_back('"');
}

void AppendJsonText(std::string_view text, std::string& out) {
  if (simdjson::validate_utf8(text.data(), text.size())) return AppendJsonString(text, out);
  std::string ascii(text);
  for (char& c : ascii) {
    if (static_cast<unsigned char>(c) >= 0x80) c = '?';
  }
  AppendJsonString(ascii, out);
}

bool IsJsonValue(std::string_view text) { return Scanner(text).Document(); }

bool IsTooDeepJson(std::string_view text) {
  Scanner scanner(text);
  return !scanner.Document() && scanner.is_too_deep();
}

std::optional<int64_t> ParseJsonInteger(std::string_view token) {
  if (token.empty() || !IsDigit(token.back()) || !IsJsonValue(token)) return std::nullopt;
  const bool is_negative = token.starts_with('-');
  if (is_negative) token.remove_prefix(1);
  if (token.empty() || !IsDigit(token[0])) return std::nullopt;
  // All digits, and the power of ten that they are to be multiplied with.
  std::string digits;
  int64_t power = 0;
  bool in_fraction = false;
  for (; !token.empty() && token[0] != 'e' && token[0] != 'E'; token.remove_prefix(1)) {
    if (token[0] == '.') {
      in_fraction = true;
      continue;
    }
    digits.push_back(token[0]);
    if (in_fraction) --power;
  }
  if (!token.empty()) {
    token.remove_prefix(token.size() > 1 && token[1] == '+' ? 2 : 1);
    int64_t exponent = 0;
    const auto read = std::from_chars(token.data(), token.data() + token.size(), exponent);
    if (read.ec != std::errc()) exponent = token.starts_with('-') ? -kPowerMax : kPowerMax;
    power += std::clamp(exponent, -kPowerMax, kPowerMax);
  }
  digits.erase(0, std::min(digits.find_first_not_of('0'), digits.size()));
  if (digits.empty()) return 0;
  while (power < 0 && digits.ends_with('0')) {
    digits.pop_back();
    ++power;
  }
  if (power < 0 || static_cast<int64_t>(digits.size()) + power > kDigitsMax) return std::nullopt;
  digits.append(static_cast<size_t>(power), '0');
  if (is_negative) digits.insert(digits.begin(), '-');
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc()) return std::nullopt;
  return value;
}

}  // namespace allezon::gateway
