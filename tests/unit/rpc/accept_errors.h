// SPDX-License-Identifier: Apache-2.0
//
// Makes accepting fail, in the whole test program.
#pragma once

#include <sys/resource.h>
#include <unistd.h>

namespace allezon::rpc {

// The next accept() or accept4() fails with this errno.
void FailNextAccept(int error);
// Whether that has happened.
bool AcceptHasFailed();

// UBSan asks by a pipe whether memory can be read: without descriptors every object looks wrong.
#ifdef __SANITIZE_ADDRESS__  // which goes with it here
inline constexpr bool kTableMayBeFull = false;
#else
inline constexpr bool kTableMayBeFull = true;
#endif

// All descriptors that this process may have are in use, as long as it lives.
// REQUIRES: kTableMayBeFull.
class FullTable {
 public:
  FullTable() {
    getrlimit(RLIMIT_NOFILE, &before_);
    // Nobody gets one from the lowest free one on.
    const int free = dup(0);
    close(free);
    rlimit full = before_;
    full.rlim_cur = static_cast<rlim_t>(free);
    setrlimit(RLIMIT_NOFILE, &full);
  }
  ~FullTable() { setrlimit(RLIMIT_NOFILE, &before_); }
  FullTable(const FullTable&) = delete;
  FullTable& operator=(const FullTable&) = delete;

 private:
  rlimit before_{};
};

}  // namespace allezon::rpc
