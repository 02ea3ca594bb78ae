// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "prometheus/counter.h"
#include "rpc/listener.h"

namespace allezon::rpc {

// Accepts connections on a thread of its own, from Start until Stop. While there is no descriptor
// or no memory for one it says so, in the log and in allezon_accept_failures_total, and tries again
// every 10 ms. The libraries' own loops do not go on: gRPC's ends for good where the process has no
// descriptor left, and cpp-httplib's where the machine has none.
class Acceptor {
 public:
  struct Options {
    std::string name;  // in the log and as a label of the metric
    // Both on the acceptor's thread. Gets the descriptor of each connection, which does not block,
    // and owns it.
    std::function<void(int fd)> take;
    // May end a connection where there is no room for one more.
    std::function<void()> make_room = [] {};
    // Whether Stop first takes who has begun to connect by then, which is a matter of milliseconds.
    // Who begins meanwhile is not refused at once, but a second later.
    bool takes_last = false;
  };

  // There is one listener at least, all of one port. kUnavailable: there is no descriptor for what
  // wakes the thread.
  static absl::StatusOr<std::unique_ptr<Acceptor>> Start(std::vector<Listener> listeners,
                                                         Options options);
  // Stops.
  ~Acceptor();

  int port() const { return port_; }
  // Closes the port; nothing is called any more once it has returned. Idempotent; not to be called
  // twice at a time.
  void Stop();

 private:
  Acceptor(std::vector<Listener> listeners, Options options, int wake_fd);
  void Run();
  void TakeLast();
  // Take one of each listener, or of this one; false where nobody waits, or nobody can be taken.
  bool TakeSome();
  bool TakeOne(const Listener& listener);
  void NoRoom(int error);
  void RoomAgain();
  // Until somebody waits, for so long at most (-1: for ever), or until Stop where that is asked.
  void AwaitNext(int timeout_ms, bool or_stop);

  const Options options_;
  std::vector<Listener> listeners_;
  const int port_;
  const int wake_fd_;  // readable once the thread is to look at `stopping_`
  prometheus::Counter& failures_;
  std::atomic<bool> stopping_{false};
  // The thread's: times that there was no room, since it was last said that there is some again;
  // when it said that there is none, and whether that is the last word.
  uint64_t failed_ = 0;
  std::optional<std::chrono::steady_clock::time_point> logged_;
  bool said_ = false;
  std::thread thread_;
};

}  // namespace allezon::rpc
