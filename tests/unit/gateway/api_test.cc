// SPDX-License-Identifier: Apache-2.0
#include "gateway/api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "gateway/tag_json.h"
#include "rpc/metrics.h"
#include "rpc/status.h"
#include "tests/unit/gateway/testing.h"

namespace allezon::gateway {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class ApiTest : public ::testing::Test {
 protected:
  Response Call(std::string_view method, const std::string& target, std::string_view body = "",
                const std::vector<std::string>& keys = {}, std::string_view type = "") {
    const Plan plan = Api::PlanOf(method, target, type);
    const Padded padded(body);
    return HandleAndWait(api_, plan, keys, padded.text());
  }
  Response Post(std::string_view body, const std::vector<std::string>& keys = {}) {
    return Call("POST", "/user_tags", body, keys);
  }
  Response Batch(std::string_view body, const std::vector<std::string>& keys = {}) {
    return Call("POST", "/user_tags", body, keys, "application/x-ndjson");
  }
  static std::string RetryAfter(const Response& response) {
    for (const auto& [name, value] : response.headers) {
      if (name == "Retry-After") return value;
    }
    return "";
  }
  static ApiOptions Options() {
    ApiOptions options;
    options.intake.tag_timeout = absl::Milliseconds(300);
    options.intake.batch_timeout = absl::Milliseconds(300);
    return options;
  }

  FakeServices services_;
  Api api_{services_.backends(), Options()};
};

TEST_F(ApiTest, ATagGoesToBothServicesAsOneEvent) {
  EXPECT_EQ(Post(kTagJson).status, 204);
  const auto profile = services_.profile_writer.events();
  const auto aggregate = services_.aggregate_writer.events();
  ASSERT_EQ(profile.size(), 1u);
  EXPECT_EQ(profile, aggregate);
  EXPECT_EQ(profile[0]->shard, router::ShardOf("c1", router::kShardsDefault));
  EXPECT_EQ(profile[0]->time_ms, 1'647'951'300'000);
  v1::Tag tag;
  ASSERT_TRUE(tag.ParseFromString(profile[0]->tag));
  EXPECT_EQ(tag.cookie(), "c1");
}

TEST_F(ApiTest, AKeyMakesTheEventsId) {
  EXPECT_EQ(Post(kTagJson, {"k"}).status, 204);
  EXPECT_EQ(Post(kTagJson, {"k"}).status, 204);
  EXPECT_EQ(Post(kTagJson).status, 204);
  const auto events = services_.profile_writer.events();
  EXPECT_EQ(events[0]->id, router::KeyedEventId("k", "c1"));
  EXPECT_EQ(events[0]->id, events[1]->id);
  EXPECT_NE(events[0]->id, events[2]->id);
}

TEST_F(ApiTest, BadKeysAreRefused) {
  for (const std::vector<std::string>& keys : std::vector<std::vector<std::string>>{
           {""}, {"a b"}, {"\x7f"}, {"\xc4\x85"}, {std::string(129, 'k')}, {"a", "a"}}) {
    for (const Response& response : {Post(kTagJson, keys), Batch(kTagJson, keys)}) {
      EXPECT_EQ(response.status, 400);
      EXPECT_THAT(response.body, HasSubstr("\"field\":\"Idempotency-Key\""));
    }
  }
  EXPECT_TRUE(services_.profile_writer.events().empty());
  EXPECT_EQ(Post(kTagJson, {std::string(128, '~')}).status, 204);
}

TEST_F(ApiTest, ABadTagReachesNoService) {
  const Response response = Post(Replaced(kTagJson, "1299", "\"12\""));
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(response.content_type, "application/problem+json");
  EXPECT_THAT(response.body, HasSubstr("\"field\":\"product_info.price\""));
  EXPECT_THAT(response.body, HasSubstr("\"detail\":\"product_info.price must be an integer"));
  EXPECT_TRUE(services_.profile_writer.events().empty());
}

TEST_F(ApiTest, ATagTooFarInTheFutureIsRefused) {
  const absl::Time now = absl::FromUnixMillis(1'647'951'300'000);
  ApiOptions options = Options();
  options.intake.clock = [&] { return now - absl::Hours(24); };
  Api at_bound(services_.backends(), options);
  options.intake.clock = [&] { return now - absl::Hours(24) - absl::Milliseconds(1); };
  Api beyond(services_.backends(), options);
  const Padded body(kTagJson);
  const Plan plan = Api::PlanOf("POST", "/user_tags", "");
  EXPECT_EQ(HandleAndWait(at_bound, plan, {}, body.text()).status, 204);
  const Response response = HandleAndWait(beyond, plan, {}, body.text());
  EXPECT_EQ(response.status, 400);
  EXPECT_THAT(response.body, HasSubstr("\"field\":\"time\""));
}

TEST_F(ApiTest, EveryWriteErrorHasItsStatus) {
  struct Case {
    absl::Status status;
    int http;
    const char* retry_after;
  };
  const Case kCases[] = {
      {absl::ResourceExhaustedError("full"), 429, "1"},
      {rpc::WithRetryDelay(absl::ResourceExhaustedError("full"), absl::Milliseconds(1500)), 429,
       "2"},
      {absl::UnavailableError("no replica"), 503, "1"},
      {absl::DeadlineExceededError("late"), 504, ""},
      {absl::InvalidArgumentError("odd"), 500, ""},
      {absl::InternalError("odd"), 500, ""},
      {absl::DataLossError("odd"), 500, ""},
  };
  for (FakeWriter* writer : {&services_.profile_writer, &services_.aggregate_writer}) {
    for (const Case& c : kCases) {
      writer->SetOutcome([&](const router::Event&) { return c.status; });
      Response response = Post(kTagJson);
      EXPECT_EQ(response.status, c.http) << c.status;
      EXPECT_EQ(RetryAfter(response), c.retry_after) << c.status;
      EXPECT_THAT(response.body, HasSubstr("\"retry_safe\":false"));
      response = Post(kTagJson, {"k"});
      EXPECT_EQ(response.status, c.http);
      EXPECT_THAT(response.body, HasSubstr("\"retry_safe\":true"));
    }
    writer->SetOutcome(nullptr);
  }
}

TEST_F(ApiTest, ATagIsAcknowledgedOnceBothServicesHaveIt) {
  services_.profile_writer.Hold();
  services_.aggregate_writer.Hold();
  std::vector<int> told;
  const Padded body(kTagJson);
  api_.Handle(Api::PlanOf("POST", "/user_tags", ""), {}, body.text(),
              [&](const Response& response) { told.push_back(response.status); });
  EXPECT_THAT(told, IsEmpty());
  services_.aggregate_writer.Release(absl::OkStatus());
  EXPECT_THAT(told, IsEmpty());
  services_.profile_writer.Release(absl::OkStatus());
  EXPECT_THAT(told, ElementsAre(204));
}

TEST_F(ApiTest, ATagIsAnsweredWithTheOutcomeThatPromisesLess) {
  services_.profile_writer.SetOutcome(
      [](const router::Event&) { return absl::UnavailableError("x"); });
  services_.aggregate_writer.SetOutcome(
      [](const router::Event&) { return absl::DeadlineExceededError("x"); });
  EXPECT_EQ(Post(kTagJson).status, 504);
}

TEST_F(ApiTest, ABatchStoresTheGoodLinesAndNamesTheBad) {
  const std::string body = absl::StrCat(kTagJson, "\n\n", "not json\r\n  \r\n", kTagJson, "\r\n",
                                        Replaced(kTagJson, "\"PC\"", "7"), "\n", kTagJson);
  const Response response = Batch(body, {"key"});
  EXPECT_EQ(response.status, 200);
  EXPECT_THAT(response.body, ::testing::StartsWith(R"({"accepted":3,"rejected":[{"line":3,)"));
  EXPECT_THAT(response.body, HasSubstr(R"({"line":6,"detail":"device must be a string")"));
  const auto events = services_.profile_writer.events();
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0]->id, router::KeyedEventId("key/1", "c1"));
  EXPECT_EQ(events[1]->id, router::KeyedEventId("key/5", "c1"));
  EXPECT_EQ(events[2]->id, router::KeyedEventId("key/7", "c1"));
  EXPECT_EQ(services_.aggregate_writer.events().size(), 3u);
}

TEST_F(ApiTest, AKeyOf128CharactersMayHaveLines) {
  EXPECT_EQ(Batch(kTagJson, {std::string(128, 'k')}).body, R"({"accepted":1,"rejected":[]})");
}

TEST_F(ApiTest, AnEmptyBatchIsAccepted) {
  for (const char* body : {"", "\n", "\n\r\n \t\n"}) {
    EXPECT_EQ(Batch(body).body, R"({"accepted":0,"rejected":[]})");
  }
}

TEST_F(ApiTest, ABatchNeverHasMoreThanTheBoundOnItsWay) {
  services_.profile_writer.Hold();
  std::string body;
  for (size_t i = 0; i < kBatchLinesInFlightMax + 100; ++i) absl::StrAppend(&body, kTagJson, "\n");
  ApiOptions options = Options();
  options.intake.batch_timeout = absl::Seconds(60);
  Api api(services_.backends(), options);
  const Padded padded(body);
  Response response;
  std::thread call([&] {
    response = HandleAndWait(api, Api::PlanOf("POST", "/user_tags", "application/x-ndjson"), {},
                             padded.text());
  });
  EXPECT_TRUE(services_.profile_writer.WaitForEvents(kBatchLinesInFlightMax));
  // The aggregate writer answers at once, so only the held half keeps the rest back.
  EXPECT_EQ(services_.profile_writer.events().size(), kBatchLinesInFlightMax);
  services_.profile_writer.Release(absl::OkStatus());
  call.join();
  EXPECT_EQ(response.status, 200);
  EXPECT_THAT(response.body, HasSubstr(absl::StrCat(kBatchLinesInFlightMax + 100)));
}

TEST_F(ApiTest, ABatchWithALostLineIsNeverASuccess) {
  const std::string body = absl::StrCat(kTagJson, "\n", kTagJson, "\n", kTagJson, "\n");
  const std::pair<absl::Status, int> kCases[] = {{absl::ResourceExhaustedError("full"), 429},
                                                 {absl::UnavailableError("down"), 503},
                                                 {absl::DeadlineExceededError("late"), 504},
                                                 {absl::InternalError("odd"), 500}};
  for (const auto& [status, http] : kCases) {
    int calls = 0;
    services_.aggregate_writer.SetOutcome([&, status = status](const router::Event&) {
      return ++calls == 2 ? status : absl::OkStatus();
    });
    const Response response = Batch(body, {"k"});
    EXPECT_EQ(response.status, http);
    EXPECT_THAT(response.body, HasSubstr("1 of 3 lines are stored surely"));
    EXPECT_THAT(response.body, HasSubstr("\"stored\":1"));
    EXPECT_THAT(response.body, HasSubstr("\"retry_safe\":true"));
  }
}

TEST_F(ApiTest, ABatchThatIsNotAnsweredForInTimeIs504) {
  services_.profile_writer.Hold();
  const Response response = Batch(absl::StrCat(kTagJson, "\n", kTagJson));
  EXPECT_EQ(response.status, 504);
  EXPECT_THAT(response.body, HasSubstr("\"stored\":0"));
  services_.profile_writer.Release(absl::OkStatus());
}

TEST_F(ApiTest, ALineIsBoundedAsATagIs) {
  const std::string tag = kTagJson;
  const std::string longest = tag + std::string(kTagBytesMax - tag.size(), ' ');
  const Response response = Batch(absl::StrCat(longest, "\n", longest, " \n", tag));
  EXPECT_THAT(response.body, HasSubstr(R"({"accepted":2,"rejected":[{"line":2,)"));
}

TEST_F(ApiTest, ABatchOfNothingButBrokenLinesIsBounded) {
  std::string body;
  for (size_t i = 0; i <= kBatchRejectedMax; ++i) body += "x\n";
  body += kTagJson;
  EXPECT_EQ(Batch(body).status, 400);
  EXPECT_TRUE(services_.profile_writer.events().empty());
}

constexpr char kProfile[] =
    "/user_profiles/a%2Fb?time_range=2022-03-01T00:00:00_2022-04-01T00:00:00";

// Each of them holds a thread, of which there are as many as connections.
TEST_F(ApiTest, QueriesThatWaitLeaveRoomForTags) {
  ApiOptions options = Options();
  options.queries_max = 2;
  Api api(services_.backends(), options);
  absl::BlockingCounter asked(2);
  absl::Notification answered;
  services_.profile_reader.before = [&] {
    asked.DecrementCount();
    answered.WaitForNotification();
  };
  const Plan plan = Api::PlanOf("GET", kProfile, "");
  std::vector<std::thread> waiting;
  for (int i = 0; i < 2; ++i) {
    waiting.emplace_back([&] { EXPECT_EQ(HandleAndWait(api, plan, {}, "").status, 200); });
  }
  asked.Wait();
  const Response refused = HandleAndWait(api, plan, {}, "");
  EXPECT_EQ(refused.status, 503);
  EXPECT_THAT(refused.body, HasSubstr("2 queries wait for their answers already"));
  EXPECT_EQ(HandleAndWait(api, Api::PlanOf("GET", "/aggregates?x", ""), {}, "").status, 503);
  const Padded tag(kTagJson);
  EXPECT_EQ(HandleAndWait(api, Api::PlanOf("POST", "/user_tags", ""), {}, tag.text()).status, 204);
  answered.Notify();
  for (std::thread& thread : waiting) thread.join();
  services_.profile_reader.before = nullptr;
  EXPECT_EQ(HandleAndWait(api, plan, {}, "").status, 200) << "what was answered leaves its place";
}

TEST_F(ApiTest, APathMeansTheSameWhicheverOfItsCharactersAreEscaped) {
  const std::pair<const char*, Route> kCases[] = {
      {"/%68ealthz", Route::kHealthz},
      {"/user%5Ftags", Route::kUserTags},
      {"/%75ser_profiles/a%2Fb", Route::kUserProfiles},
      {"/user_profiles/%61", Route::kUserProfiles},
      {"%2Fhealthz", Route::kUnknown},
      {"/user_profiles%2Fa", Route::kUnknown},
      {"/%75ser_profiles", Route::kUnknown},
      {"/%75ser_profiles/", Route::kUnknown},
      {"/%75ser_profiles/a/b", Route::kUnknown},
      {"/healthz%", Route::kUnknown},
      {"/%25healthz", Route::kUnknown},
      {"/%2568ealthz", Route::kUnknown},
      {"/healthz%00", Route::kUnknown},
      {"/healthz%ff", Route::kUnknown},
  };
  for (const auto& [path, route] : kCases) {
    EXPECT_EQ(Api::PlanOf("GET", path, "").route, route) << path;
  }
  EXPECT_EQ(Api::PlanOf("GET", "/%75ser_profiles/a%2Fb", "").cookie, "a%2Fb");
}

TEST_F(ApiTest, AProfileIsPrintedNewestFirstAsItCame) {
  v1::Tag tag;
  TagParser parser;
  const Padded json(kTagJson);
  ASSERT_TRUE(parser.Parse(json.text(), tag).ok());
  const std::string stored = tag.SerializeAsString();
  services_.profile_reader.answer = router::Profile{{stored}, {}, nullptr};
  for (const char* method : {"GET", "POST", "HEAD"}) {
    const Response response = Call(method, kProfile);
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.content_type, "application/json");
    EXPECT_EQ(response.body,
              absl::StrCat(R"({"cookie":"a/b","views":[)", kTagJson, R"(],"buys":[]})"));
  }
  EXPECT_EQ(services_.profile_reader.last().cookie, "a/b");
  EXPECT_EQ(services_.profile_reader.last().limit, 200u);
}

TEST_F(ApiTest, AStoredTagThatCannotBeReadIsAnError) {
  services_.profile_reader.answer = router::Profile{{"\xff"}, {}, nullptr};
  EXPECT_EQ(Call("GET", kProfile).status, 500);
}

TEST_F(ApiTest, ReadErrorsHaveTheirStatus) {
  const std::pair<absl::Status, int> kCases[] = {
      {absl::UnavailableError("x"), 503},       {absl::ResourceExhaustedError("x"), 429},
      {absl::DeadlineExceededError("x"), 504},  {absl::FailedPreconditionError("gone"), 400},
      {absl::InvalidArgumentError("bad"), 400}, {absl::InternalError("x"), 500}};
  for (const auto& [status, http] : kCases) {
    services_.profile_reader.answer = status;
    services_.aggregate_reader.answer = status;
    EXPECT_EQ(Call("GET", kProfile).status, http);
    const Response response = Call("POST",
                                   "/aggregates?time_range=2022-03-01T00:05:00_2022-03-01T00:06:00"
                                   "&action=VIEW&aggregates=COUNT");
    EXPECT_EQ(response.status, http);
    EXPECT_EQ(RetryAfter(response).empty(), http != 503 && http != 429);
  }
}

TEST_F(ApiTest, AggregatesHaveOneRowAMinute) {
  services_.aggregate_reader.answer =
      std::vector<router::AggregateBucket>{{27'434'885, 3, 1000}, {27'434'886, 1, INT64_MIN}};
  const Response response =
      Call("POST",
           "/aggregates?aggregates=SUM_PRICE&category_id=&aggregates=COUNT&origin=%22&action=BUY"
           "&time_range=2022-03-01T00:05:00_2022-03-01T00:08:00");
  EXPECT_EQ(
      response.body,
      R"({"columns":["1m_bucket","action","origin","category_id","sum_price","count"],"rows":[)"
      R"(["2022-03-01T00:05:00","BUY","\"","","1000","3"],)"
      R"(["2022-03-01T00:06:00","BUY","\"","","-9223372036854775808","1"],)"
      R"(["2022-03-01T00:07:00","BUY","\"","","0","0"]]})");
}

TEST_F(ApiTest, AnEmptyRangeAsksNobody) {
  const Response response = Call("GET",
                                 "/aggregates?aggregates=COUNT&action=BUY"
                                 "&time_range=2022-03-01T00:05:00_2022-03-01T00:05:00");
  EXPECT_EQ(response.body, R"({"columns":["1m_bucket","action","count"],"rows":[]})");
  EXPECT_EQ(services_.aggregate_reader.calls, 0);
}

double Metric(const std::string& name) {
  const std::string text = rpc::MetricsText();
  const size_t at = text.find("\n" + name + " ");
  return at == std::string::npos ? -1 : std::stod(text.substr(at + name.size() + 2));
}

TEST_F(ApiTest, ADebugBodyIsCountedAndNeverChangesTheAnswer) {
  const std::string answer = R"({"cookie":"a/b","views":[],"buys":[]})";
  struct Case {
    std::string body;
    double matches, mismatches;
  };
  for (const Case& c :
       {Case{answer, 1, 0}, Case{R"({"buys":[], "views":[],"cookie":"a\/b"})", 1, 0},
        Case{"{}", 0, 1}, Case{"no json", 0, 1}, Case{"\xff", 0, 1}, Case{"", 0, 0},
        Case{" \r\n", 0, 0}}) {
    const double matches = Metric("allezon_debug_matches_total");
    const double mismatches = Metric("allezon_debug_mismatches_total");
    EXPECT_EQ(Call("POST", kProfile, c.body).body, answer);
    EXPECT_EQ(Metric("allezon_debug_matches_total"), matches + c.matches) << c.body;
    EXPECT_EQ(Metric("allezon_debug_mismatches_total"), mismatches + c.mismatches) << c.body;
  }
}

TEST_F(ApiTest, ADebugBodyThatWouldTakeTooMuchMemoryIsNotCompared) {
  ApiOptions options = Options();
  options.compared_bytes_max = 64 << 10;
  Api small(services_.backends(), options);
  const Plan plan = Api::PlanOf("POST", kProfile, "");
  const double matches = Metric("allezon_debug_matches_total");
  const double mismatches = Metric("allezon_debug_mismatches_total");
  const double skipped = Metric("allezon_debug_skipped_total");
  const Padded large(std::string(64 << 10, '1')), small_body("{}");
  EXPECT_EQ(HandleAndWait(small, plan, {}, large.text()).status, 200);
  EXPECT_EQ(HandleAndWait(small, plan, {}, small_body.text()).status, 200);
  EXPECT_EQ(Metric("allezon_debug_matches_total"), matches);
  EXPECT_EQ(Metric("allezon_debug_mismatches_total"), mismatches + 1);
  EXPECT_EQ(Metric("allezon_debug_skipped_total"), skipped + 1);
}

TEST_F(ApiTest, UnknownPathsAndWrongMethods) {
  for (const char* target :
       {"/", "/user_tag", "/user_tags/", "/user_profiles", "/user_profiles/", "/user_profiles/a/b",
        "/aggregates/", "//user_tags", "/USER_TAGS", "*", ""}) {
    EXPECT_EQ(Call("POST", target).status, 404) << target;
    EXPECT_EQ(Call("OPTIONS", target).status, 404) << target;
  }
  struct Case {
    const char* method;
    const char* target;
    const char* allow;
  };
  for (const Case& c :
       {Case{"GET", "/user_tags", "POST, OPTIONS"}, Case{"BREW", "/user_tags", "POST, OPTIONS"},
        Case{"PUT", "/user_profiles/a", "GET, HEAD, POST, OPTIONS"},
        Case{"DELETE", "/aggregates", "GET, HEAD, POST, OPTIONS"},
        Case{"POST", "/healthz", "GET, HEAD, OPTIONS"},
        Case{"OPTIONS", "/user_tags", "POST, OPTIONS"}}) {
    const Response response = Call(c.method, c.target);
    EXPECT_EQ(response.status, std::string_view(c.method) == "OPTIONS" ? 204 : 405) << c.target;
    ASSERT_EQ(response.headers.size(), 1u);
    EXPECT_EQ(response.headers[0], (std::pair<std::string, std::string>("Allow", c.allow)));
  }
}

TEST_F(ApiTest, BodiesHaveTheLimitOfTheirRoute) {
  EXPECT_EQ(Api::PlanOf("POST", "/user_tags", "application/json").body_bytes_max, kTagBytesMax);
  EXPECT_EQ(
      Api::PlanOf("POST", "/user_tags", "Application/X-NDJSON ; charset=utf-8").body_bytes_max,
      kBatchBytesMax);
  EXPECT_EQ(Api::PlanOf("POST", "/user_profiles/a", "").body_bytes_max, kBatchBytesMax);
  EXPECT_EQ(Api::PlanOf("POST", "/nothing", "application/x-ndjson").body_bytes_max, kTagBytesMax);
}

TEST_F(ApiTest, ReadinessSaysWhyNot) {
  EXPECT_EQ(Call("GET", "/healthz").status, 200);
  EXPECT_EQ(Call("GET", "/readyz").status, 200);
  services_.ready = absl::UnavailableError("3 shards have no replica");
  const Response response = Call("GET", "/readyz");
  EXPECT_EQ(response.status, 503);
  EXPECT_THAT(response.body, HasSubstr("3 shards have no replica"));
  services_.ready = absl::OkStatus();
  api_.SetDraining();
  EXPECT_EQ(Call("GET", "/readyz").status, 503);
  EXPECT_EQ(Call("GET", "/healthz").status, 200);
}

TEST_F(ApiTest, AProblemIsJsonWhateverItSays) {
  services_.profile_reader.answer = absl::UnavailableError("odd \xff \"quoted\"");
  const Response response = Call("GET", kProfile);
  EXPECT_EQ(response.body,
            R"({"type":"urn:allezon:problem:unavailable","title":"Service Unavailable",)"
            R"("status":503,"detail":"odd ? \"quoted\""})");
  EXPECT_THAT(Call("GET", "/nothing").body, Not(HasSubstr("\"detail\":\"\"")));
}

}  // namespace
}  // namespace allezon::gateway
