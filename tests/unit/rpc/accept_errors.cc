// SPDX-License-Identifier: Apache-2.0
#include "accept_errors.h"

#include <sys/socket.h>
#include <sys/syscall.h>

#include <atomic>
#include <cerrno>

namespace allezon::rpc {
namespace {

std::atomic<int> next_error{0};

}  // namespace

void FailNextAccept(int error) { next_error.store(error); }
bool AcceptHasFailed() { return next_error.load() == 0; }

}  // namespace allezon::rpc

// In place of the C library's, for all that is linked to this program.
extern "C" int accept4(int fd, sockaddr* address, socklen_t* length, int flags) {
  if (const int error = allezon::rpc::next_error.exchange(0); error != 0) {
    errno = error;
    return -1;
  }
  return static_cast<int>(syscall(SYS_accept4, fd, address, length, flags));
}

extern "C" int accept(int fd, sockaddr* address, socklen_t* length) {
  return accept4(fd, address, length, 0);
}
