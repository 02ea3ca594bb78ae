# SPDX-License-Identifier: Apache-2.0
"""A node that gets slow costs no more than one that dies: it loses its work to others until it is as fast again."""

import time

import pytest

from cgroups import NoCgroups
from faults import SLOW_STEPS, check_replicas
from load import Load, short
from quota import CpuQuota
from running import SHORT, wait_until

STEP_S = 4


def slow_of(cluster, service, instance):
    """Whether the gateways find the node slow with writes."""
    name = f'allezon_router_slow{{calls="writes",instance="{instance}",service="{service}"}}'
    return [cluster.metrics(id_).get(name) for id_ in cluster.ids("gateways")]


@pytest.mark.skipif(SHORT, reason="a build with a sanitizer is slow by itself")
@pytest.mark.parametrize("in_steps", [False, True], ids=["at once", "in steps"])
def test_a_disk_gets_slow_and_nobody_notices(fresh_cluster, in_steps):
    cluster = fresh_cluster(gateways=2, with_disks=True)
    steps = SLOW_STEPS["disk"] if in_steps else SLOW_STEPS["disk"][-1:] * 3
    with Load(cluster.http, **{**short(len(steps) * STEP_S + 8), "rate": 300}) as load:
        time.sleep(2)
        for step in steps:
            cluster.disks.slow("p1", step)
            cluster.disks.slow("a1", step)
            time.sleep(STEP_S)
        cluster.disks.heal()
        load.wait()
        print(load.text)
        load.assert_right()
        load.assert_no_failure()
        check_replicas(cluster, load)


@pytest.mark.skipif(SHORT, reason="a build with a sanitizer is slow by itself")
def test_who_is_slow_gets_its_work_back(fresh_cluster):
    cluster = fresh_cluster(gateways=1)
    with Load(cluster.http, **{**short(60), "rate": 300}) as load:
        try:
            with CpuQuota(cluster.entry("p1")["pid"], 0.02):
                wait_until(lambda: slow_of(cluster, "profile", "p1") == [1.0], 20, "p1 is found slow")
        except NoCgroups as error:
            load.stop()
            pytest.skip(str(error))
        wait_until(lambda: slow_of(cluster, "profile", "p1") == [0.0], 30, "p1 is as fast as the others")
        assert load.stop()["wrong"] == 0, load.text
        load.assert_no_failure()
