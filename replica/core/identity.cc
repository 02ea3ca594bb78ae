// SPDX-License-Identifier: Apache-2.0
#include "replica/core/identity.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "router/identity.h"

namespace allezon::replica {

using router::CheckAnswerBy;
using router::CheckIsMeant;
using router::NameOf;
using router::VersionOf;

Identities::Identities(v1::NodeIdentity own, uint64_t previous_incarnation,
                       std::vector<std::string> instances)
    : previous_incarnation_(previous_incarnation),
      instances_(std::move(instances)),
      own_(std::move(own)),
      known_(instances_.size()) {}

v1::NodeIdentity Identities::own() const {
  absl::ReaderMutexLock lock(&mutex_);
  return own_;
}

// --- as the one who is called ---

absl::Status Identities::CheckTo(const v1::NodeIdentity& to) const {
  absl::ReaderMutexLock lock(&mutex_);
  if (!must_end_.ok()) return must_end_;
  return CheckIsMeant("this is", own_, to);
}

absl::StatusOr<uint32_t> Identities::CheckFrom(const v1::NodeIdentity& from) const {
  absl::ReaderMutexLock lock(&mutex_);
  const absl::StatusOr<uint32_t> instance = IndexOfPeer(from);
  if (!instance.ok()) return instance.status();
  const Known& known = known_[*instance];
  if (from.incarnation() == known.incarnation && from.disk() == known.disk) return *instance;
  if (from.incarnation() <= known.incarnation) {
    return absl::FailedPreconditionError(
        absl::StrCat("the call is by incarnation ", from.incarnation(), " of ", NameOf(from),
                     ", whose place incarnation ", known.incarnation, " has taken"));
  }
  return absl::FailedPreconditionError(absl::StrCat("the call is by incarnation ",
                                                    from.incarnation(), " of ", NameOf(from),
                                                    ", which no poll has introduced yet"));
}

absl::StatusOr<std::optional<uint32_t>> Identities::Polled(const v1::PollRequest& request,
                                                           v1::PollResponse& response) {
  absl::MutexLock lock(&mutex_);
  *response.mutable_by() = own_;
  response.set_previous_incarnation(previous_incarnation_);
  const absl::StatusOr<uint32_t> instance = IndexOfPeer(request.from());
  if (!instance.ok()) return instance.status();
  switch (Introduce(*instance, request.from(), request.previous_incarnation())) {
    case Introduction::kAccepted:
      known_[*instance].has_called = true;
      return std::optional<uint32_t>(*instance);
    case Introduction::kSuperseded:
      response.set_superseded_by(known_[*instance].incarnation);
      break;
    case Introduction::kStaleCopy:
      response.set_is_stale_copy(true);
      break;
  }
  return std::optional<uint32_t>();
}

void Identities::SetBy(v1::NodeIdentity& by) const {
  absl::ReaderMutexLock lock(&mutex_);
  by = own_;
}

absl::StatusOr<uint32_t> Identities::IndexOfPeer(const v1::NodeIdentity& from) const {
  if (from.cluster() != own_.cluster() || from.service() != own_.service()) {
    return absl::FailedPreconditionError(
        absl::StrCat("this is ", NameOf(own_), ", the call is by ", NameOf(from)));
  }
  if (!router::GetAlong(own_.version(), from.version())) {
    return absl::FailedPreconditionError(
        absl::StrCat("this is ", NameOf(own_), " in ", VersionOf(own_), ", the call is by ",
                     NameOf(from), " in ", VersionOf(from), router::kOneVersion));
  }
  const auto found = std::find(instances_.begin(), instances_.end(), from.instance());
  if (found == instances_.end()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the call is by ", NameOf(from), ", which is none of the instances"));
  }
  if (from.instance() == own_.instance()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the call is by ", NameOf(from), ", which this process is itself"));
  }
  if (from.disk().empty() || from.incarnation() == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("the call by ", NameOf(from), " does not say of which disk and incarnation"));
  }
  return static_cast<uint32_t>(found - instances_.begin());
}

Identities::Introduction Identities::Introduce(uint32_t instance, const v1::NodeIdentity& node,
                                               uint64_t previous) {
  Known& known = known_[instance];
  if (node.incarnation() == known.incarnation && node.disk() == known.disk) {
    return Introduction::kAccepted;
  }
  if (node.incarnation() <= known.incarnation) return Introduction::kSuperseded;
  // Somebody was the node after the folder was used last. A folder that is new vouches for nothing.
  if (previous != 0 && previous < known.incarnation) return Introduction::kStaleCopy;
  known = {node.disk(), node.incarnation()};
  return Introduction::kAccepted;
}

// --- as the caller ---

v1::NodeIdentity Identities::Named(uint32_t instance) const {
  v1::NodeIdentity named;
  named.set_cluster(own_.cluster());
  named.set_service(own_.service());
  named.set_instance(instances_[instance]);
  named.set_version(own_.version());
  return named;
}

void Identities::SetTo(uint32_t peer, v1::NodeIdentity& to) const {
  absl::ReaderMutexLock lock(&mutex_);
  to = Named(peer);
  to.set_disk(known_[peer].disk);
  to.set_incarnation(known_[peer].incarnation);
}

void Identities::SetPoll(uint32_t peer, v1::PollRequest& request) const {
  absl::ReaderMutexLock lock(&mutex_);
  *request.mutable_to() = Named(peer);
  *request.mutable_from() = own_;
  request.set_previous_incarnation(previous_incarnation_);
}

absl::Status Identities::CheckBy(uint32_t peer, const v1::NodeIdentity& by) const {
  absl::ReaderMutexLock lock(&mutex_);
  v1::NodeIdentity meant = Named(peer);
  if (absl::Status s = CheckAnswerBy(by, meant); !s.ok())
    return absl::UnavailableError(s.message());
  const Known& known = known_[peer];
  if (known.incarnation == 0) {
    return absl::UnavailableError(
        absl::StrCat("the answer is by ", NameOf(by), ", which no poll has introduced yet"));
  }
  // What was introduced last holds, also where the call was made before.
  meant.set_disk(known.disk);
  meant.set_incarnation(known.incarnation);
  const absl::Status same = CheckAnswerBy(by, meant);
  return same.ok() ? same : absl::UnavailableError(same.message());
}

absl::Status Identities::PollAnswered(uint32_t peer, const v1::PollResponse& response) {
  absl::MutexLock lock(&mutex_);
  const v1::NodeIdentity& by = response.by();
  if (absl::Status s = CheckAnswerBy(by, Named(peer)); !s.ok()) {
    return absl::UnavailableError(s.message());
  }
  if (by.disk().empty() || by.incarnation() == 0) {
    return absl::UnavailableError(
        absl::StrCat("the answer by ", NameOf(by), " does not say of which disk and incarnation"));
  }
  switch (Introduce(peer, by, response.previous_incarnation())) {
    case Introduction::kAccepted:
      break;
    case Introduction::kSuperseded:
      return absl::UnavailableError(absl::StrCat("the answer is by incarnation ", by.incarnation(),
                                                 " of ", NameOf(by), ", whose place incarnation ",
                                                 known_[peer].incarnation, " has taken"));
    case Introduction::kStaleCopy:
      return absl::UnavailableError(
          absl::StrCat("the answer is by ", NameOf(by), " on an old copy of a data folder"));
  }
  if (response.superseded_by() == 0 && !response.is_stale_copy()) {
    was_accepted_ = true;
    known_[peer].has_accepted = true;
    return absl::OkStatus();
  }
  LearnRefusal(peer, response);
  return absl::UnavailableError(
      absl::StrCat(NameOf(by), " takes another process for ", NameOf(own_)));
}

void Identities::LearnRefusal(uint32_t peer, const v1::PollResponse& response) {
  const uint64_t later = response.superseded_by();
  // Said of an incarnation that this process has left behind by now.
  if (!must_end_.ok() || (later != 0 && later < own_.incarnation())) return;
  if (response.is_stale_copy() || (previous_incarnation_ != 0 && !was_accepted_)) {
    must_end_ = absl::FailedPreconditionError(absl::StrCat(
        "the data folder is an old copy: ", instances_[peer], " has heard of a later process of ",
        NameOf(own_),
        " than the one that used the folder last. It may lack tags that are taken for "
        "stored here. Empty the folder; the node then gets its data back from the others"));
  } else if (was_accepted_) {
    must_end_ = absl::FailedPreconditionError(absl::StrCat(
        "this process is ", NameOf(own_), " no longer: a later one under that id, of incarnation ",
        later, ", has taken its place, as ", instances_[peer], " says"));
  } else {
    wanted_incarnation_ = std::max(wanted_incarnation_, later + 1);
  }
}

// --- what that means for this process ---

bool Identities::WasAccepted() const {
  absl::ReaderMutexLock lock(&mutex_);
  return was_accepted_;
}

bool Identities::IsReachedByAll() const {
  absl::ReaderMutexLock lock(&mutex_);
  return std::all_of(known_.begin(), known_.end(),
                     [](const Known& known) { return !known.has_accepted || known.has_called; });
}

absl::Status Identities::MustEnd() const {
  absl::ReaderMutexLock lock(&mutex_);
  return must_end_;
}

std::optional<uint64_t> Identities::WantedIncarnation() const {
  absl::ReaderMutexLock lock(&mutex_);
  if (wanted_incarnation_ <= own_.incarnation() || was_accepted_ || !must_end_.ok()) {
    return std::nullopt;
  }
  return wanted_incarnation_;
}

void Identities::Raise(uint64_t incarnation) {
  absl::MutexLock lock(&mutex_);
  own_.set_incarnation(std::max(own_.incarnation(), incarnation));
}

}  // namespace allezon::replica
