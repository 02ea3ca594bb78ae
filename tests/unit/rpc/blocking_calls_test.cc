// SPDX-License-Identifier: Apache-2.0
#include "rpc/blocking_calls.h"

#include <gtest/gtest.h>

namespace allezon::rpc {
namespace {

TEST(BlockingCallsTest, RunsWhatItTookAndRefusesTheRest) {
  absl::Mutex mutex;
  bool open = false;
  int ran = 0;
  int taken = 0;
  {
    BlockingCalls calls(1, 2);
    const auto call = [&] {
      absl::MutexLock lock(&mutex, absl::Condition(&open));
      ++ran;
    };
    // One at work at most, two in the queue.
    for (int i = 0; i < 10; ++i) taken += calls.Run(call);
    EXPECT_GE(taken, 2);
    EXPECT_LE(taken, 3);
    absl::MutexLock lock(&mutex);
    open = true;
  }
  EXPECT_EQ(ran, taken);
}

TEST(BlockingCallsTest, AfterStopNothingRuns) {
  int ran = 0;
  BlockingCalls calls(1, 2);
  EXPECT_TRUE(calls.Run([&] { ++ran; }));
  calls.Stop();
  EXPECT_EQ(ran, 1) << "what it had taken";
  EXPECT_FALSE(calls.Run([&] { ++ran; }));
  calls.Stop();
  EXPECT_EQ(ran, 1);
}

}  // namespace
}  // namespace allezon::rpc
