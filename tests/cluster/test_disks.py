# SPDX-License-Identifier: Apache-2.0
"""A disk that fails costs its node, nobody else, and only for as long as it fails."""

import os
import signal

import pytest

from disks import Disks, NoDisks
from running import READY_TIMEOUT_S, TIME_SCALE, wait_until
from traffic import Traffic


@pytest.mark.parametrize("id_", ["p1", "a1"])
def test_a_node_whose_disk_went_away_comes_back_with_it(fresh_cluster, id_):
    cluster = fresh_cluster(gateways=2, with_disks=True)
    log = cluster.log_path(id_)
    with Traffic(cluster.http) as traffic:
        traffic.go_on(100)
        cluster.disks.cut_power(id_)
        wait_until(lambda: log.read_text().count('"message":"cannot serve yet') >= 2, 30 * TIME_SCALE,
                   "it has tried to open its folder")
        assert cluster.running(id_), cluster.log_tail(id_)
        traffic.go_on(300)
        cluster.disks.give_power(id_)
        wait_until(lambda: cluster.stores(id_), READY_TIMEOUT_S, "the disk is written to again")
        cluster.wait_serving(id_)
        traffic.go_on(100)
    traffic.assert_no_failure()
    cluster.wait_equal()
    traffic.check(cluster.http[0])


@pytest.mark.parametrize("service", ["profile", "aggregate"])
def test_what_is_acknowledged_survives_the_power_of_a_whole_service(fresh_cluster, service):
    cluster = fresh_cluster(gateways=1, with_disks=True)
    nodes = cluster.ids(service)
    with Traffic(cluster.http) as traffic:
        traffic.go_on(300)
    traffic.assert_no_failure()
    for id_ in nodes:
        cluster.disks.cut_power(id_)
    for id_ in nodes:
        cluster.kill(id_, signal.SIGKILL)
        cluster.disks.give_power(id_)
        cluster.restart(id_)
    cluster.wait_ready()
    cluster.wait_serving()
    traffic.check(cluster.http[0])
    cluster.wait_equal()


@pytest.fixture
def disks(tmp_path):
    try:
        with Disks(tmp_path, ["p0"]) as disks:
            yield disks
    except NoDisks as error:
        pytest.skip(str(error))


def test_without_power_what_was_synced_stays_and_nothing_else(disks, tmp_path):
    data = tmp_path / "data" / "p0"
    for name in ("synced", "not_synced"):
        with (data / name).open("wb") as file:
            file.write(name.encode())
            file.flush()
            if name == "synced":
                os.fsync(file.fileno())
    disks.cut_power("p0")
    with pytest.raises(OSError):
        (data / "later").write_bytes(b"later")
    disks.give_power("p0")
    kept = {file.name: file.read_bytes() for file in data.iterdir()}
    assert kept.pop("synced") == b"synced"
    assert kept in ({}, {"not_synced": b""})
    (data / "later").write_bytes(b"later")


def test_a_disk_that_is_filled_has_no_room_until_it_heals(disks, tmp_path):
    data = tmp_path / "data" / "p0"
    disks.fill("p0")
    with pytest.raises(OSError, match="No space"), (data / "file").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    disks.heal()
    (data / "file").write_bytes(bytes(1 << 20))
