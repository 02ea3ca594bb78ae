// SPDX-License-Identifier: Apache-2.0
#include "rpc/version.h"

namespace allezon::rpc {

std::string_view Version() { return ALLEZON_VERSION; }

}  // namespace allezon::rpc
