# SPDX-License-Identifier: Apache-2.0
"""Nodes that come back under another address, as pods do: their name is all that the others know."""

import signal
import time

import pytest

from api import Gateway, make_tag
from faults import check_replicas
from load import Load, short
from names import Names, NoNames
from replicas import Replica
from running import READY_TIMEOUT_S, SHORT, TIME_SCALE, wait_until

FOUND_WITHIN_S = 2 * TIME_SCALE  # of its listening
SECONDS = 25  # of load
AWAY_S = 5 if SHORT else 30


@pytest.fixture
def names():
    try:
        made = Names(["p0", "p1", "p2", "a0", "a1", "a2"])
    except NoNames as error:
        pytest.skip(f"no names of its own: {error}")
    with made:
        yield made


def started(cluster, id_):
    """How often it has begun to listen, by its log."""
    return cluster.log_path(id_).read_text(errors="replace").count('"message":"listening"')


def test_a_node_under_a_new_address_serves_and_is_reached_within_two_seconds(names, fresh_cluster):
    cluster = fresh_cluster(names=names)
    gateway = Gateway(cluster.http[0])
    gateway.store(make_tag())
    for id_ in ("p1", "a1"):
        listens = started(cluster, id_)
        names.move(cluster, id_, signal.SIGKILL)
        wait_until(lambda: started(cluster, id_) > listens, READY_TIMEOUT_S, f"{id_} listens", every_s=0.01)
        at = time.monotonic()
        cluster.wait_serving(id_)
        took_s = time.monotonic() - at
        print(f"{id_} serves {took_s:.2f} s after it listens")
        assert took_s < FOUND_WITHIN_S


def test_nodes_move_one_after_the_other_and_no_request_fails(names, fresh_cluster):
    """The next one as soon as the last one says that it serves: then the others must reach it."""
    cluster = fresh_cluster(gateways=2, names=names)
    moves, end = 0, time.monotonic() + SECONDS - 4
    with Load(cluster.http, **short(SECONDS)) as load:
        while time.monotonic() < end:
            for service in ("profile", "aggregate"):
                names.move(cluster, cluster.ids(service)[moves % 3], signal.SIGKILL if moves % 2 else signal.SIGTERM)
            cluster.wait_serving()
            moves += 1
        load.wait()
        print(f"{moves} moves of a node of each service", load.text, sep="\n")
        assert moves > 2
        load.assert_right()
        if not SHORT:
            load.assert_no_failure()
        check_replicas(cluster, load)


def test_a_name_that_did_not_resolve_for_long_is_found_as_soon(names, fresh_cluster):
    """gRPC by itself asks again after one second, then less and less often."""
    cluster = fresh_cluster(names=names)
    gateway = Gateway(cluster.http[0])
    names.leave(cluster, "p1", signal.SIGKILL)
    tag = make_tag()
    end = time.monotonic() + AWAY_S
    while time.monotonic() < end:
        gateway.store(tag)
        time.sleep(0.5)
    listens = started(cluster, "p1")
    names.arrive(cluster, "p1")
    wait_until(lambda: started(cluster, "p1") > listens, READY_TIMEOUT_S, "p1 listens", every_s=0.01)
    at = time.monotonic()
    cluster.wait_serving("p1")
    took_s = time.monotonic() - at
    print(f"p1 serves {took_s:.2f} s after it listens")
    assert took_s < FOUND_WITHIN_S
    assert len(Replica(cluster, "p1").profile(tag["cookie"])["views"]) > 1
