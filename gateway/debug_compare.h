// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace allezon::gateway {

// Compares the answer that a client expects with the one it gets, as JSON: the order of an object's
// members, white space and ways of escaping do not matter. nullopt where they agree, else the first
// difference in a line of bounded length. `expected` may be anything. Thread-safe.
std::optional<std::string> Difference(std::string_view expected, std::string_view answer);

}  // namespace allezon::gateway
