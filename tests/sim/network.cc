// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/network.h"

#include <algorithm>

namespace allezon::sim {

Network::Network(World& world, const Knobs& knobs)
    : world_(world),
      knobs_(knobs),
      endpoints_(knobs.nodes + 1),
      links_(static_cast<size_t>(endpoints_) * endpoints_),
      strays_(static_cast<size_t>(endpoints_)) {}

Time Network::Delay() {
  if (healed_) return 500;
  if (world_.random.Chance(knobs_.straggle)) {
    return world_.random.Between(knobs_.delay_min_us, knobs_.straggle_max_us);
  }
  return world_.random.Between(knobs_.delay_min_us, knobs_.delay_max_us);
}

void Network::Send(int from, int to, bool may_repeat, const Task& deliver) {
  const Link& link = At(from, to);
  if (world_.now() < link.cut_until) return;
  if (!healed_ && world_.random.Chance(knobs_.loss)) return;
  const int copies = may_repeat && !healed_ && world_.random.Chance(knobs_.duplicate) ? 2 : 1;
  for (int i = 0; i < copies; ++i) {
    world_.At(std::max(world_.now(), link.clogged_until) + Delay(), deliver);
  }
}

void Network::Cut(int from, int to, Time until) {
  At(from, to).cut_until = until;
  world_.Note("cut towards", from, to, -1, -1, until - world_.now());
}

void Network::Clog(int from, int to, Time until) {
  At(from, to).clogged_until = until;
  world_.Note("clogged towards", from, to, -1, -1, until - world_.now());
}

void Network::Stray(int to, int instead, Time until) {
  strays_[to] = {instead, until};
  world_.Note("address leads to", to, instead, -1, -1, until - world_.now());
}

void Network::Heal() {
  healed_ = true;
  std::fill(links_.begin(), links_.end(), Link{});
  std::fill(strays_.begin(), strays_.end(), Address{});
}

}  // namespace allezon::sim
