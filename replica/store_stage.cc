// SPDX-License-Identifier: Apache-2.0
//
// What a commit changes, worked out before anything is written.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "replica/core/agreed_clock.h"
#include "replica/store.h"
#include "replica/store_internal.h"

namespace allezon::replica {

absl::StatusOr<std::vector<Store::Known>> Store::FindKnown(
    absl::Span<const LogEntry> entries) const {
  const size_t n = entries.size();
  std::string keys;  // one after the other
  keys.reserve(n * kLogKeyBytes);
  std::vector<rocksdb::Slice> slices(n);
  std::vector<rocksdb::ColumnFamilyHandle*> families(n);
  for (size_t i = 0; i < n; ++i) {
    // A keyed id is known whatever minute it came with, since the key and the cookie alone say that
    // it is the same tag.
    const std::string_view id = router::AsBytes(entries[i].id);
    const bool keyed = router::IsKeyed(id);
    const char* const key = keys.data() + keys.size();
    if (keyed) {
      AppendKeyedKey(entries[i].shard, id, keys);
    } else {
      AppendLogKey(entries[i].minute, entries[i].shard, id, keys);
    }
    slices[i] = {key, static_cast<size_t>(keys.data() + keys.size() - key)};
    families[i] = column_families_[keyed ? kKeyedCf : kLogCf];
  }
  std::vector<rocksdb::PinnableSlice> values(n);
  std::vector<rocksdb::Status> statuses(n);
  db_->MultiGet({}, n, families.data(), slices.data(), values.data(), statuses.data());
  std::vector<Known> known(n);
  for (size_t i = 0; i < n; ++i) {
    if (!statuses[i].ok() && !statuses[i].IsNotFound()) {
      return Checked(statuses[i], "looking up an event");
    }
    known[i].found = statuses[i].ok();
    if (!known[i].found || families[i] != column_families_[kKeyedCf]) continue;
    const auto value = ParseKeyedValue(values[i].ToStringView());
    if (!value) return absl::DataLossError("what is known of an idempotency key cannot be read");
    known[i].minute = value->minute;
    known[i].content_hash = value->content_hash;
  }
  return known;
}

absl::StatusOr<Store::Staged> Store::Stage(absl::Span<const LogEntry> entries) const {
  absl::StatusOr<std::vector<Known>> known = FindKnown(entries);
  if (!known.ok()) return known.status();
  Staged staged;
  staged.fresh.reserve(entries.size());
  // Indexes into `fresh`, and which of those come instead of an event that is in the set.
  absl::flat_hash_map<std::pair<ShardId, EventId>, size_t> in_batch;
  in_batch.reserve(entries.size());
  std::vector<std::pair<size_t, int64_t>> replacing;
  // Indexes into `entries`: their keys are known.
  std::vector<std::pair<size_t, int64_t>> again;
  {
    absl::MutexLock lock(&mutex_);
    for (size_t i = 0; i < entries.size(); ++i) {
      const LogEntry& entry = entries[i];
      const bool keyed = router::IsKeyed(router::AsBytes(entry.id));
      const bool found = (*known)[i].found;
      if (found && !(keyed && ContentHash(entry.tag) < (*known)[i].content_hash)) {
        if (keyed) again.emplace_back(i, (*known)[i].minute);
        continue;
      }
      // What retention expired does not come back by a late copy.
      if (entry.accepted_s <= expired_[entry.shard].Find(entry.minute).through_s) {
        // One that came by its key with another tag meanwhile stands for it.
        if (!found) staged.late.push_back(entry);
        continue;
      }
      const auto [at, first] = in_batch.try_emplace({entry.shard, entry.id}, staged.fresh.size());
      if (first) {
        if (found) replacing.emplace_back(staged.fresh.size(), (*known)[i].minute);
        staged.fresh.push_back(entry);
      } else if (LogEntry& rival = staged.fresh[at->second]; keyed) {
        // Whichever is kept, the key was accepted as late as the latest of them.
        const uint32_t accepted_s = std::max(entry.accepted_s, rival.accepted_s);
        if (ContentHash(entry.tag) < ContentHash(rival.tag)) rival = entry;
        rival.accepted_s = accepted_s;
      }
    }
  }
  for (const auto& [index, minute] : replacing) {
    LogEntry& fresh = staged.fresh[index];
    absl::Status status = StageRemoval(fresh, minute, staged);
    if (!status.ok()) return status;
    fresh.accepted_s = std::max(fresh.accepted_s, staged.removed.back().entry.accepted_s);
  }
  for (const auto& [index, minute] : again) {
    const auto instead = in_batch.find({entries[index].shard, entries[index].id});
    if (instead != in_batch.end()) {
      // What makes way in this very commit is not raised, but what comes instead.
      LogEntry& fresh = staged.fresh[instead->second];
      fresh.accepted_s = std::max(fresh.accepted_s, entries[index].accepted_s);
      continue;
    }
    absl::Status status = StageRaise(entries[index], minute, staged);
    if (!status.ok()) return status;
  }
  if (absl::Status status = StageDigests(staged); !status.ok()) return status;
  return staged;
}

absl::StatusOr<LogEntry> Store::ReadKnown(const LogEntry& by, int64_t minute, std::string& value,
                                          v1::Tag& tag) const {
  auto found = LookUp(by.shard, minute, router::AsBytes(by.id));
  if (!found.ok()) return found.status();
  if ((*found)[0]) value = *std::move((*found)[0]);
  const auto parsed = ParseLogValue(value);
  if (!parsed || !tag.ParseFromArray(parsed->tag.data(), static_cast<int>(parsed->tag.size()))) {
    return absl::DataLossError(absl::StrCat("an event of minute ", minute, " in ", options_.path,
                                            " is known by its key and cannot be read"));
  }
  return LogEntry{.shard = by.shard,
                  .minute = minute,
                  .time_ms = tag.time_ms(),
                  .id = by.id,
                  .accepted_s = parsed->accepted_s,
                  .tag = parsed->tag,
                  .parsed = &tag};
}

absl::Status Store::StageRemoval(const LogEntry& by, int64_t minute, Staged& staged) const {
  Removal& removal = staged.removed.emplace_back();
  absl::StatusOr<LogEntry> entry = ReadKnown(by, minute, removal.value, removal.tag);
  if (entry.ok()) removal.entry = *entry;
  return entry.status();
}

absl::Status Store::StageRaise(const LogEntry& again, int64_t minute, Staged& staged) const {
  std::string stored;
  Raise& raise = staged.raised.emplace_back();
  absl::StatusOr<LogEntry> entry = ReadKnown(again, minute, stored, raise.tag);
  if (!entry.ok()) return entry.status();
  const WallS slack_s = RaiseSlackS(absl::ToInt64Seconds(options_.retention));
  if (WallS{again.accepted_s} <= WallS{entry->accepted_s} + slack_s) {
    staged.raised.pop_back();
    return absl::OkStatus();
  }
  raise.value = SecondsValue(again.accepted_s);
  raise.value.append(entry->tag);
  raise.entry = *entry;
  raise.entry.accepted_s = again.accepted_s;
  raise.entry.tag = std::string_view(raise.value).substr(sizeof(uint32_t));
  return absl::OkStatus();
}

absl::Status Store::StageDigests(Staged& staged) const {
  DigestChange& change = staged.digests.emplace(digests_);
  for (const Raise& raise : staged.raised) {
    const absl::StatusOr<Bucket*> bucket = change.Of(raise.entry.minute, raise.entry.shard);
    if (!bucket.ok()) return bucket.status();
    (*bucket)->newest_accepted_s = std::max((*bucket)->newest_accepted_s, raise.entry.accepted_s);
  }
  for (const Removal& removal : staged.removed) {
    const absl::StatusOr<Bucket*> bucket = change.Of(removal.entry.minute, removal.entry.shard);
    if (!bucket.ok()) return bucket.status();
    (*bucket)->Remove(router::AsBytes(removal.entry.id), removal.entry.tag);
  }
  for (const LogEntry& entry : staged.fresh) {
    const absl::StatusOr<Bucket*> bucket = change.Of(entry.minute, entry.shard);
    if (!bucket.ok()) return bucket.status();
    (*bucket)->Add(router::AsBytes(entry.id), entry.accepted_s, entry.tag);
  }
  return change.Finish();
}

}  // namespace allezon::replica
