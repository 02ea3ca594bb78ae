// SPDX-License-Identifier: Apache-2.0
#include "router/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace allezon::router {
namespace {

using testing::HasSubstr;

std::vector<Instance> MakeInstances(int n, int zones = 0) {
  std::vector<Instance> instances;
  for (int i = 0; i < n; ++i) {
    instances.push_back({absl::StrCat("p", i), absl::StrCat("host", i, ":7000"),
                         zones == 0 ? "" : absl::StrCat("zone", i % zones)});
  }
  return instances;
}

// "shard/instance" of every replica.
std::set<std::string> Replicas(const Placement& placement) {
  std::set<std::string> all;
  for (ShardId shard = 0; shard < placement.shards(); ++shard) {
    for (const Replica& replica : placement.replicas[shard]) {
      all.insert(absl::StrCat(shard, "/", placement.instances[replica.instance].id));
    }
  }
  return all;
}

size_t CountMoved(const Placement& before, const Placement& after) {
  const std::set<std::string> was = Replicas(before);
  const std::set<std::string> is = Replicas(after);
  return static_cast<size_t>(
      std::count_if(is.begin(), is.end(), [&](const std::string& r) { return !was.contains(r); }));
}

TEST(Placement, GivesEveryShardItsReplicasOnDifferentInstancesWithinTheBound) {
  for (int n = 1; n <= 24; ++n) {
    for (uint32_t rf = 1; rf <= 3 && rf <= static_cast<uint32_t>(n); ++rf) {
      const auto placement = MakePlacement(MakeInstances(n), 128, rf);
      ASSERT_TRUE(placement.ok());
      std::map<uint32_t, int> load;
      for (const auto& replicas : placement->replicas) {
        std::set<uint32_t> distinct;
        for (const Replica& replica : replicas) {
          EXPECT_EQ(replica.state, ReplicaState::kAvailable);
          distinct.insert(replica.instance);
          ++load[replica.instance];
        }
        ASSERT_EQ(distinct.size(), rf);
      }
      const double mean = 128.0 * rf / n;
      for (const auto& [instance, replicas] : load) {
        // One more than the bound where the last shards find only full instances.
        EXPECT_LE(replicas, std::ceil(mean * kLoadSlack) + 1) << n << " instances, rf " << rf;
      }
    }
  }
}

TEST(Placement, KeepsTheReplicasOfAShardInDifferentZonesWhereThereAreEnough) {
  for (const int n : {3, 4, 6, 9, 12}) {
    const auto placement = MakePlacement(MakeInstances(n, 3), 256, 3);
    ASSERT_TRUE(placement.ok());
    for (const auto& replicas : placement->replicas) {
      std::set<std::string> zones;
      for (const Replica& replica : replicas) {
        zones.insert(placement->instances[replica.instance].zone);
      }
      EXPECT_EQ(zones.size(), 3u);
    }
  }
}

TEST(Placement, FewerZonesThanReplicasStillGiveEveryReplica) {
  const auto placement = MakePlacement(MakeInstances(4, 1), 64, 3);
  ASSERT_TRUE(placement.ok());
  for (const auto& replicas : placement->replicas) EXPECT_EQ(replicas.size(), 3u);
}

TEST(Placement, MovesAboutOneNthWhenAnInstanceJoinsOrLeaves) {
  for (const int n : {3, 5, 8, 12, 20}) {
    for (const uint32_t rf : {1u, 2u, 3u}) {
      const uint32_t shards = 1024;
      const auto before = MakePlacement(MakeInstances(n), shards, rf);
      const auto after = MakePlacement(MakeInstances(n + 1), shards, rf);
      ASSERT_TRUE(before.ok() && after.ok());
      const double share = static_cast<double>(shards) * rf / (n + 1);
      // The bound makes a few more give way; 1.5 is what all these sizes keep.
      EXPECT_LE(CountMoved(*before, *after), share * 1.5) << n << " -> " << n + 1 << ", rf " << rf;
      EXPECT_LE(CountMoved(*after, *before), share * 1.5) << n + 1 << " -> " << n << ", rf " << rf;
    }
  }
}

TEST(Placement, IsTheSameInWhateverOrderTheInstancesAreGiven) {
  std::vector<Instance> instances = MakeInstances(7, 2);
  const auto first = MakePlacement(instances, 128, 3);
  std::mt19937 random(3);
  for (int i = 0; i < 20; ++i) {
    std::shuffle(instances.begin(), instances.end(), random);
    const auto again = MakePlacement(instances, 128, 3);
    EXPECT_EQ(again->version, first->version);
    EXPECT_EQ(again->instances, first->instances);
    EXPECT_EQ(again->replicas, first->replicas);
  }
}

TEST(Placement, HasAnotherVersionWheneverAnythingIsDifferent) {
  const std::vector<Instance> instances = MakeInstances(3);
  std::set<uint64_t> versions = {MakePlacement(instances, 128, 1)->version,
                                 MakePlacement(instances, 64, 1)->version,
                                 MakePlacement(instances, 128, 2)->version};
  for (size_t i = 0; i < 3; ++i) {
    std::vector<Instance> changed = instances;
    if (i == 0) changed[0].address = "elsewhere:1";
    if (i == 1) changed[0].zone = "z";
    if (i == 2) changed.pop_back();
    versions.insert(MakePlacement(changed, 128, 1)->version);
  }
  EXPECT_EQ(versions.size(), 6u);
}

// Data on disk depends on these: they must never change.
TEST(Placement, TestVectors) {
  const auto placement = MakePlacement(MakeInstances(3), 16, 2);
  ASSERT_TRUE(placement.ok());
  std::vector<std::string> rows;
  for (const auto& replicas : placement->replicas) {
    rows.push_back(absl::StrCat(replicas[0].instance, replicas[1].instance));
  }
  EXPECT_EQ(absl::StrJoin(rows, " "), "02 21 20 20 10 21 20 12 21 02 12 02 01 21 01 10");
  EXPECT_EQ(placement->version, 2673284487930285813u);
}

TEST(Placement, RefusesWhatCannotBe) {
  EXPECT_THAT(std::string(MakePlacement(MakeInstances(2), 128, 3).status().message()),
              HasSubstr("needs as many instances; there are 2"));
  EXPECT_FALSE(MakePlacement(MakeInstances(2), 0, 1).ok());
  EXPECT_FALSE(MakePlacement(MakeInstances(2), kShardsMax + 1, 1).ok());
  EXPECT_FALSE(MakePlacement(MakeInstances(2), 128, 0).ok());
}

TEST(ParseInstances, ReadsIdsAddressesAndZones) {
  const auto instances = ParseInstances("p0=127.0.0.1:7001,p1=[::1]:7002/zone-b");
  ASSERT_TRUE(instances.ok()) << instances.status();
  EXPECT_EQ((*instances)[0], (Instance{"p0", "127.0.0.1:7001", ""}));
  EXPECT_EQ((*instances)[1], (Instance{"p1", "[::1]:7002", "zone-b"}));
}

TEST(ParseInstances, NamesThePartAtFault) {
  for (const char* list :
       {"", "p0", "p0=", "p0=host", "p0=host:", "p0=:7", "p0=host:0", "p0=host:65536", "p0=host:x",
        "=host:1", "p 0=host:1", "p0=host:1,", "p0=host:1/", "p0=host:1/a b"}) {
    const auto instances = ParseInstances(list);
    EXPECT_EQ(instances.status().code(), absl::StatusCode::kInvalidArgument) << list;
    EXPECT_THAT(std::string(instances.status().message()), HasSubstr("'")) << list;
  }
  EXPECT_THAT(std::string(ParseInstances("a=h:1,a=h:2").status().message()),
              HasSubstr("the id 'a' is given twice"));
  EXPECT_THAT(std::string(ParseInstances("a=h:1,b=h:1").status().message()),
              HasSubstr("the address 'h:1' is given twice"));
}

}  // namespace
}  // namespace allezon::router
