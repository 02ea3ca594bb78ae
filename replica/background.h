// SPDX-License-Identifier: Apache-2.0
//
// Threads whose work can wait, as compactions can.
#pragma once

namespace allezon::replica {

// From now on the calling thread takes the processor only for a tenth of what one that answers
// would get, where they want it at the same time: work that can wait must not make tags wait, and
// must not starve either. Cheap when called again.
void GiveWay();

}  // namespace allezon::replica
