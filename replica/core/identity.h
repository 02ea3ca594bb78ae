// SPDX-License-Identifier: Apache-2.0
//
// Who this node is, and who its peers are: what is checked of every call between nodes before
// anything is made of it. Without I/O, so that the simulation runs it too.
//
// A peer is introduced by a poll, in either direction: then its disk and its process (its
// incarnation) are known, and every other call names them and is refused by any other. So a vote,
// or an answer that a sync goes by, is always that of the process which was polled last.
//
// Of two processes under one id the one with the higher incarnation is the node; incarnations rise
// with every start of a folder, whatever the clock says. A folder that was used before, but not by
// the latest process under its id, is an old copy: it may lack what it vouches for.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "allezon/v1/replica.pb.h"

namespace allezon::replica {

// Thread-safe.
class Identities {
 public:
  // `own` is complete; its instance is one of `instances`, the ids of the placement in its order.
  // `previous_incarnation`: of the process that had the data folder before; 0: it is new.
  Identities(v1::NodeIdentity own, uint64_t previous_incarnation,
             std::vector<std::string> instances);

  v1::NodeIdentity own() const;

  // --- as the one who is called ---

  // Whether a call is for this node. kFailedPrecondition names both; also once MustEnd.
  absl::Status CheckTo(const v1::NodeIdentity& to) const;
  // The index of the caller's instance, where the caller is the process that was introduced under
  // that id. kFailedPrecondition: it is not, or not yet.
  absl::StatusOr<uint32_t> CheckFrom(const v1::NodeIdentity& from) const;
  // Answers a poll as far as identities go; call CheckTo before. The index of the asker's instance;
  // none where its place is taken: then `response` says so, and must say nothing else.
  // kFailedPrecondition: it is no peer.
  absl::StatusOr<std::optional<uint32_t>> Polled(const v1::PollRequest& request,
                                                 v1::PollResponse& response);
  // Whoever answers puts this into the response.
  void SetBy(v1::NodeIdentity& by) const;

  // --- as the caller ---

  // Fill in whom a call to the peer is for, and who calls.
  void SetTo(uint32_t peer, v1::NodeIdentity& to) const;
  void SetFrom(v1::NodeIdentity& from) const { SetBy(from); }
  // The same for a poll, which is for whoever is under the peer's name.
  void SetPoll(uint32_t peer, v1::PollRequest& request) const;
  // kUnavailable, and the answer counts for nothing: it is not by the process that was introduced
  // as that peer.
  absl::Status CheckBy(uint32_t peer, const v1::NodeIdentity& by) const;
  // Takes the answer to a poll; what it introduces holds from then on. kUnavailable: as above, or
  // the peer refused to tell anything, since this process' place is taken.
  absl::Status PollAnswered(uint32_t peer, const v1::PollResponse& response);

  // --- what that means for this process ---

  // Whether any peer has taken this process for the node. Until then its folder may be an old copy.
  bool WasAccepted() const;
  // Whether every peer that has taken it for the node has also called it, and so reaches it where
  // it is now. A peer that was never heard of does not matter.
  bool IsReachedByAll() const;

  // kFailedPrecondition: this process is not the node any more, or its folder is an old copy; the
  // message says what to do. It must end; nothing it says is believed.
  absl::Status MustEnd() const;
  // A new folder whose clock is behind: peers know of a later incarnation under this id. This one
  // must be stored and then given to Raise.
  std::optional<uint64_t> WantedIncarnation() const;
  void Raise(uint64_t incarnation);

 private:
  // The latest process that was introduced as an instance.
  struct Known {
    std::string disk;
    uint64_t incarnation = 0;   // 0: none was
    bool has_accepted = false;  // it took this process for the node
    bool has_called = false;    // it has polled this process
  };
  enum class Introduction { kAccepted, kSuperseded, kStaleCopy };

  Introduction Introduce(uint32_t instance, const v1::NodeIdentity& node, uint64_t previous)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Cluster, service, and an instance of the placement other than this one.
  absl::StatusOr<uint32_t> IndexOfPeer(const v1::NodeIdentity& from) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  v1::NodeIdentity Named(uint32_t instance) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  void LearnRefusal(uint32_t peer, const v1::PollResponse& response)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const uint64_t previous_incarnation_;
  const std::vector<std::string> instances_;
  mutable absl::Mutex mutex_;
  v1::NodeIdentity own_ ABSL_GUARDED_BY(mutex_);
  std::vector<Known> known_ ABSL_GUARDED_BY(mutex_);   // by instance
  bool was_accepted_ ABSL_GUARDED_BY(mutex_) = false;  // by any peer
  uint64_t wanted_incarnation_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status must_end_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace allezon::replica
