// SPDX-License-Identifier: Apache-2.0
//
// The program against a platform in memory: it accepts one that is right, however it spells its
// answers, and finds each fault of one that is not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "simdjson.h"
#include "tests/unit/load/reference_server.h"

namespace allezon::load {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

struct Outcome {
  int exit_code = -1;
  std::string text;  // stdout and stderr
};

// A started program; Wait ends it.
class Program {
 public:
  explicit Program(std::vector<std::string> flags) {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    posix_spawn_file_actions_addclose(&actions, ends[1]);
    flags.insert(flags.begin(), ALLEZON_LOAD_PATH);
    std::vector<char*> argv;
    for (std::string& flag : flags) argv.push_back(flag.data());
    argv.push_back(nullptr);
    EXPECT_EQ(posix_spawn(&pid_, ALLEZON_LOAD_PATH, &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    out_ = ends[0];
  }

  pid_t pid() const { return pid_; }

  // Reads until `text` was printed, or the program has ended.
  void ReadUntil(const std::string& text) {
    char buffer[4096];
    while (outcome_.text.find(text) == std::string::npos) {
      const ssize_t got = read(out_, buffer, sizeof(buffer));
      if (got <= 0) return;
      outcome_.text.append(buffer, static_cast<size_t>(got));
    }
  }

  Outcome Wait() {
    ReadUntil("\x01");  // is never printed
    close(out_);
    int status = 0;
    waitpid(pid_, &status, 0);
    outcome_.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    return outcome_;
  }

 private:
  pid_t pid_ = -1;
  int out_ = -1;
  Outcome outcome_;
};

Outcome RunLoad(std::vector<std::string> flags) { return Program(std::move(flags)).Wait(); }

// Few cookies and 0.3 s of logical time a tag, so that within a second there are full histories,
// ties and whole minutes to ask for.
std::vector<std::string> Flags(const ReferenceServer& server,
                               const std::vector<std::string>& more = {}) {
  std::vector<std::string> flags = {"--targets=" + server.address(),
                                    "--tags=3000",
                                    "--rate=4000",
                                    "--connections=4",
                                    "--speedup=300",
                                    "--cookies=130",
                                    "--zipf=0.8",
                                    "--aggregate_every=50",
                                    "--profile_lag_s=0.05",
                                    "--aggregate_lag_s=0.05",
                                    "--timeout_ms=10000",  // a busy machine is not a fault
                                    "--final_check",
                                    "--start=2022-03-22T12:00:00",
                                    "--progress=false"};
  flags.insert(flags.end(), more.begin(), more.end());
  return flags;
}

TEST(LoadEndToEnd, AcceptsAPlatformThatIsRight) {
  ReferenceServer server(Fault::kNone);
  const Outcome outcome = RunLoad(Flags(server));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
  EXPECT_THAT(outcome.text, HasSubstr("3000 acknowledged, 0 uncertain"));
  EXPECT_EQ(server.tags(), 3000);
  EXPECT_GT(server.queries(), 300);
  // The expected answer travels along, but where a tie leaves more than one or the query is a GET.
  EXPECT_GT(server.expected_bodies(), server.queries() / 2);
}

TEST(LoadEndToEnd, AcceptsOtherSpellingsOfTheSameValues) {
  ReferenceServer server(Fault::kOtherSpelling);
  const Outcome outcome = RunLoad(Flags(server));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
}

TEST(LoadEndToEnd, AcceptsProfilesThatKeepOnlyTheNewest200) {
  ReferenceServer server(Fault::kCutTo200);
  const Outcome outcome = RunLoad(Flags(server, {"--cookies=5", "--zipf=0"}));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
}

TEST(LoadEndToEnd, AcceptsProfilesThatKeepMoreThan200) {
  ReferenceServer server(Fault::kNone);
  const Outcome outcome = RunLoad(Flags(server, {"--cookies=5", "--zipf=0"}));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
}

TEST(LoadEndToEnd, AcceptsConnectionsClosedAfterEachAnswer) {
  ReferenceServer server(Fault::kCloseAfterEach);
  const Outcome outcome = RunLoad(Flags(server, {"--tags=500"}));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
  EXPECT_THAT(outcome.text, Not(HasSubstr("connections: 4 opened")));
}

TEST(LoadEndToEnd, SendsBatches) {
  ReferenceServer server(Fault::kNone);
  const Outcome outcome = RunLoad(Flags(server, {"--batch=70", "--idempotency_keys"}));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
  EXPECT_EQ(server.tags(), 3000);
}

TEST(LoadEndToEnd, FollowsASchedule) {
  ReferenceServer server(Fault::kNone);
  const absl::Time start = absl::Now();
  const Outcome outcome = RunLoad(Flags(server, {"--rate=400", "--tags=400", "--progress"}));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
  EXPECT_THAT(outcome.text, HasSubstr(" 400 tags sent"));
  // The last one is due after 399/400 of a second; how much later it ends is the machine's affair.
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(997));
}

TEST(LoadEndToEnd, SpreadsOverGateways) {
  ReferenceServer a(Fault::kNone), b(Fault::kNone);
  const Outcome outcome =
      RunLoad(Flags(a, {"--targets=" + a.address() + "," + b.address(), "--tags=1000",
                        "--profile_every=0", "--aggregate_every=0", "--final_check=false"}));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
  EXPECT_EQ(a.tags() + b.tags(), 1000);
  EXPECT_GT(a.tags(), 300);
  EXPECT_GT(b.tags(), 300);
}

TEST(LoadEndToEnd, GoesAroundAGatewayThatRefusesConnections) {
  ReferenceServer alive(Fault::kNone);
  std::string dead;
  { dead = ReferenceServer(Fault::kNone).address(); }
  const Outcome outcome = RunLoad(Flags(alive, {"--targets=" + dead + "," + alive.address()}));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
  EXPECT_EQ(alive.tags(), 3000);
}

TEST(LoadEndToEnd, RetriesWithTheSameKeyUntilEachTagIsStoredOnce) {
  ReferenceServer server(Fault::kFailFirstTry);
  const Outcome outcome = RunLoad(Flags(server, {"--idempotency_keys", "--retry"}));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
  EXPECT_THAT(outcome.text, HasSubstr("retried: status 503"));
  EXPECT_EQ(server.tags(), 3000);
}

TEST(LoadEndToEnd, ARepeatedRunWithKeysAddsNothing) {
  ReferenceServer server(Fault::kNone);
  for (int i = 0; i < 2; ++i) {
    // Half of what is asked may be there from the first run already, which is as it must be; with
    // queries in the stream it could not be told from tags that came too early.
    const Outcome outcome =
        RunLoad(Flags(server, {"--idempotency_keys", "--profile_every=0", "--aggregate_every=0"}));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
    EXPECT_EQ(server.tags(), 3000);
  }
}

TEST(LoadEndToEnd, WritesTheReportAsJson) {
  ReferenceServer server(Fault::kFail500);
  const std::string path = testing::TempDir() + "load_report.json";
  const Outcome outcome = RunLoad(Flags(server, {"--json=" + path}));
  EXPECT_EQ(outcome.exit_code, 1);
  simdjson::dom::parser parser;
  simdjson::dom::element report;
  ASSERT_EQ(parser.load(path).get(report), simdjson::SUCCESS);
  EXPECT_EQ(report["tags_sent"].get_uint64().value(), 3000);
  EXPECT_EQ(report["tags_acknowledged"].get_uint64().value(), 2940);
  EXPECT_EQ(report["tags"]["failures"]["status 500"].get_uint64().value(), 60);
  EXPECT_EQ(report["failed"].get_uint64().value(), 60);
  EXPECT_EQ(report["wrong"].get_uint64().value(), 0);
  EXPECT_GT(report["tags"]["latency_us"]["p99"].get_uint64().value(), 0);
  EXPECT_EQ(report["settings"]["start"].get_string().value(), "2022-03-22T12:00:00.000");
  std::remove(path.c_str());
}

TEST(LoadEndToEnd, EndsEarlyOnASignalWithTheReport) {
  ReferenceServer server(Fault::kNone);
  Program program(Flags(server, {"--rate=200", "--tags=0", "--duration_s=1000", "--progress"}));
  program.ReadUntil("tags/s");
  kill(program.pid(), SIGTERM);
  const Outcome outcome = program.Wait();
  EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
  EXPECT_THAT(outcome.text, HasSubstr("ended early by a signal"));
}

TEST(LoadEndToEnd, FinishesOnASignalWithTheFinalCheckWhereToldTo) {
  ReferenceServer server(Fault::kNone);
  Program program(Flags(server, {"--rate=200", "--tags=0", "--duration_s=1000", "--progress",
                                 "--profile_every=0", "--finish_on_signal"}));
  program.ReadUntil("tags/s");
  kill(program.pid(), SIGTERM);
  const Outcome outcome = program.Wait();
  EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
  EXPECT_THAT(outcome.text, Not(HasSubstr("ended early by a signal")));
  // Profiles are asked for only by the final check.
  EXPECT_THAT(outcome.text, Not(HasSubstr("profiles: 0 answered")));
}

struct FaultCase {
  Fault fault;
  std::string expected;  // in the text
};

class LoadFindsWrongAnswers : public testing::TestWithParam<FaultCase> {};

// allow_failures never excuses a wrong answer.
TEST_P(LoadFindsWrongAnswers, AndExitsWith1) {
  ReferenceServer server(GetParam().fault);
  const Outcome outcome = RunLoad(Flags(server, {"--allow_failures"}));
  EXPECT_EQ(outcome.exit_code, 1) << outcome.text;
  EXPECT_THAT(outcome.text, HasSubstr("FAILED: 0 requests failed"));
  EXPECT_THAT(outcome.text, HasSubstr("wrong answers"));
  EXPECT_THAT(outcome.text, HasSubstr(GetParam().expected));
}

INSTANTIATE_TEST_SUITE_P(Faults, LoadFindsWrongAnswers,
                         testing::Values(FaultCase{Fault::kDropTag, "expected {"},
                                         FaultCase{Fault::kCountTwice, "count: "},
                                         FaultCase{Fault::kTwiceInProfile, "number "},
                                         FaultCase{Fault::kOldestFirst, "number 0 is"},
                                         FaultCase{Fault::kIgnoreLimit, "the limit is"},
                                         FaultCase{Fault::kProductIdText, "expected {"},
                                         FaultCase{Fault::kNoEmptyMinutes, " is not "},
                                         FaultCase{Fault::kNumbersNotText, "row of strings"}));

class LoadFindsFailures : public testing::TestWithParam<FaultCase> {};

// The tags that failed may be stored or not, and no answer is called wrong for either.
TEST_P(LoadFindsFailures, AndExitsWith1UnlessTheyAreAllowed) {
  const std::vector<std::string> more = {
      GetParam().fault == Fault::kSlow ? "--timeout_ms=200" : "--timeout_ms=10000",
      GetParam().fault == Fault::kRejectLine ? "--batch=50" : "--batch=1"};
  for (const bool allowed : {false, true}) {
    ReferenceServer server(GetParam().fault);
    std::vector<std::string> flags = Flags(server, more);
    flags.push_back(allowed ? "--allow_failures" : "--allow_failures=false");
    const Outcome outcome = RunLoad(flags);
    EXPECT_EQ(outcome.exit_code, allowed ? 0 : 1) << outcome.text;
    EXPECT_THAT(outcome.text, HasSubstr("0 answers were wrong"));
    EXPECT_THAT(outcome.text, HasSubstr(GetParam().expected));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Faults, LoadFindsFailures,
    testing::Values(FaultCase{Fault::kFail500, "failed: status 500: 60"},
                    FaultCase{Fault::kFailAfterStore, "failed: status 503: 60"},
                    FaultCase{Fault::kSlow, "failed: timeout: "},
                    FaultCase{Fault::kCloseUnanswered, "failed: "},
                    FaultCase{Fault::kRejectLine, "failed: lines rejected: 60"},
                    FaultCase{Fault::kBadQueryStatus, "failed: status 500: "}));

TEST(LoadFlags, WrongOnesEndWith2) {
  for (const std::vector<std::string>& flags :
       std::vector<std::vector<std::string>>{{"--no_such_flag"},
                                             {"--rate=fast"},
                                             {"--rate=-1"},
                                             {"--rate=nan"},
                                             {"--targets=nowhere"},
                                             {"--targets=127.0.0.1:1,"},
                                             {"--start=2022-02-30T00:00:00"},
                                             {"--start=yesterday"},
                                             {"--retry"},
                                             {"--batch=0"},
                                             {"--cookies=0"},
                                             {"--connections=0"},
                                             {"--speedup=0"},
                                             {"--json=/no/such/folder/report.json"}}) {
    const Outcome outcome = RunLoad(flags);
    EXPECT_EQ(outcome.exit_code, 2) << flags[0] << ": " << outcome.text;
    EXPECT_FALSE(outcome.text.empty()) << flags[0];
  }
}

TEST(LoadFlags, AnUnreachableGatewayEndsWith1AndSaysWhich) {
  std::string dead;
  { dead = ReferenceServer(Fault::kNone).address(); }
  const Outcome outcome = RunLoad({"--targets=" + dead});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.text, HasSubstr(dead + ": Connection refused"));
}

}  // namespace
}  // namespace allezon::load
