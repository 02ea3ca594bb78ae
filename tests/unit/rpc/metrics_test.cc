// SPDX-License-Identifier: Apache-2.0
#include "rpc/metrics.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "accept_errors.h"
#include "sockets.h"

namespace allezon::rpc {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<MetricsServer> StartServer() {
  auto server = MetricsServer::Start("127.0.0.1:0");
  EXPECT_TRUE(server.ok()) << server.status();
  return server.ok() ? *std::move(server) : nullptr;
}

TEST(MetricsTest, TheSameNameAndLabelsAreTheSameMetric) {
  EXPECT_EQ(&MakeCounter("allezon_a_total", "h"), &MakeCounter("allezon_a_total", "h"));
  EXPECT_EQ(&MakeGauge("allezon_a", "h", {{"x", "1"}}), &MakeGauge("allezon_a", "h", {{"x", "1"}}));
  EXPECT_NE(&MakeGauge("allezon_a", "h", {{"x", "1"}}), &MakeGauge("allezon_a", "h", {{"x", "2"}}));
  EXPECT_EQ(&MakeHistogram("allezon_a_seconds", "h", {}, LatencyBuckets()),
            &MakeHistogram("allezon_a_seconds", "h", {}, LatencyBuckets()));
}

TEST(MetricsTest, TheTextHoldsHelpTypeAndValues) {
  MakeCounter("allezon_text_total", "Texts.", {{"kind", "a\"b"}}).Increment(3);
  MakeHistogram("allezon_text_seconds", "Time.", {}, LatencyBuckets()).Observe(0.15);
  const std::string text = MetricsText();
  EXPECT_THAT(text,
              HasSubstr("# HELP allezon_text_total Texts.\n# TYPE allezon_text_total counter\n"
                        "allezon_text_total{kind=\"a\\\"b\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("allezon_text_seconds_bucket{le=\"0.1\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("allezon_text_seconds_bucket{le=\"0.2\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("allezon_text_seconds_bucket{le=\"+Inf\"} 1\n"));
}

TEST(MetricsTest, AHookSetsWhatIsScrapedWhileItLives) {
  prometheus::Gauge& gauge = MakeGauge("allezon_hooked", "What a hook sets.");
  double value = 1;
  {
    const ScrapeHook hook([&] { gauge.Set(value); });
    EXPECT_THAT(MetricsText(), HasSubstr("\nallezon_hooked 1\n"));
    value = 2;
    EXPECT_THAT(MetricsText(), HasSubstr("\nallezon_hooked 2\n"));
  }
  value = 3;
  EXPECT_THAT(MetricsText(), HasSubstr("\nallezon_hooked 2\n"));
}

TEST(MetricsTest, BucketBoundsRise) {
  for (const std::vector<double>* buckets : {&LatencyBuckets(), &SizeBuckets()}) {
    for (size_t i = 1; i < buckets->size(); ++i) EXPECT_LT((*buckets)[i - 1], (*buckets)[i]);
  }
  EXPECT_EQ(LatencyBuckets().front(), 1e-4);
  EXPECT_EQ(LatencyBuckets().back(), 60);
  EXPECT_EQ(SizeBuckets().front(), 1);
  EXPECT_EQ(SizeBuckets().back(), 10'000);
}

TEST(MetricsServerTest, AScrapeGetsWhatIsCountedNow) {
  prometheus::Counter& counter = MakeCounter("allezon_scraped_total", "Scrapes.");
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  ASSERT_GT(server->port(), 0);
  httplib::Client client("127.0.0.1", server->port());
  for (int i = 1; i <= 3; ++i) {
    counter.Increment();
    const auto response = client.Get("/metrics");
    ASSERT_TRUE(response);
    EXPECT_EQ(response->status, 200);
    EXPECT_EQ(response->get_header_value("Content-Type"),
              "text/plain; version=0.0.4; charset=utf-8");
    EXPECT_THAT(response->body, HasSubstr(absl::StrCat("\nallezon_scraped_total ", i, "\n")));
  }
}

TEST(MetricsServerTest, OtherPathsAreNotFound) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  httplib::Client client("127.0.0.1", server->port());
  EXPECT_EQ(client.Get("/")->status, 404);
  EXPECT_EQ(client.Get("/metrics/x")->status, 404);
}

TEST(MetricsServerTest, SilentClientsDoNotShutAScraperOut) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  std::vector<FileDescriptor> silent;
  for (int i = 0; i < 8; ++i) {
    silent.push_back(ConnectTo(server->port()));
    ASSERT_GE(silent.back().get(), 0);
  }
  httplib::Client client("127.0.0.1", server->port());
  client.set_read_timeout(30);
  EXPECT_EQ(client.Get("/metrics")->status, 200);
}

TEST(MetricsServerTest, AConnectionThatCannotBeAcceptedDoesNotEndIt) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  for (const int error : {EMFILE, ENFILE, ENOMEM, ECONNABORTED}) {
    FailNextAccept(error);
    httplib::Client client("127.0.0.1", server->port());
    const auto response = client.Get("/metrics");
    ASSERT_TRUE(response) << error;
    EXPECT_EQ(response->status, 200);
    EXPECT_TRUE(AcceptHasFailed());
  }
}

TEST(MetricsServerTest, ALongAnswerIsWhole) {
  const std::string help(200, 'h');
  for (int i = 0; i < 20'000; ++i) MakeGauge(absl::StrCat("allezon_long_", i), help).Set(1);
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  httplib::Client client("127.0.0.1", server->port());
  const auto response = client.Get("/metrics");
  ASSERT_TRUE(response);
  EXPECT_GT(response->body.size(), 5'000'000);
  EXPECT_THAT(response->body, HasSubstr("\nallezon_long_19999 1\n"));
}

TEST(MetricsServerTest, ABrokenRequestIsRefusedAndALateOneEnds) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  const auto answer = [&](const std::string& request) {
    const FileDescriptor fd = ConnectTo(server->port());
    EXPECT_EQ(send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL), request.size());
    std::string text;
    char part[4'096];
    for (ssize_t got = 0; (got = recv(fd.get(), part, sizeof part, 0)) > 0;) text.append(part, got);
    return text;
  };
  EXPECT_THAT(answer("GET /metrics HTTP/1.1\r\n\r\n"), HasSubstr("\r\nConnection: close\r\n"));
  EXPECT_THAT(answer("no request\r\n\r\n"), HasSubstr("HTTP/1.1 400"));
  EXPECT_EQ(answer("GET /metrics"), "");
}

// The library itself takes a body in chunks of any length.
TEST(MetricsServerTest, AnEndlessBodyEndsTheConnection) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  const FileDescriptor fd = ConnectTo(server->port());
  std::string request = "POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
  const std::string chunk = absl::StrCat("10000\r\n", std::string(0x10000, 'x'), "\r\n");
  constexpr size_t kSentMax = 64 << 20;
  size_t sent = 0;
  while (sent < kSentMax) {
    const ssize_t more = send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL);
    if (more < 0) break;
    sent += static_cast<size_t>(more);
    request = chunk;
  }
  EXPECT_LT(sent, kSentMax);
}

TEST(MetricsServerTest, ATakenPortIsUnavailable) {
  const auto server = StartServer();
  ASSERT_NE(server, nullptr);
  const auto second = MetricsServer::Start(absl::StrCat("127.0.0.1:", server->port()));
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("in use"));
}

TEST(MetricsServerTest, APortOfAnotherProcessIsNotShared) {
  const OtherProcessListener other;
  ASSERT_GT(other.port(), 0);
  EXPECT_EQ(MetricsServer::Start(absl::StrCat("127.0.0.1:", other.port())).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST(MetricsServerTest, ThePortIsFreeAgainAfterItsEnd) {
  auto server = StartServer();
  ASSERT_NE(server, nullptr);
  const std::string address = absl::StrCat("127.0.0.1:", server->port());
  ASSERT_TRUE(httplib::Client("127.0.0.1", server->port()).Get("/metrics"));
  server.reset();
  const auto again = MetricsServer::Start(address);
  EXPECT_TRUE(again.ok()) << again.status();
}

TEST(MetricsServerTest, BrokenAddressesAreRefused) {
  for (const char* address : {"", "127.0.0.1", ":0", "127.0.0.1:x", "127.0.0.1:65536"}) {
    EXPECT_EQ(MetricsServer::Start(address).status().code(), absl::StatusCode::kInvalidArgument)
        << address;
  }
}

}  // namespace
}  // namespace allezon::rpc
