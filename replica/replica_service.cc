// SPDX-License-Identifier: Apache-2.0
#include "replica/replica_service.h"

#include <google/protobuf/arena.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "replica/calls.h"
#include "router/tag_rules.h"
#include "rpc/status.h"

namespace allezon::replica {
namespace {

// After this the caller may try again when the committer's queue is full.
constexpr absl::Duration kRetryDelay = absl::Milliseconds(100);

absl::Status CheckEvent(const v1::Event& event, const v1::Tag& tag, const NodeContext& context) {
  if (event.shard() >= context.holds.size()) {
    return absl::InvalidArgumentError(absl::StrCat("shard ", event.shard(), " does not exist"));
  }
  if (!context.holds[event.shard()]) {
    return absl::InvalidArgumentError(
        absl::StrCat("shard ", event.shard(), " is not held by ", context.id));
  }
  if (event.id().size() != std::tuple_size_v<EventId>) {
    return absl::InvalidArgumentError("an event id has 16 bytes");
  }
  if (event.time_ms() != tag.time_ms()) {
    return absl::InvalidArgumentError("the event's time is not its tag's");
  }
  const auto shards = static_cast<uint32_t>(context.holds.size());
  if (router::ShardOf(tag.cookie(), shards) != event.shard()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the tag's cookie does not belong in shard ", event.shard()));
  }
  // How far ahead of the clock a tag may be was judged where it was accepted.
  return router::CheckTag(tag, absl::Now(), absl::InfiniteDuration());
}

// The events of one call, parsed, on their way through the committer.
template <typename Response>
class CallSubmission final : public Submission {
 public:
  CallSubmission(grpc::ServerUnaryReactor* reactor, Response* response)
      : reactor_(reactor), response_(response) {}

  // Takes what is valid into entries; what is not becomes a failure in the response.
  void Parse(const google::protobuf::RepeatedPtrField<v1::Event>& events,
             const NodeContext& context) {
    entries_.reserve(events.size());
    for (int i = 0; i < events.size(); ++i) {
      const v1::Event& event = events[i];
      auto* tag = google::protobuf::Arena::CreateMessage<v1::Tag>(&arena_);
      const absl::Status status = tag->ParseFromString(event.tag())
                                      ? CheckEvent(event, *tag, context)
                                      : absl::InvalidArgumentError("the tag cannot be parsed");
      if (!status.ok()) {
        v1::WriteFailure& failure = *response_->add_failures();
        failure.set_index(i);
        failure.set_code(static_cast<int>(status.code()));
        failure.set_message(std::string(status.message()));
        continue;
      }
      LogEntry& entry = entries_.emplace_back();
      entry.shard = event.shard();
      entry.minute = router::MinuteOf(event.time_ms());
      entry.time_ms = event.time_ms();
      std::copy(event.id().begin(), event.id().end(), entry.id.begin());
      entry.accepted_s = event.accepted_s();
      entry.tag = event.tag();
      entry.parsed = tag;
    }
  }

  absl::Span<const LogEntry> entries() const override { return entries_; }

  void Done(const absl::Status& status) override { reactor_->Finish(rpc::ToGrpc(status)); }

 private:
  grpc::ServerUnaryReactor* const reactor_;
  Response* const response_;
  google::protobuf::Arena arena_;
  std::vector<LogEntry> entries_;
};

}  // namespace

template <typename Request, typename Response>
grpc::ServerUnaryReactor* ReplicaServiceImpl::Store(grpc::CallbackServerContext* call,
                                                    const Request* request, Response* response) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  if (absl::Status status = CheckPlacementVersion(context_, request->placement_version());
      !status.ok()) {
    reactor->Finish(rpc::ToGrpc(status));
    return reactor;
  }
  auto submission = std::make_unique<CallSubmission<Response>>(reactor, response);
  submission->Parse(request->events(), context_);
  if (submission->entries().empty()) {
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
  const absl::Status status = committer_.Submit(std::move(submission));
  if (!status.ok()) reactor->Finish(rpc::ToGrpc(rpc::WithRetryDelay(status, kRetryDelay)));
  return reactor;
}

grpc::ServerUnaryReactor* ReplicaServiceImpl::Write(grpc::CallbackServerContext* call,
                                                    const v1::WriteRequest* request,
                                                    v1::WriteResponse* response) {
  return Store(call, request, response);
}

grpc::ServerUnaryReactor* ReplicaServiceImpl::Replicate(grpc::CallbackServerContext* call,
                                                        const v1::ReplicateRequest* request,
                                                        v1::ReplicateResponse* response) {
  return Store(call, request, response);
}

}  // namespace allezon::replica
