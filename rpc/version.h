// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace allezon::rpc {

// Of this program: "0.1.0".
std::string_view Version();

}  // namespace allezon::rpc
