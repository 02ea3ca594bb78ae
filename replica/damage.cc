// SPDX-License-Identifier: Apache-2.0
#include "replica/damage.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace allezon::replica {
namespace {

namespace fs = std::filesystem;

constexpr char kMarkName[] = "DAMAGED";
constexpr char kNewMarkName[] = "DAMAGED.tmp";
constexpr char kAsideName[] = "damaged";
constexpr char kMovingName[] = "damaged.moving";
constexpr char kLockName[] = "LOCK";
// By extent, as the mark's first line has it.
constexpr std::array<const char*, 3> kExtents = {"log", "data", "empty"};

// RocksDB's log files (doc/log_format in its sources): blocks of this size, and in them records
// that begin with a checksum, the length of what follows, and a kind.
constexpr uint64_t kBlockBytes = 32'768;
constexpr uint64_t kHeaderBytes = 7;
constexpr std::array<unsigned char, 2> kKindsThatGoOn = {2, 3};  // the first part, a middle one

absl::Status Fails(const std::string& path, std::string_view what, int error) {
  return absl::UnavailableError(absl::StrCat(path, " cannot be ",
                                             absl::string_view(what.data(), what.size()), ": ",
                                             std::strerror(error)));
}

absl::Status SyncPath(const std::string& path, int flags) {
  const int fd = open(path.c_str(), flags | O_CLOEXEC);
  if (fd < 0) return Fails(path, "opened", errno);
  const int failed = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  return failed == 0 ? absl::OkStatus() : Fails(path, "synced", failed);
}

absl::Status SyncFolder(const std::string& folder) {
  return SyncPath(folder, O_RDONLY | O_DIRECTORY);
}

}  // namespace

bool IsOfDamage(const std::string& name) {
  return name == kMarkName || name == kNewMarkName || name == kAsideName || name == kMovingName;
}

absl::StatusOr<std::optional<DamageMark>> ReadDamageMark(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/", kMarkName);
  std::error_code error;
  if (!fs::exists(path, error)) {
    if (error) return Fails(path, "looked for", error.value());
    return std::nullopt;
  }
  std::ifstream file(path);
  std::string extent;
  DamageMark mark;
  std::getline(file, extent);
  std::getline(file, mark.detail);
  const auto found = std::find(kExtents.begin(), kExtents.end(), extent);
  if (!file || found == kExtents.end()) {
    return absl::DataLossError(absl::StrCat(path, " cannot be read"));
  }
  mark.extent = static_cast<DamageMark::Extent>(found - kExtents.begin());
  return mark;
}

absl::Status WriteDamageMark(const std::string& folder, const DamageMark& mark) {
  const std::string path = absl::StrCat(folder, "/", kMarkName);
  const std::string fresh = absl::StrCat(folder, "/", kNewMarkName);
  {
    std::string detail = mark.detail;
    std::replace(detail.begin(), detail.end(), '\n', ' ');
    std::ofstream file(fresh, std::ios::trunc);
    file << kExtents[static_cast<size_t>(mark.extent)] << '\n' << detail << '\n';
    file.close();
    if (!file) return Fails(fresh, "written", errno);
  }
  if (absl::Status s = SyncPath(fresh, O_RDONLY); !s.ok()) return s;
  std::error_code error;
  fs::rename(fresh, path, error);
  if (error) return Fails(path, "put in place", error.value());
  return SyncFolder(folder);
}

absl::Status RemoveDamageMark(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/", kMarkName);
  std::error_code error;
  fs::remove(path, error);
  if (error) return Fails(path, "removed", error.value());
  return SyncFolder(folder);
}

absl::Status SetAside(const std::string& folder) {
  const fs::path aside = fs::path(folder) / kAsideName;
  const fs::path moving = fs::path(folder) / kMovingName;
  std::error_code error;
  // What was set aside before was more than what has come back since.
  const bool is_second = fs::exists(aside, error);
  if (!is_second) fs::create_directory(moving, error);
  if (error) return Fails(moving.string(), "made", error.value());
  std::vector<fs::path> files;
  for (auto file = fs::directory_iterator(folder, error);
       !error && file != fs::directory_iterator(); file.increment(error)) {
    const std::string name = file->path().filename().string();
    if (!IsOfDamage(name) && name != kLockName) files.push_back(file->path());
  }
  if (error) return Fails(folder, "read", error.value());
  for (const fs::path& file : files) {
    if (is_second) {
      fs::remove_all(file, error);
    } else {
      fs::rename(file, moving / file.filename(), error);
    }
    if (error) return Fails(file.string(), "set aside", error.value());
  }
  if (!is_second) fs::rename(moving, aside, error);
  if (error) return Fails(moving.string(), "renamed", error.value());
  return SyncFolder(folder);
}

absl::StatusOr<bool> RemoveSetAside(const std::string& folder) {
  const fs::path aside = fs::path(folder) / kAsideName;
  std::error_code error;
  const bool is_there = fs::remove_all(aside, error) > 0;
  if (error) return Fails(aside.string(), "removed", error.value());
  return is_there;
}

absl::StatusOr<bool> LogEndsTorn(const std::string& folder) {
  std::error_code error;
  fs::path newest;
  uint64_t newest_number = 0;
  for (auto file = fs::directory_iterator(folder, error);
       !error && file != fs::directory_iterator(); file.increment(error)) {
    const fs::path& path = file->path();
    uint64_t number = 0;
    if (path.extension() != ".log" || !absl::SimpleAtoi(path.stem().string(), &number)) continue;
    if (newest.empty() || number > newest_number) {
      newest = path;
      newest_number = number;
    }
  }
  if (error) return Fails(folder, "read", error.value());
  if (newest.empty()) return false;
  const int fd = open(newest.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Fails(newest.string(), "opened", errno);
  const absl::Cleanup closing = [fd] { close(fd); };
  const uint64_t end = fs::file_size(newest, error);
  if (error) return Fails(newest.string(), "looked at", error.value());
  // Every block begins with a record, or the rest of one, so only the last has to be walked
  // through.
  uint64_t at = end == 0 ? 0 : (end - 1) / kBlockBytes * kBlockBytes;
  unsigned char kind = 0;
  while (at < end) {
    const uint64_t left_in_block = kBlockBytes - at % kBlockBytes;
    if (left_in_block < kHeaderBytes) {
      at += left_in_block;  // filled up with zeros
      continue;
    }
    if (end - at < kHeaderBytes) return true;
    std::array<unsigned char, kHeaderBytes> header{};
    if (pread(fd, header.data(), kHeaderBytes, static_cast<off_t>(at)) !=
        static_cast<ssize_t>(kHeaderBytes)) {
      return Fails(newest.string(), "read", errno);
    }
    const uint64_t length = header[4] | static_cast<uint64_t>(header[5]) << 8;
    kind = header[6];
    at += kHeaderBytes + length;
  }
  const bool goes_on =
      std::find(kKindsThatGoOn.begin(), kKindsThatGoOn.end(), kind) != kKindsThatGoOn.end();
  return at > end || goes_on;
}

}  // namespace allezon::replica
