// SPDX-License-Identifier: Apache-2.0
#include "rpc/signals.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <string>
#include <thread>

namespace allezon::rpc {
namespace {

// In a process of its own: signals that are blocked or ignored stay so.
class SignalsDeathTest : public testing::Test {
 protected:
  SignalsDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(SignalsDeathTest, TerminationReachesTheWaiterAndNoOtherThread) {
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) {
    EXPECT_EXIT(
        {
          BlockTerminationSignals();
          const std::jthread other([](std::stop_token stop) {
            while (!stop.stop_requested()) std::this_thread::yield();
          });
          kill(getpid(), number);
          _exit(WaitForTermination() == number ? 0 : 1);
        },
        testing::ExitedWithCode(0), "");
  }
}

TEST_F(SignalsDeathTest, WhatIsIgnoredAtTheStartIsNoEnd) {
  EXPECT_EXIT(
      {
        signal(SIGHUP, SIG_IGN);
        BlockTerminationSignals();
        kill(getpid(), SIGHUP);
        _exit(WaitForTermination(absl::Milliseconds(200)) ? 1 : 0);
      },
      testing::ExitedWithCode(0), "");
}

TEST_F(SignalsDeathTest, WritingToAClosedPipeDoesNotEndTheProcess) {
  EXPECT_EXIT(
      {
        BlockTerminationSignals();
        int channel[2];
        if (pipe(channel) != 0) _exit(1);
        close(channel[0]);
        _exit(write(channel[1], "x", 1) == -1 ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

// The program that AProgramThatStartsAnewKnowsIt starts.
TEST(StartAnewTest, DISABLED_Started) {
  _exit(WasStartedAnew() && std::string(getenv("ALLEZON_TEST_KEPT")) == "kept" ? 42 : 1);
}

void StartTheProgramAnew() {
  if (WasStartedAnew()) _exit(2);
  setenv("ALLEZON_TEST_KEPT", "kept", 1);
  std::string arguments[] = {"rpc_test", "--gtest_filter=StartAnewTest.DISABLED_Started",
                             "--gtest_also_run_disabled_tests"};
  char* argv[] = {arguments[0].data(), arguments[1].data(), arguments[2].data(), nullptr};
  (void)StartAnew(argv);
  _exit(3);
}

TEST_F(SignalsDeathTest, AProgramThatStartsAnewKnowsItAndKeepsItsEnvironment) {
  EXPECT_EXIT(StartTheProgramAnew(), testing::ExitedWithCode(42), "");
}

}  // namespace
}  // namespace allezon::rpc
