// SPDX-License-Identifier: Apache-2.0
#include "rpc/process.h"

#include <grpc/support/log.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace allezon::rpc {
namespace {

// In a process of its own: signals that are blocked stay so.
TEST(ProcessDeathTest, WhatGrpcSaysIsALineOfTheLog) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        PrepareProcess();
        gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);  // as its start does
        gpr_log(GPR_ERROR, "a \"word\" %d", 7);
        _exit(0);
      },
      testing::ExitedWithCode(0),
      "^\\{\"time\":.*\"level\":\"error\".*\"message\":\"gRPC\",\"detail\":\"a \\\\\"word\\\\\" "
      "7\","
      "\"file\":\"process_test.cc\",\"line\":[0-9]+\\}\n$");
}

}  // namespace
}  // namespace allezon::rpc
