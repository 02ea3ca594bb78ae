// SPDX-License-Identifier: Apache-2.0
#include "rpc/health.h"

#include <algorithm>
#include <utility>

namespace allezon::rpc {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

// A watch is cheap, but each is a stream that anyone may open.
constexpr size_t kWatchersMax = 1'000;

std::vector<std::string> WithServer(std::vector<std::string> names) {
  names.emplace_back();
  return names;
}

}  // namespace

// One watch: has one write or the finish under way at a time, and then looks what is next. gRPC is
// called without the lock held; what keeps the watcher alive then is that gRPC deletes it (OnDone)
// only after Finish, and that only who has set `finishing_`, with no write under way, calls that.
class HealthService::Watcher final : public grpc::ServerWriteReactor<HealthCheckResponse> {
 public:
  Watcher(HealthService& service, const std::string& name)
      : service_(service), known_(service.Knows(name)), of_life_(name == kLiveName) {}

  enum class Step { kWait, kWrite, kFinish };

  // For the analysis of locks, which does not see that this is the service's own mutex.
  void AssertLocked() const ABSL_ASSERT_EXCLUSIVE_LOCK(service_.mutex_) {
    service_.mutex_.AssertHeld();
  }

  // Takes the next step, which the caller then does by Do.
  Step Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(service_.mutex_) {
    if (writing_ || finishing_) return Step::kWait;
    const Status status =
        known_ ? service_.StatusNow(of_life_) : HealthCheckResponse::SERVICE_UNKNOWN;
    if (!cancelled_ && status != message_.status()) {
      message_.set_status(status);
      writing_ = true;
      return Step::kWrite;
    }
    if (!cancelled_ && !service_.shut_down_) return Step::kWait;
    finishing_ = true;
    service_.watchers_.erase(this);
    return Step::kFinish;
  }

  // Ends the watch before it began.
  void Refuse() ABSL_LOCKS_EXCLUDED(service_.mutex_) {
    {
      absl::MutexLock lock(&service_.mutex_);
      finishing_ = true;
    }
    Finish(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "too many watches"));
  }

  void Do(Step step) {
    if (step == Step::kWrite) StartWrite(&message_);
    if (step == Step::kFinish) {
      Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is shutting down"));
    }
  }

  void OnWriteDone(bool ok) override {
    Advance([&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(service_.mutex_) {
      writing_ = false;
      cancelled_ = cancelled_ || !ok;
    });
  }

  void OnCancel() override {
    Advance([&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(service_.mutex_) { cancelled_ = true; });
  }

  void OnDone() override { delete this; }

 private:
  template <typename Change>
  void Advance(Change change) ABSL_LOCKS_EXCLUDED(service_.mutex_) {
    Step step;
    {
      absl::MutexLock lock(&service_.mutex_);
      change();
      step = Next();
    }
    Do(step);
  }

  HealthService& service_;
  const bool known_;
  const bool of_life_;
  HealthCheckResponse message_;  // the last one written; UNKNOWN before the first
  bool writing_ ABSL_GUARDED_BY(service_.mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(service_.mutex_) = false;
  bool finishing_ ABSL_GUARDED_BY(service_.mutex_) = false;
};

HealthService::HealthService(std::vector<std::string> names)
    : names_(WithServer(std::move(names))) {}

bool HealthService::Knows(const std::string& name) const {
  return name == kLiveName || std::find(names_.begin(), names_.end(), name) != names_.end();
}

HealthService::Status HealthService::StatusNow(bool of_life) const {
  return of_life || (serving_ && !shut_down_) ? HealthCheckResponse::SERVING
                                              : HealthCheckResponse::NOT_SERVING;
}

void HealthService::SetServing(bool serving) {
  {
    absl::MutexLock lock(&mutex_);
    serving_ = serving;
  }
  AdvanceAll();
}

void HealthService::Shutdown() {
  {
    absl::MutexLock lock(&mutex_);
    shut_down_ = true;
  }
  AdvanceAll();
}

void HealthService::AdvanceAll() {
  std::vector<std::pair<Watcher*, Watcher::Step>> steps;
  {
    absl::MutexLock lock(&mutex_);
    const std::vector<Watcher*> watchers(watchers_.begin(), watchers_.end());
    // A step other than kWait is this thread's to do: nobody else acts on the watcher until then.
    for (Watcher* watcher : watchers) {
      watcher->AssertLocked();
      const Watcher::Step step = watcher->Next();
      if (step != Watcher::Step::kWait) steps.emplace_back(watcher, step);
    }
  }
  for (const auto& [watcher, step] : steps) watcher->Do(step);
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* call,
                                               const HealthCheckRequest* request,
                                               HealthCheckResponse* response) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  if (!Knows(request->service())) {
    reactor->Finish(grpc::Status(grpc::StatusCode::NOT_FOUND, "no such service"));
    return reactor;
  }
  {
    absl::ReaderMutexLock lock(&mutex_);
    response->set_status(StatusNow(request->service() == kLiveName));
  }
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<HealthCheckResponse>* HealthService::Watch(
    grpc::CallbackServerContext*, const HealthCheckRequest* request) {
  // gRPC deletes it through OnDone.
  auto* watcher = new Watcher(*this, request->service());
  bool admitted = false;
  Watcher::Step step = Watcher::Step::kWait;
  {
    absl::MutexLock lock(&mutex_);
    if (watchers_.size() < kWatchersMax) {
      admitted = true;
      watchers_.insert(watcher);
      watcher->AssertLocked();
      step = watcher->Next();
    }
  }
  if (admitted) {
    watcher->Do(step);
  } else {
    watcher->Refuse();
  }
  return watcher;
}

}  // namespace allezon::rpc
