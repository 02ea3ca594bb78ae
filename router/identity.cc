// SPDX-License-Identifier: Apache-2.0
#include "router/identity.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace allezon::router {
namespace {

constexpr size_t kNameBytesMax = 64;

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

bool IsNameCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
}

bool IsUnnamed(const v1::NodeIdentity& node) {
  return node.cluster().empty() && node.service().empty() && node.instance().empty();
}

std::string ShortNameOf(const v1::NodeIdentity& node) {
  return absl::StrCat(node.service(), "/", node.instance());
}

}  // namespace

absl::Status CheckClusterName(std::string_view cluster) {
  if (!cluster.empty() && cluster.size() <= kNameBytesMax &&
      std::all_of(cluster.begin(), cluster.end(), IsNameCharacter)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "--cluster: '", View(cluster), "' is not 1 to 64 letters, digits, '-', '_' or '.'"));
}

std::string NameOf(const v1::NodeIdentity& node) {
  return IsUnnamed(node) ? "nobody"
                         : absl::StrCat(ShortNameOf(node), " of cluster ", node.cluster());
}

bool GetAlong(std::string_view version, std::string_view other) {
  return !version.empty() && version == other;
}

std::string VersionOf(const v1::NodeIdentity& node) {
  return node.version().empty() ? "an unknown version" : absl::StrCat("version ", node.version());
}

absl::Status CheckIsMeant(std::string_view what, const v1::NodeIdentity& node,
                          const v1::NodeIdentity& meant) {
  const auto refuse = [&](absl::string_view is, absl::string_view is_for) {
    return absl::FailedPreconditionError(
        absl::StrCat(View(what), " ", is, ", the call is for ", is_for));
  };
  if (node.cluster() != meant.cluster()) return refuse(NameOf(node), NameOf(meant));
  if (node.service() != meant.service() || node.instance() != meant.instance()) {
    return refuse(NameOf(node), ShortNameOf(meant));
  }
  if (!GetAlong(node.version(), meant.version())) {
    return refuse(absl::StrCat(NameOf(node), " in ", VersionOf(node)),
                  absl::StrCat(VersionOf(meant), kOneVersion));
  }
  if (!meant.disk().empty() && node.disk() != meant.disk()) {
    return refuse(absl::StrCat(NameOf(node), " on disk ", node.disk()),
                  absl::StrCat("disk ", meant.disk()));
  }
  if (meant.incarnation() != 0 && node.incarnation() != meant.incarnation()) {
    return refuse(absl::StrCat(NameOf(node), " in incarnation ", node.incarnation()),
                  absl::StrCat("incarnation ", meant.incarnation()));
  }
  return absl::OkStatus();
}

absl::Status CheckAnswerBy(const v1::NodeIdentity& by, const v1::NodeIdentity& asked) {
  return CheckIsMeant("the answer is by", by, asked);
}

}  // namespace allezon::router
