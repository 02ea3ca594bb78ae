// SPDX-License-Identifier: Apache-2.0
//
// Compares an answer with what the contract promises, value for value.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "bench/load/oracle.h"
#include "bench/load/query.h"
#include "bench/load/stream.h"
#include "simdjson.h"

namespace allezon::load {

struct Verdict {
  enum class Kind {
    kRight,
    kWithinBounds,  // as right as can be said: writes that were never acknowledged are in it
    kWrong,
  };
  Kind kind = Kind::kRight;
  std::string diff;  // of a wrong answer: the first difference, short
};

// Not thread-safe; what it is given must outlive it.
class Checker {
 public:
  Checker(const TagStream& stream, const Oracle& oracle) : stream_(stream), oracle_(oracle) {}

  // Call when the answer arrives: what was sent since the query may have pushed tags out of the 200
  // that a profile keeps.
  Verdict Check(const ProfileQuery& query, std::string_view answer);
  Verdict Check(const AggregateQuery& query, std::string_view answer);

 private:
  std::string CheckList(const ProfileQuery& query, Action action,
                        const std::vector<std::string>& shown) const;

  const TagStream& stream_;
  const Oracle& oracle_;
  simdjson::dom::parser parser_;
};

}  // namespace allezon::load
