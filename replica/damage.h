// SPDX-License-Identifier: Apache-2.0
//
// What a data folder remembers of damage that was found in it, from one process to the next, and
// what is done about it before RocksDB opens it. All of it is outside of RocksDB, which may be what
// is damaged.
//
// A folder with a mark is not opened as if nothing had happened: what it holds counts for nothing
// until enough peers have given back what it may lack. A mark goes once the folder itself says so.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace allezon::replica {

struct DamageMark {
  enum class Extent {
    kLog,    // what comes after the damage in the write-ahead log is lost, the rest is there
    kData,   // tables or the manifest: nothing in the folder is trusted
    kEmpty,  // the same, and all that was there is set aside
  };
  Extent extent = Extent::kLog;
  std::string detail;  // one line
};

// The folder's mark; none where it has none. kDataLoss: it has one that cannot be read, which says
// as much as one of kData. kUnavailable: the disk fails.
absl::StatusOr<std::optional<DamageMark>> ReadDamageMark(const std::string& folder);
// Marks the folder, durably and in one step, in place of the mark that it had. kUnavailable: the
// disk fails.
absl::Status WriteDamageMark(const std::string& folder, const DamageMark& mark);
absl::Status RemoveDamageMark(const std::string& folder);

// Whether the mark's own file, or a folder of what was set aside.
bool IsOfDamage(const std::string& name);

// Moves all that the folder holds into a folder in it, so that it is empty for RocksDB; where there
// is such a folder already, which holds more, it removes it. May be cut short, and called again.
// The caller has locked RocksDB's LOCK file, which stays.
absl::Status SetAside(const std::string& folder);
// Removes what was set aside, once all of it is back; whether there was any. Takes as long as the
// disk does.
absl::StatusOr<bool> RemoveSetAside(const std::string& folder);

// Whether the newest write-ahead log in the folder ends in the middle of a record. A write that was
// cut short leaves that behind; so does a damaged length, which hides whole records behind it.
absl::StatusOr<bool> LogEndsTorn(const std::string& folder);

}  // namespace allezon::replica
