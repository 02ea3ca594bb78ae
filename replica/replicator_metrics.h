// SPDX-License-Identifier: Apache-2.0
//
// The core's figures as gauges.
#pragma once

#include "replica/core/types.h"

namespace allezon::replica {

// Thread-safe.
void SetReplicatorMetrics(const CoreStats& stats);

}  // namespace allezon::replica
