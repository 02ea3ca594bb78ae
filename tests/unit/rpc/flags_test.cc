// SPDX-License-Identifier: Apache-2.0
#include "rpc/flags.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace allezon::rpc {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

struct Outcome {
  int exit_code = -1;
  std::string out;
  std::string err;
};

std::string ReadAll(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// Runs the program of flags_program.cc with just these arguments and this environment.
Outcome RunProgram(std::vector<std::string> arguments, std::vector<std::string> environment = {}) {
  std::string folder = testing::TempDir() + "/flags_XXXXXX";
  EXPECT_NE(mkdtemp(folder.data()), nullptr);
  const std::string out = folder + "/out";
  const std::string err = folder + "/err";
  arguments.insert(arguments.begin(), ALLEZON_FLAGS_PROGRAM);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::vector<char*> envp;
  for (std::string& entry : environment) envp.push_back(entry.data());
  envp.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), O_CREAT | O_WRONLY, 0600);
  posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), O_CREAT | O_WRONLY, 0600);
  pid_t pid = 0;
  const int error = posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  EXPECT_EQ(error, 0);
  int wait_status = 0;
  EXPECT_EQ(waitpid(pid, &wait_status, 0), pid);
  Outcome outcome{WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : -1, ReadAll(out),
                  ReadAll(err)};
  unlink(out.c_str());
  unlink(err.c_str());
  rmdir(folder.c_str());
  return outcome;
}

void ExpectRefused(const std::vector<std::string>& arguments,
                   const std::vector<std::string>& environment, const std::string& message) {
  const Outcome outcome = RunProgram(arguments, environment);
  EXPECT_EQ(outcome.exit_code, 2) << message;
  EXPECT_THAT(outcome.out, IsEmpty());
  EXPECT_THAT(outcome.err, AllOf(HasSubstr(message), HasSubstr("--help")));
}

TEST(FlagsTest, DefaultsHoldWhereNothingIsGiven) {
  const Outcome outcome = RunProgram({});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out,
            "listen=127.0.0.1:0\nshards=128\noffset=0\nverbose=0\ncompress=1\nshare=0.5\n");
}

TEST(FlagsTest, TheCommandLineSetsFlagsInEveryForm) {
  const Outcome outcome = RunProgram({"--listen=h:1=2", "--shards", "7", "--offset", "-3",
                                      "-verbose", "--nocompress", "--share=1e-3"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "listen=h:1=2\nshards=7\noffset=-3\nverbose=1\ncompress=0\nshare=0.001\n");
}

TEST(FlagsTest, AnEmptyValueIsAValue) {
  EXPECT_THAT(RunProgram({"--listen="}).out, HasSubstr("listen=\n"));
  EXPECT_THAT(RunProgram({"--listen", ""}).out, HasSubstr("listen=\n"));
  ExpectRefused({""}, {}, "unexpected argument: ");
}

TEST(FlagsTest, TheLastOfTwoWins) {
  EXPECT_THAT(RunProgram({"--shards=1", "--shards=2"}).out, HasSubstr("shards=2\n"));
}

TEST(FlagsTest, TheEnvironmentSetsFlagsAndTheCommandLineWins) {
  const std::vector<std::string> environment = {"ALLEZON_LISTEN=env:1", "ALLEZON_SHARDS=64",
                                                "ALLEZON_VERBOSE=true"};
  const Outcome outcome = RunProgram({"--shards=32"}, environment);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("listen=env:1\n"), HasSubstr("shards=32\n"),
                                 HasSubstr("verbose=1\n")));
}

TEST(FlagsTest, OtherNamesInTheEnvironmentAreIgnored) {
  const Outcome outcome =
      RunProgram({}, {"LISTEN=x", "listen=x", "ALLEZON_NO_SUCH=x", "ALLEZON_listen=x",
                      "ALLEZON_FLAGFILE=/nowhere", "ALLEZON_UNDEFOK=x"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("listen=127.0.0.1:0\n"));
}

TEST(FlagsTest, HelpNamesEveryOwnFlagWithItsDefaultAndEndsWithZero) {
  for (const char* help : {"--help", "-help", "-h"}) {
    const Outcome outcome = RunProgram({"--shards=9", help}, {"ALLEZON_SHARDS=8"});
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_THAT(outcome.err, IsEmpty());
    EXPECT_THAT(outcome.out, testing::StartsWith("A process with flags.\n"));
    EXPECT_THAT(outcome.out, AllOf(HasSubstr("--listen\n"), HasSubstr("\"127.0.0.1:0\""),
                                   HasSubstr("--shards\n"), HasSubstr("number of shards"),
                                   HasSubstr("default: 128\n"), HasSubstr("ALLEZON_")));
    EXPECT_THAT(outcome.out, AllOf(Not(HasSubstr("flagfile")), Not(HasSubstr("fromenv")),
                                   Not(HasSubstr("undefok"))));
  }
}

TEST(FlagsTest, VersionNamesTheProgramAndItsVersionAndEndsWithZero) {
  for (const char* version : {"--version", "-version"}) {
    const Outcome outcome = RunProgram({"--shards=9", version});
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_THAT(outcome.err, IsEmpty());
    EXPECT_EQ(outcome.out, "rpc_flags_program " ALLEZON_VERSION "\n");
  }
  EXPECT_THAT(RunProgram({"--version", "--help"}).out, testing::StartsWith("A process"));
}

TEST(FlagsTest, WhatIsNoFlagIsRefused) {
  ExpectRefused({"--no_such=1"}, {}, "unknown flag: --no_such");
  ExpectRefused({"--flagfile=x"}, {}, "unknown flag: --flagfile");
  ExpectRefused({"--undefok=no_such", "--no_such"}, {}, "unknown flag: --undefok");
  ExpectRefused({"--="}, {}, "unknown flag: --");
  ExpectRefused({"positional"}, {}, "unexpected argument: positional");
  ExpectRefused({"--shards=1", "--", "rest"}, {}, "unexpected argument: --");
  ExpectRefused({"-"}, {}, "unexpected argument: -");
  ExpectRefused({"--noshards"}, {}, "unknown flag: --noshards");
  ExpectRefused({"--noverbose=true"}, {}, "unknown flag: --noverbose");
  ExpectRefused({"--verbose", "false"}, {}, "unexpected argument: false");
}

TEST(FlagsTest, AValueThatDoesNotParseIsRefused) {
  ExpectRefused({"--shards=many"}, {}, "--shards: 'many'");
  ExpectRefused({"--shards="}, {}, "--shards: ''");
  ExpectRefused({"--shards=-1"}, {}, "--shards: '-1'");
  ExpectRefused({"--shards=4294967296"}, {}, "--shards: '4294967296'");
  ExpectRefused({"--verbose=perhaps"}, {}, "--verbose: 'perhaps'");
  ExpectRefused({}, {"ALLEZON_SHARDS=many"}, "ALLEZON_SHARDS: 'many'");
  ExpectRefused({"--shards=1"}, {"ALLEZON_SHARDS="}, "ALLEZON_SHARDS: ''");
}

TEST(FlagsTest, AMissingValueIsRefusedAndEatsNoOtherFlag) {
  ExpectRefused({"--shards"}, {}, "flag without a value: --shards");
  ExpectRefused({"--listen", "--shards=1"}, {}, "flag without a value: --listen");
}

TEST(FlagsTest, EverythingThatIsWrongIsSaidAtOnce) {
  const Outcome outcome = RunProgram({"--no_such", "extra", "--shards=x"});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err,
              AllOf(HasSubstr("--no_such"), HasSubstr("extra"), HasSubstr("--shards: 'x'")));
}

}  // namespace
}  // namespace allezon::rpc
