// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace allezon::rpc {

// `text` with every byte sequence that is not UTF-8 (overlong forms, surrogates and code points
// above U+10FFFF included) replaced by U+FFFD, one for each maximal invalid part, as the Unicode
// standard recommends. Thread-safe.
std::string ReplaceInvalidUtf8(std::string_view text);

// The longest prefix of `text` of at most `bytes_max` bytes that does not cut a code point.
std::string_view TruncateUtf8(std::string_view text, size_t bytes_max);

}  // namespace allezon::rpc
