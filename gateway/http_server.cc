// SPDX-License-Identifier: Apache-2.0
#include "gateway/http_server.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "gateway/connection.h"
#include "gateway/exchange.h"
#include "gateway/http_engine.h"
#include "gateway/http_metrics.h"
#include "gateway/refusals.h"
#include "rpc/acceptor.h"
#include "rpc/listener.h"
#include "rpc/log.h"

namespace allezon::gateway {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// A client that takes longer than this to send a request, or to read its answer, gives way.
constexpr milliseconds kSlowTime{2000};
// Connections that wait for a thread that is about to be free.
constexpr size_t kWaitingMax = 1024;

// The problem that a failed read of the body is; none where the client has gone.
Problem ReadProblem(Io io, size_t bytes_max) {
  switch (io) {
    case Io::kTooLarge:
      return {.status = 413,
              .detail = "the body is over the limit of " + std::to_string(bytes_max) + " bytes"};
    case Io::kTimeout:
      return {.status = 408, .detail = "the request took too long to arrive; nothing was stored"};
    case Io::kNoMemory:
      return {.status = 503,
              .detail = "too many large bodies at once; nothing was stored, retry",
              .retry_after_s = 1};
    case Io::kMalformed:
      return {.status = 400, .detail = "the chunked body is malformed"};
    default:
      return {.status = 400, .detail = "the body ended early; nothing was stored"};
  }
}

// 414 where not even the first line fits.
Problem HeadTooLarge(std::string_view head) {
  if (head.find("\r\n") == std::string_view::npos) {
    return {.status = 414, .detail = "the request line is too long"};
  }
  return {.status = 431, .detail = "the head of the request is too large"};
}

}  // namespace

struct HttpServer::Impl {
  Impl(Api& served, HttpServerOptions settings)
      : api(served),
        options(std::move(settings)),
        budget(options.body_bytes_total_max),
        answers(options.answer_bytes_total_max),
        context{engine, metrics, draining, ending, options.write_timeout, answers} {}

  // Finds a thread for a new connection, or ends it.
  void Admit(int fd) ABSL_LOCKS_EXCLUDED(mutex);
  // Ends connections that can be spared until each one that waits has a thread to come; takes out
  // and returns those for which there is none.
  std::vector<int> MakeRoom() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Ends the connection that can be spared best; false where there is none.
  bool Evict() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Refuse(int fd);
  void Work();
  // The next connection for this thread, which was counted as idle; -1 where it is to end.
  int Next() ABSL_LOCKS_EXCLUDED(mutex);
  void Enlist(Live& entry) ABSL_LOCKS_EXCLUDED(mutex);
  // Also counts the thread as idle.
  void Dismiss(Live& entry) ABSL_LOCKS_EXCLUDED(mutex);
  // Returns once nothing is sent any more.
  void Serve(Connection& connection, const std::shared_ptr<Live>& entry);
  // One request, whose answer may be on its way yet; false where the connection is at its end.
  bool ServeOne(Connection& connection, const std::shared_ptr<Live>& entry);
  void Handle(const Plan& plan, const std::shared_ptr<Exchange>& exchange, std::string_view body);
  void Stop(milliseconds grace);

  Api& api;
  const HttpServerOptions options;
  rpc::ByteBudget budget;
  rpc::ByteBudget answers;
  HttpEngine engine;
  HttpMetrics metrics;
  Refusals refusals;
  std::atomic<bool> draining{false};  // each answer ends its connection
  std::atomic<bool> ending{false};    // what is idle ends
  const ExchangeContext context;

  absl::Mutex mutex;
  absl::CondVar work;
  std::deque<int> pending ABSL_GUARDED_BY(mutex);  // connections that a thread is to take
  size_t idle_workers ABSL_GUARDED_BY(mutex) = 0;  // or just begun
  size_t in_hand ABSL_GUARDED_BY(mutex) = 0;       // taken from `pending`, not yet in `live`
  size_t leaving ABSL_GUARDED_BY(mutex) = 0;       // in `live`, told to give way
  bool ended ABSL_GUARDED_BY(mutex) = false;       // no connection follows
  bool cut ABSL_GUARDED_BY(mutex) = false;         // and the grace is over
  absl::flat_hash_set<Live*> live ABSL_GUARDED_BY(mutex);
  std::vector<std::thread> workers ABSL_GUARDED_BY(mutex);
  std::unique_ptr<rpc::Acceptor> acceptor;  // once the server has started
};

void HttpServer::Impl::Admit(int fd) {
  metrics.accepted.Increment();
  std::vector<int> refused;
  {
    absl::MutexLock lock(&mutex);
    if (idle_workers <= pending.size() && workers.size() < options.connections_max) {
      try {
        workers.emplace_back([this] { Work(); });
        ++idle_workers;
      } catch (const std::system_error& error) {
        rpc::LogError("cannot start a thread", {{"error", error.what()}});
      }
    }
    pending.push_back(fd);
    refused = MakeRoom();
    work.Signal();
  }
  for (const int each : refused) Refuse(each);
}

std::vector<int> HttpServer::Impl::MakeRoom() {
  while (pending.size() > idle_workers + leaving && Evict()) {
  }
  // Nobody is to be had where every thread has a connection that stays. As long as some are about
  // to take one up, or to lose theirs, the next look will be another.
  const bool settled = leaving == 0 && live.size() == workers.size();
  const size_t waiting_max = settled ? 0 : kWaitingMax;
  std::vector<int> refused;
  while (pending.size() > waiting_max) {
    refused.push_back(pending.back());
    pending.pop_back();
  }
  return refused;
}

bool HttpServer::Impl::Evict() {
  const std::pair<Phase, milliseconds> spared[] = {{Phase::kIdle, options.idle_min},
                                                   {Phase::kTransfer, kSlowTime}};
  for (const auto& [phase, time] : spared) {
    const auto latest = (steady_clock::now() - time).time_since_epoch().count();
    Live* oldest = nullptr;
    for (Live* candidate : live) {
      if (candidate->phase() != phase || candidate->since() > latest) continue;
      if (oldest == nullptr || candidate->since() < oldest->since()) oldest = candidate;
    }
    if (oldest == nullptr || !oldest->End(phase)) continue;
    ++leaving;
    metrics.evicted.Increment();
    return true;
  }
  return false;
}

void HttpServer::Impl::Refuse(int fd) {
  metrics.refused.Increment();
  auto connection = std::make_unique<Connection>(fd);
  Head head;
  head.method = "GET";
  head.keep_alive = false;
  Answer answer{ToResponse({.status = 503,
                            .detail = "too many connections; nothing was stored, retry",
                            .retry_after_s = 1}),
                true};
  const std::string answer_head = engine.FormHead(head, answer);
  // Without waiting: an empty socket takes so little at once, and the acceptor has no time.
  connection->Write(answer_head, answer.response.body, steady_clock::now());
  refusals.Add(std::move(connection));
  metrics.Count(Route::kUnknown, 503, std::chrono::nanoseconds(0));
}

void HttpServer::Impl::Work() {
  for (int fd = Next(); fd >= 0; fd = Next()) {
    Connection connection(fd);
    const auto entry = std::make_shared<Live>(fd);
    Enlist(*entry);
    Serve(connection, entry);
    // Before the descriptor is closed, and perhaps given to another connection.
    Dismiss(*entry);
  }
}

int HttpServer::Impl::Next() {
  absl::MutexLock lock(&mutex);
  while (pending.empty() && !ended) work.Wait(&mutex);
  --idle_workers;
  if (pending.empty()) return -1;
  const int fd = pending.front();
  pending.pop_front();
  ++in_hand;
  return fd;
}

void HttpServer::Impl::Enlist(Live& entry) {
  std::vector<int> refused;
  {
    absl::MutexLock lock(&mutex);
    --in_hand;
    live.insert(&entry);
    if (cut) entry.EndAll();
    metrics.connections.Set(static_cast<double>(live.size()));
    refused = MakeRoom();
  }
  for (const int each : refused) Refuse(each);
}

void HttpServer::Impl::Dismiss(Live& entry) {
  absl::MutexLock lock(&mutex);
  live.erase(&entry);
  if (entry.is_leaving()) --leaving;
  ++idle_workers;
  metrics.connections.Set(static_cast<double>(live.size()));
}

void HttpServer::Impl::Serve(Connection& connection, const std::shared_ptr<Live>& entry) {
  while (true) {
    const bool expects_answer = entry->expects_answer();
    if (!expects_answer && !entry->Enter(Phase::kIdle)) return;
    // Looked at after the phase was set: Stop sets the flag first, and then looks at the phases.
    const milliseconds patience = ending.load() ? options.idle_at_stop : options.idle_timeout;
    const Io io = connection.WaitForRequest(steady_clock::now() + patience);
    if (!entry->AwaitSent()) return;
    // The client has been idle since its answer only.
    if (io == Io::kTimeout && expects_answer) continue;
    if (io != Io::kOk || !entry->Enter(Phase::kTransfer) || !ServeOne(connection, entry)) return;
  }
}

bool HttpServer::Impl::ServeOne(Connection& connection, const std::shared_ptr<Live>& entry) {
  const SteadyTime began = steady_clock::now();
  const auto exchange = std::make_shared<Exchange>(context, entry, connection, began);
  // What goes wrong before the request is handled ends the connection, since the client may still
  // be sending.
  const auto end_with = [&](Response response) {
    exchange->Send({std::move(response), true});
    connection.Linger();
    return false;
  };
  std::string text;
  const Io io = connection.ReadHead(began + options.head_timeout, text);
  if (io == Io::kClosed) return false;  // nobody is there to be told
  Head& head = exchange->head;
  std::optional<Problem> broken;
  if (io == Io::kTooLarge) {
    broken = HeadTooLarge(text);
  } else if (io != Io::kOk) {
    broken = ReadProblem(io, 0);
  } else {
    broken = ParseHead(text, head);
  }
  if (broken) {
    head = Head();
    head.method = "GET";
    head.keep_alive = false;
    return end_with(ToResponse(*broken));
  }
  Plan plan = Api::PlanOf(head.method, head.target, head.content_type);
  exchange->route = plan.route;
  if (!head.content_encoding.empty() && !plan.answer) {
    plan.answer = ToResponse({.status = 415,
                              .detail = "bodies are taken as they are: send no "
                                        "Content-Encoding"});
  }
  if (head.expects_other && !plan.answer) {
    plan.answer = ToResponse({.status = 417, .detail = "Expect knows 100-continue only"});
  }
  // Who waits to be told to go on is told at once that it is in vain.
  if (plan.answer && head.expects_continue && head.has_body()) return end_with(*plan.answer);
  Body body(budget);
  if (const Io read =
          connection.ReadBody(head, plan.body_bytes_max, began + options.body_timeout, body);
      read != Io::kOk) {
    body.GiveBack();
    // An answer that does not need the body says more than that it is too long.
    return end_with(plan.answer ? *plan.answer
                                : ToResponse(ReadProblem(read, plan.body_bytes_max)));
  }
  if (!entry->Enter(Phase::kServing)) return false;
  entry->ExpectAnswer();
  Handle(plan, exchange, body.text());
  body.GiveBack();
  exchange->BodyGivenBack();
  return true;
}

void HttpServer::Impl::Handle(const Plan& plan, const std::shared_ptr<Exchange>& exchange,
                              std::string_view body) {
  // No handler of ours throws; std::bad_alloc may come from anywhere.
  std::string what;
  try {
    return api.Handle(plan, exchange->head.idempotency_keys, body,
                      [exchange](Response response) { exchange->Tell(std::move(response)); });
  } catch (const std::exception& e) {
    what = e.what();
  } catch (...) {
    what = "unknown";
  }
  rpc::LogError("a request failed with an exception", {{"what", what}});
  exchange->Tell(ToResponse({.status = 500, .detail = "the request could not be worked through"}));
}

void HttpServer::Impl::Stop(milliseconds grace) {
  draining.store(true);
  acceptor->Stop();
  std::vector<std::thread> joined;
  std::deque<int> refused;
  {
    absl::MutexLock lock(&mutex);
    ended = true;
    work.SignalAll();
    const auto drained = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
      return live.empty() && pending.empty() && in_hand == 0;
    };
    const milliseconds idle_time = std::min(grace, options.idle_at_stop);
    mutex.AwaitWithTimeout(absl::Condition(&drained), absl::FromChrono(idle_time));
    ending.store(true);
    // Reading ends behind what has already arrived.
    for (Live* entry : live) {
      if (entry->phase() == Phase::kIdle) entry->EndReading();
    }
    if (!mutex.AwaitWithTimeout(absl::Condition(&drained), absl::FromChrono(grace - idle_time))) {
      rpc::LogWarn("connections are cut off after the grace",
                   {{"connections", live.size() + pending.size() + in_hand}});
      cut = true;
      for (Live* entry : live) entry->EndAll();
      refused.swap(pending);
    }
    joined.swap(workers);
  }
  for (const int each : refused) Refuse(each);
  for (std::thread& worker : joined) worker.join();
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() { Stop(milliseconds(0)); }

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(Api& api, HttpServerOptions options) {
  absl::StatusOr<std::vector<rpc::Listener>> listeners = rpc::Listen(options.listen);
  if (!listeners.ok()) return listeners.status();
  auto impl = std::make_unique<Impl>(api, std::move(options));
  rpc::Acceptor::Options accepting;
  accepting.name = "http";
  accepting.takes_last = true;
  accepting.take = [impl = impl.get()](int fd) { impl->Admit(fd); };
  accepting.make_room = [impl = impl.get()] {
    absl::MutexLock lock(&impl->mutex);
    impl->Evict();
  };
  absl::StatusOr<std::unique_ptr<rpc::Acceptor>> acceptor =
      rpc::Acceptor::Start(*std::move(listeners), std::move(accepting));
  if (!acceptor.ok()) return acceptor.status();
  impl->acceptor = *std::move(acceptor);
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

int HttpServer::port() const { return impl_->acceptor->port(); }

void HttpServer::Drain() { impl_->draining.store(true); }

void HttpServer::Stop(milliseconds grace) { impl_->Stop(grace); }

}  // namespace allezon::gateway
