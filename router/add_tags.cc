// SPDX-License-Identifier: Apache-2.0
#include "router/add_tags.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "router/tag_rules.h"
#include "rpc/status.h"

namespace allezon::router {
namespace {

// After this the caller may try again where a queue was full or replicas were missing.
constexpr absl::Duration kRetryDelay = absl::Milliseconds(200);

// The same complaint about a field of tags[index].
absl::Status InElement(int index, std::string_view part, const absl::Status& status) {
  std::string field = absl::StrCat("tags[", index, "]");
  if (!part.empty()) absl::StrAppend(&field, ".", std::string(part));
  if (const std::string inner = rpc::FieldOf(status); part == "tag" && !inner.empty()) {
    absl::StrAppend(&field, ".", inner);
  }
  return rpc::InvalidField(field, std::string(status.message()));
}

absl::Status CheckNewTag(int index, const v1::NewTag& tag, absl::Time now,
                         absl::Duration future_max) {
  if (!tag.has_tag()) {
    return InElement(index, "tag", absl::InvalidArgumentError("is missing"));
  }
  if (absl::Status status = CheckTag(tag.tag(), now, future_max); !status.ok()) {
    return InElement(index, "tag", status);
  }
  if (tag.idempotency_key().empty()) return absl::OkStatus();
  if (absl::Status status = CheckIdempotencyKey(tag.idempotency_key()); !status.ok()) {
    return InElement(index, "idempotency_key", status);
  }
  return absl::OkStatus();
}

absl::Status ForCaller(absl::Status status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return absl::InternalError(
          absl::StrCat("a replica refused a tag that is valid here: ", status.message()));
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kUnavailable:
      if (rpc::RetryDelayOf(status) > absl::ZeroDuration()) return status;
      return rpc::WithRetryDelay(std::move(status), kRetryDelay);
    default:
      return status;
  }
}

// The tag as it is stored: without fields that this version does not know, which are ignored and
// would be stored without a bound on their size.
std::string Serialise(const v1::Tag& tag) {
  const auto known = [](const google::protobuf::Message& message) {
    return message.GetReflection()->GetUnknownFields(message).empty();
  };
  if (known(tag) && known(tag.product_info()) && known(tag.product_info().product_id())) {
    return tag.SerializeAsString();
  }
  v1::Tag copy = tag;
  copy.DiscardUnknownFields();
  return copy.SerializeAsString();
}

// One completion for all events of a call.
class Gather final : public WriteDone {
 public:
  Gather(size_t writes, std::function<void(const absl::Status&)> done)
      : open_(writes), done_(std::move(done)) {}

  void Done(const absl::Status& status) override {
    if (!status.ok()) {
      absl::MutexLock lock(&mutex_);
      worst_ = Worse(worst_, status);
    }
    // The last one sees what all others noted before they counted down.
    if (open_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    absl::Status worst;
    {
      absl::MutexLock lock(&mutex_);
      worst = std::move(worst_);
    }
    done_(worst.ok() ? worst : ForCaller(std::move(worst)));
  }

 private:
  std::atomic<size_t> open_;
  const std::function<void(const absl::Status&)> done_;
  absl::Mutex mutex_;
  absl::Status worst_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::vector<EventRef>> MakeEvents(const NewTags& tags, uint32_t shards,
                                                 absl::Time now, absl::Duration future_max) {
  if (tags.size() > kAddTagsMax) {
    return rpc::InvalidField(
        "tags", absl::StrCat(tags.size(), " tags in one call; at most ", kAddTagsMax, " may be"));
  }
  for (int i = 0; i < tags.size(); ++i) {
    if (absl::Status status = CheckNewTag(i, tags[i], now, future_max); !status.ok()) return status;
  }
  std::vector<EventRef> events;
  events.reserve(tags.size());
  for (const v1::NewTag& tag : tags) {
    events.push_back(MakeEvent(tag.tag().cookie(), tag.tag().time_ms(), Serialise(tag.tag()),
                               tag.idempotency_key(), shards, now));
  }
  return events;
}

void WriteEvents(Writer& writer, std::vector<EventRef> events, absl::Time deadline,
                 std::function<void(const absl::Status&)> done) {
  if (events.empty()) return done(absl::OkStatus());
  const auto gather = std::make_shared<Gather>(events.size(), std::move(done));
  for (EventRef& event : events) writer.Write(std::move(event), deadline, gather);
}

void AddTags(Writer& writer, const NewTags& tags, uint32_t shards, absl::Duration future_max,
             absl::Time deadline, std::function<void(const absl::Status&)> done) {
  const absl::Time now = absl::Now();
  absl::StatusOr<std::vector<EventRef>> events = MakeEvents(tags, shards, now, future_max);
  if (!events.ok()) return done(events.status());
  WriteEvents(writer, *std::move(events), std::min(deadline, now + kAddTagsTimeoutMax),
              std::move(done));
}

}  // namespace allezon::router
