// SPDX-License-Identifier: Apache-2.0
//
// Stored tags as JSON, straight from their bytes: a profile has hundreds, and to make a message of
// each takes longer than to print it. Pure functions.
#pragma once

#include <string>
#include <string_view>

namespace allezon::gateway {

// Appends a serialised allezon.v1.Tag as one JSON object, with all fields of the API and no other.
// False where the bytes are none; then `out` may end with a part of it.
bool AppendTagJson(std::string_view serialised, std::string& out);

}  // namespace allezon::gateway
