// SPDX-License-Identifier: Apache-2.0
#include "router/add_tags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "rpc/status.h"

namespace allezon::router {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr uint32_t kShards = 16;

// Answers the n-th write with the n-th outcome, from where `Answer` is called.
class ScriptedWriter final : public Writer {
 public:
  void Write(EventRef event, absl::Time deadline, std::shared_ptr<WriteDone> done) override {
    events.push_back(std::move(event));
    deadlines.push_back(deadline);
    if (answer_at_once) {
      done->Done(absl::OkStatus());
    } else {
      open.push_back(std::move(done));
    }
  }

  bool answer_at_once = false;
  std::vector<EventRef> events;
  std::vector<absl::Time> deadlines;
  std::vector<std::shared_ptr<WriteDone>> open;
};

v1::Tag ValidTag(const std::string& cookie) {
  v1::Tag tag;
  tag.set_time_ms(1'647'951'300'000);
  tag.set_cookie(cookie);
  tag.set_device(v1::DEVICE_PC);
  tag.set_action(v1::ACTION_BUY);
  tag.mutable_product_info()->mutable_product_id()->set_number(7);
  return tag;
}

NewTags ValidTags(int count) {
  NewTags tags;
  for (int i = 0; i < count; ++i) *tags.Add()->mutable_tag() = ValidTag(absl::StrCat("c", i));
  return tags;
}

class AddTagsTest : public ::testing::Test {
 protected:
  void Add(const NewTags& tags, absl::Time deadline = absl::InfiniteFuture()) {
    AddTags(writer_, tags, kShards, absl::Hours(24), deadline, [this](const absl::Status& status) {
      ++completions_;
      outcome_ = status;
    });
  }

  ScriptedWriter writer_;
  int completions_ = 0;
  absl::Status outcome_;
};

TEST_F(AddTagsTest, EventsAreThoseOfTheTags) {
  NewTags tags = ValidTags(2);
  tags[1].set_idempotency_key("key");
  const absl::Time now = absl::FromUnixSeconds(1'700'000'000);
  const auto events = MakeEvents(tags, kShards, now, absl::Hours(24));
  ASSERT_TRUE(events.ok()) << events.status();
  ASSERT_THAT(*events, SizeIs(2));
  for (int i = 0; i < 2; ++i) {
    const Event& event = *(*events)[i];
    EXPECT_EQ(event.shard, ShardOf(tags[i].tag().cookie(), kShards));
    EXPECT_EQ(event.accepted_s, 1'700'000'000u);
    EXPECT_EQ(event.time_ms, tags[i].tag().time_ms());
    EXPECT_EQ(event.tag, tags[i].tag().SerializeAsString());
  }
  EXPECT_FALSE(IsKeyed(AsBytes((*events)[0]->id)));
  EXPECT_EQ((*events)[1]->id, KeyedEventId("key", "c1"));
}

TEST_F(AddTagsTest, OneBadTagRefusesAllAndIsNamed) {
  NewTags tags = ValidTags(5);
  tags[3].mutable_tag()->clear_cookie();
  Add(tags);
  EXPECT_EQ(completions_, 1);
  EXPECT_EQ(outcome_.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(rpc::FieldOf(outcome_), "tags[3].tag.cookie");
  EXPECT_THAT(writer_.events, SizeIs(0));
}

TEST_F(AddTagsTest, WhatIsWrongIsNamedByItsPath) {
  NewTags tags = ValidTags(1);
  tags[0].set_idempotency_key("with space");
  Add(tags);
  EXPECT_EQ(rpc::FieldOf(outcome_), "tags[0].idempotency_key");
  tags[0].clear_idempotency_key();
  tags[0].mutable_tag()->mutable_product_info()->set_brand_id(std::string(257, 'b'));
  Add(tags);
  EXPECT_EQ(rpc::FieldOf(outcome_), "tags[0].tag.product_info.brand_id");
  tags[0].clear_tag();
  Add(tags);
  EXPECT_EQ(rpc::FieldOf(outcome_), "tags[0].tag");
  Add(ValidTags(kAddTagsMax + 1));
  EXPECT_EQ(rpc::FieldOf(outcome_), "tags");
  EXPECT_EQ(outcome_.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(completions_, 4);
  EXPECT_THAT(writer_.events, SizeIs(0));
}

TEST_F(AddTagsTest, TimesFarAheadOfTheClockAreRefused) {
  NewTags tags = ValidTags(1);
  tags[0].mutable_tag()->set_time_ms(absl::ToUnixMillis(absl::Now() + absl::Hours(25)));
  Add(tags);
  EXPECT_EQ(rpc::FieldOf(outcome_), "tags[0].tag.time_ms");
}

TEST_F(AddTagsTest, FieldsThatNobodyKnowsAreNotStored) {
  NewTags tags = ValidTags(1);
  const std::string plain = tags[0].tag().SerializeAsString();
  v1::Tag& tag = *tags[0].mutable_tag();
  v1::ProductInfo& product = *tag.mutable_product_info();
  for (google::protobuf::Message* message :
       {static_cast<google::protobuf::Message*>(&tag),
        static_cast<google::protobuf::Message*>(&product),
        static_cast<google::protobuf::Message*>(product.mutable_product_id())}) {
    message->GetReflection()->MutableUnknownFields(message)->AddLengthDelimited(
        1000, std::string(100'000, 'x'));
    const auto events = MakeEvents(tags, kShards, absl::Now(), absl::Hours(24));
    ASSERT_TRUE(events.ok()) << events.status();
    EXPECT_EQ((*events)[0]->tag, plain);
    message->DiscardUnknownFields();
  }
}

TEST_F(AddTagsTest, NoTagsAreStoredAtOnce) {
  Add(ValidTags(0));
  EXPECT_EQ(completions_, 1);
  EXPECT_TRUE(outcome_.ok());
}

TEST_F(AddTagsTest, CompletesOnceAfterTheLastOutcome) {
  Add(ValidTags(3));
  ASSERT_THAT(writer_.open, SizeIs(3));
  writer_.open[2]->Done(absl::OkStatus());
  writer_.open[0]->Done(absl::OkStatus());
  EXPECT_EQ(completions_, 0);
  writer_.open[1]->Done(absl::OkStatus());
  EXPECT_EQ(completions_, 1);
  EXPECT_TRUE(outcome_.ok());
}

TEST_F(AddTagsTest, WritersThatAnswerAtOnceAreFine) {
  writer_.answer_at_once = true;
  Add(ValidTags(100));
  EXPECT_EQ(completions_, 1);
  EXPECT_TRUE(outcome_.ok());
}

TEST_F(AddTagsTest, OutcomesFromManyThreadsCompleteOnce) {
  Add(ValidTags(400));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      for (size_t i = t; i < writer_.open.size(); i += 4) {
        writer_.open[i]->Done(i == 200 ? absl::DeadlineExceededError("late") : absl::OkStatus());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(completions_, 1);
  EXPECT_EQ(outcome_.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(AddTagsTest, TheOutcomeThatPromisesLeastIsReported) {
  const auto outcome_of = [this](const std::vector<absl::Status>& statuses) {
    writer_.open.clear();
    Add(ValidTags(static_cast<int>(statuses.size())));
    for (size_t i = 0; i < statuses.size(); ++i) writer_.open[i]->Done(statuses[i]);
    return outcome_;
  };
  const absl::Status ok;
  const absl::Status full = absl::ResourceExhaustedError("full");
  const absl::Status away = absl::UnavailableError("away");
  const absl::Status late = absl::DeadlineExceededError("late");
  EXPECT_EQ(outcome_of({ok, full, away}).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(outcome_of({away, late, full}).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(outcome_of({full, ok}).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GT(rpc::RetryDelayOf(outcome_), absl::ZeroDuration());
  EXPECT_GT(rpc::RetryDelayOf(outcome_of({away})), absl::ZeroDuration());
  EXPECT_EQ(rpc::RetryDelayOf(outcome_of({rpc::WithRetryDelay(away, absl::Seconds(9))})),
            absl::Seconds(9));
}

// INVALID_ARGUMENT promises that nothing was stored, which nobody knows by then.
TEST_F(AddTagsTest, ARefusalByTheNodesIsNotTheCallersFault) {
  Add(ValidTags(2));
  writer_.open[0]->Done(absl::OkStatus());
  writer_.open[1]->Done(absl::InvalidArgumentError("no such shard"));
  EXPECT_EQ(outcome_.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(outcome_.message()), HasSubstr("no such shard"));
}

TEST_F(AddTagsTest, DeadlinesAreHandedDownAndBounded) {
  const absl::Time soon = absl::Now() + absl::Seconds(3);
  Add(ValidTags(1), soon);
  EXPECT_EQ(writer_.deadlines[0], soon);
  Add(ValidTags(1), absl::InfiniteFuture());
  EXPECT_LE(writer_.deadlines[1], absl::Now() + kAddTagsTimeoutMax);
}

}  // namespace
}  // namespace allezon::router
