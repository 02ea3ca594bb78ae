// SPDX-License-Identifier: Apache-2.0
#include "rpc/utf8.h"

#include <cstdint>

namespace allezon::rpc {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

uint8_t ByteAt(std::string_view text, size_t i) { return static_cast<uint8_t>(text[i]); }

bool IsContinuation(uint8_t byte) { return (byte & 0xC0) == 0x80; }

struct Sequence {
  size_t bytes;  // at least 1: of the code point, or of the maximal invalid part
  bool valid;
};

// The sequence that starts at `i`, by table 3-7 of the Unicode standard: the first byte gives the
// length and bounds the second byte, which is what rules out overlong forms and surrogates.
Sequence SequenceAt(std::string_view text, size_t i) {
  const uint8_t first = ByteAt(text, i);
  if (first < 0x80) return {1, true};
  if (first < 0xC2 || first > 0xF4) return {1, false};
  const size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  const uint8_t second_min = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const uint8_t second_max = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  if (i + 1 == text.size()) return {1, false};
  const uint8_t second = ByteAt(text, i + 1);
  if (second < second_min || second > second_max) return {1, false};
  for (size_t k = 2; k < length; ++k) {
    if (i + k == text.size() || !IsContinuation(ByteAt(text, i + k))) return {k, false};
  }
  return {length, true};
}

}  // namespace

std::string ReplaceInvalidUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Sequence sequence = SequenceAt(text, i);
    out += sequence.valid ? text.substr(i, sequence.bytes) : kReplacement;
    i += sequence.bytes;
  }
  return out;
}

std::string_view TruncateUtf8(std::string_view text, size_t bytes_max) {
  if (text.size() <= bytes_max) return text;
  size_t end = bytes_max;
  while (end > 0 && IsContinuation(ByteAt(text, end))) --end;
  return text.substr(0, end);
}

}  // namespace allezon::rpc
