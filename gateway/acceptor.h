// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>

#include "gateway/listener.h"

namespace allezon::gateway {

// Accepts connections on a thread of its own, from when it is made until Stop.
class Acceptor {
 public:
  // Owns the listener. On the acceptor's thread: `take` gets the descriptor of each connection,
  // which does not block, and owns it; `make_room` may end one where the process has no descriptor
  // left.
  Acceptor(Listener listener, std::function<void(int fd)> take, std::function<void()> make_room);
  // Stops.
  ~Acceptor();

  int port() const { return listener_.port; }
  // Takes who has begun to connect by now, which is a matter of milliseconds, and closes the port.
  // Nothing is called any more once it has returned. Idempotent; not to be called twice at a time.
  void Stop();

 private:
  void Run();
  // Takes one; false where nobody waits, or nobody can be taken.
  bool TakeOne();

  const Listener listener_;
  const std::function<void(int fd)> take_;
  const std::function<void()> make_room_;
  const int wake_fd_;  // readable once the thread is to look at `stopping_`
  std::atomic<bool> stopping_{false};
  int64_t logged_s_ = 0;  // the thread's
  std::thread thread_;
};

}  // namespace allezon::gateway
