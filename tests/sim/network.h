// SPDX-License-Identifier: Apache-2.0
//
// The links between all endpoints: nodes by instance, and after them the clients.
#pragma once

#include <vector>

#include "tests/sim/knobs.h"
#include "tests/sim/world.h"

namespace allezon::sim {

class Network {
 public:
  Network(World& world, const Knobs& knobs);

  // Delivers, late or never. Messages overtake each other. With `may_repeat` it may come twice.
  void Send(int from, int to, bool may_repeat, const Task& deliver);

  // One direction passes nothing until then.
  void Cut(int from, int to, Time until);
  // One direction holds back everything until then.
  void Clog(int from, int to, Time until);
  // The address of `to` leads to another node until then.
  void Stray(int to, int instead, Time until);
  // Where a message to that endpoint comes to now.
  int Destination(int to) const {
    return world_.now() < strays_[to].until ? strays_[to].instead : to;
  }
  // Nothing is lost or late from now on; what is held back comes through.
  void Heal();

  int endpoints() const { return endpoints_; }

 private:
  struct Link {
    Time cut_until = 0;
    Time clogged_until = 0;
  };
  struct Address {
    int instead = 0;
    Time until = 0;
  };
  Link& At(int from, int to) { return links_[from * endpoints_ + to]; }
  Time Delay();

  World& world_;
  const Knobs& knobs_;
  const int endpoints_;
  std::vector<Link> links_;
  std::vector<Address> strays_;
  bool healed_ = false;
};

}  // namespace allezon::sim
