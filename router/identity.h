// SPDX-License-Identifier: Apache-2.0
//
// Who a call is for and who answers it. An address is no identity: it may lead to another process
// tomorrow, so each call says whom it means, and each answer who gave it.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "allezon/v1/identity.pb.h"

namespace allezon::router {

inline constexpr std::string_view kClusterDefault = "allezon";

// kInvalidArgument where a cluster cannot be called so: 1 to 64 letters, digits, '-', '_' or '.'.
absl::Status CheckClusterName(std::string_view cluster);

// "profile/p0 of cluster allezon".
std::string NameOf(const v1::NodeIdentity& node);
// "version 0.1.0", or "an unknown version".
std::string VersionOf(const v1::NodeIdentity& node);

// What is to be done where they do not get along, as the end of a sentence.
inline constexpr char kOneVersion[] =
    "; a cluster runs one version: stop all its programs before another version starts";

// Whether programs of these versions may call each other: what decides that, for all calls. Today
// only equal ones do. Empty: a version that does not tell, which gets along with none.
bool GetAlong(std::string_view version, std::string_view other);

// Whether `node` is whom `meant` means, of a version that gets along; what that leaves open, the
// disk and the incarnation, may be any. Else kFailedPrecondition; the message begins with `what`
// node is ("this is", "the answer is by") and names both.
absl::Status CheckIsMeant(std::string_view what, const v1::NodeIdentity& node,
                          const v1::NodeIdentity& meant);

// kFailedPrecondition, and the answer counts for nothing, where somebody else than `asked` gave it.
absl::Status CheckAnswerBy(const v1::NodeIdentity& by, const v1::NodeIdentity& asked);

}  // namespace allezon::router
