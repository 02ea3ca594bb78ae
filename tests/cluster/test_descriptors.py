# SPDX-License-Identifier: Apache-2.0
"""A process whose table of descriptors is full takes nobody new, goes on for all others, and takes whoever waits once it
has room again."""

import contextlib
import errno
import http.client
import os
import resource

import pytest

from descriptors import NoDescriptors, connect, hears
from running import READY_TIMEOUT_S, wait_until
from traffic import Traffic

SILENCE_S = 1.5
TABLE = 40  # descriptors that are left to fill


def open_descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def health(connection):
    connection.request("GET", "/healthz")
    response = connection.getresponse()
    response.read()
    return response.status


def failures(cluster, id_, listener):
    return cluster.metrics(id_).get(f'allezon_accept_failures_total{{listener="{listener}"}}', 0)


@pytest.fixture(scope="module")
def two_gateways(module_cluster_of):
    return module_cluster_of(gateways=2)


@pytest.mark.parametrize("id_", ["p1", "a1"])
def test_a_node_without_descriptors_serves_on_and_accepts_again(two_gateways, id_):
    cluster = two_gateways
    entry = cluster.entry(id_)
    before = failures(cluster, id_, "grpc"), failures(cluster, id_, "metrics")
    with Traffic(cluster.http) as traffic:
        traffic.go_on(100)
        with NoDescriptors(entry["pid"], [entry["grpc"], entry["metrics"]]) as no_more:
            grpc = no_more.connections[0]
            assert not hears(grpc, SILENCE_S), "a connection was accepted"
            traffic.go_on(300)
            assert cluster.running(id_)
            # Lets go of the limit, and not of the connections.
            resource.prlimit(entry["pid"], resource.RLIMIT_NOFILE, resource.prlimit(0, resource.RLIMIT_NOFILE))
            assert hears(grpc, READY_TIMEOUT_S), "a connection that has waited is not served"
        traffic.go_on(100)
    traffic.assert_no_failure()
    cluster.wait_serving(id_)
    assert failures(cluster, id_, "grpc") > before[0]
    assert failures(cluster, id_, "metrics") > before[1]
    log = cluster.log_path(id_).read_text()
    assert f'"listener":"grpc","error":"{os.strerror(errno.EMFILE)}"' in log
    assert '"message":"accepts connections again"' in log
    # Whoever is new must reach it: a gateway that starts, and through it all nodes.
    for gateway in cluster.ids("gateways"):
        cluster.kill(gateway)
        cluster.restart(gateway)
        cluster.wait_ready()
    assert hears(connect(entry["grpc"]), READY_TIMEOUT_S)
    traffic.check(cluster.http[0])


@pytest.mark.parametrize("id_", ["p0", "a2"])
def test_a_table_that_clients_have_filled_is_used_again_once_they_go(two_gateways, id_):
    cluster = two_gateways
    entry = cluster.entry(id_)
    limits = resource.prlimit(entry["pid"], resource.RLIMIT_NOFILE)
    resource.prlimit(entry["pid"], resource.RLIMIT_NOFILE, (open_descriptors(entry["pid"]) + TABLE, limits[1]))
    try:
        with contextlib.ExitStack() as clients, Traffic(cluster.http) as traffic:
            connections = [clients.enter_context(connect(entry["grpc"])) for _ in range(2 * TABLE)]
            served = [connection for connection in connections if hears(connection, SILENCE_S / 10)]
            waiting = [connection for connection in connections if connection not in served]
            assert 0 < len(served) <= TABLE and waiting
            traffic.go_on(200)
            for connection in served:
                connection.close()
            for connection in waiting[:TABLE // 2]:
                assert hears(connection, READY_TIMEOUT_S), "a connection that has waited is not served"
    finally:
        resource.prlimit(entry["pid"], resource.RLIMIT_NOFILE, limits)
    traffic.assert_no_failure()
    cluster.wait_serving(id_)
    assert hears(connect(entry["grpc"]), READY_TIMEOUT_S)
    traffic.check(cluster.http[0])


def test_a_gateway_without_descriptors_answers_whom_it_knows_and_ends_who_idles_for_who_waits(two_gateways):
    cluster = two_gateways
    entry = cluster.entry("g0")
    host, port = entry["http"].split(":")
    known, late = (http.client.HTTPConnection(host, int(port), timeout=READY_TIMEOUT_S) for _ in range(2))
    with contextlib.closing(known), contextlib.closing(late):
        assert health(known) == 200
        with NoDescriptors(entry["pid"]):
            late.request("GET", "/healthz")
            wait_until(lambda: health(known) == 200 and '"listener":"http"' in cluster.log_path("g0").read_text(),
                       READY_TIMEOUT_S, "it says that it cannot accept")
            # The other one idles from now on.
            assert late.getresponse().status == 200
    assert failures(cluster, "g0", "http") > 0
    cluster.wait_ready()


@pytest.mark.parametrize("id_", ["g0", "p0", "a0"])
def test_a_program_raises_its_soft_limit_at_the_start(two_gateways, id_):
    soft, hard = resource.prlimit(two_gateways.entry(id_)["pid"], resource.RLIMIT_NOFILE)
    assert soft == hard
