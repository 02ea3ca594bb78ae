// SPDX-License-Identifier: Apache-2.0
//
// A tag as a user of Redis would keep it: the newest 200 of each cookie and action in a sorted set,
// and a counter pair for every combination of filters, all in one transaction, then WAIT for the
// replica.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "allezon/v1/tag.pb.h"

struct redisContext;

namespace allezon::bench {

// Queues the commands of one tag, in one go; `member` is what the profile keeps. `replicas` must
// have it besides the primary.
void AppendTag(redisContext* redis, const v1::Tag& tag, std::string_view member, int replicas);

// Counts the replies of the commands of AppendTag, in order. Not thread-safe.
class TagReplies {
 public:
  explicit TagReplies(int replicas) : replicas_(replicas) {}
  // Takes one reply (a redisReply) and frees it. True where it was the last one of a tag.
  bool Take(void* reply);
  // Of the tag whose last reply was taken: committed, and as many replicas have it.
  bool ok() const { return ok_; }

 private:
  const int replicas_;
  int taken_ = 0;
  bool ok_ = true;
};

}  // namespace allezon::bench
