// SPDX-License-Identifier: Apache-2.0
//
// Tags by number, with the assignment's numbers of values: tag i is a pure function of the options,
// so that two stores can be filled with the same rows.
#pragma once

#include <cstdint>
#include <string>

#include "allezon/v1/tag.pb.h"

namespace allezon::bench {

struct SyntheticOptions {
  uint64_t seed = 1;
  int64_t start_ms = 0;
  double step_us = 1000;  // logical time between tags
  uint32_t cookies = 1'000'000;
  // Cookies one after the other, over and over, in turn with views and with buys: 400 rounds make
  // profiles of 200 + 200. Else random cookies, and one buy in five.
  bool in_turn = false;
};

void MakeTag(const SyntheticOptions& options, uint64_t index, v1::Tag& tag);

// Seconds, milliseconds, cookie, country, device, action, origin, brand, category, product, price,
// with tabs between them, and a line end.
void AppendTsv(const v1::Tag& tag, std::string& out);

}  // namespace allezon::bench
