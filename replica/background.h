// SPDX-License-Identifier: Apache-2.0
//
// Threads whose work can wait, as compactions and what a sync reads can.
#pragma once

namespace allezon::replica {

// How much of the processor a thread gets where one that answers wants it at the same time: work in
// the background must not make tags wait, and must not starve either.
enum class Share {
  kTenth,
  kThird,  // for what tags wait for in the end
};

// Gives the calling thread that share from now on. Cheap when called again.
void GiveWay(Share share);

}  // namespace allezon::replica
