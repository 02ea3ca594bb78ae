# SPDX-License-Identifier: Apache-2.0
"""Short forms of ./dev faults: under load, while something is broken again and again, no answer is wrong, no request
fails (but for those that only a client's retry can save, and then none with it), and the replicas are equal at the end."""

import time

import pytest

from faults import run_short
from flood import Flood
from running import SHORT
from verify import verify


@pytest.mark.parametrize("kind", ["kill", "term", "stop", "wipe", "all", "gateway"] if not SHORT else ["kill", "wipe", "stop"])
def test_under_load(fresh_cluster, kind):
    seconds = 24 if SHORT else 14
    run_short(fresh_cluster(gateways=2), kind, seconds, every_s=7 if kind == "stop" else 5)


@pytest.mark.skipif(SHORT, reason="what a sanitizer would find here it finds above")
@pytest.mark.parametrize("kind", ["fds", "full", "power", "blackout"])
def test_under_load_on_a_machine_that_fails(fresh_cluster, kind):
    cluster = fresh_cluster(gateways=2, with_disks=kind != "fds")
    run_short(cluster, kind, 22, every_s=12 if kind in ("fds", "full") else 6)


def test_a_cookie_with_a_minute_for_each_tag_stops_no_sync(fresh_cluster):
    cluster = fresh_cluster()
    flood = Flood(cluster.http, 500 if SHORT else 2000)
    end = time.monotonic() + 10
    flood.run(lambda: time.monotonic() >= end)
    print(flood.text())
    assert flood.acknowledged > 0 and flood.uncertain == 0, flood.text()
    for id_ in ("p0", "a0"):
        cluster.restart_wiped(id_)
    cluster.wait_serving()
    report = verify(cluster.folder, ())
    assert not report.problems, report.text()
    assert report.events == {"profile": flood.acknowledged, "aggregate": flood.acknowledged}
