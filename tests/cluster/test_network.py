# SPDX-License-Identifier: Apache-2.0
"""Real cuts between real processes, each in a network namespace of its own, under load with every answer compared."""

import signal
import subprocess
import sys
import time

import pytest

from api import MINUTE_MS, Gateway, make_tag, unique, unique_minute
from faults import check_replicas
from load import Load, short
from network import Network, NoNetwork
from replicas import Replica
from running import READY_TIMEOUT_S, ROOT, SHORT, TIME_SCALE, wait_until

IDS = ["g0", "g1", "p0", "p1", "p2", "a0", "a1", "a2"]
# Longer than a replica may lag behind what it vouches for (5 s), so that one that is cut off must notice.
CUT_S = 7
RETENTION_S = 8

# Asks a node from within its own namespace, in a process: threads of gRPC stay in the one that they began in.
ASK_HEALTH = f"""
import sys
sys.path.insert(0, {str(ROOT / 'tests/cluster')!r})
import grpc_api
health = grpc_api.health_messages()
answer = grpc_api.call(sys.argv[1], "grpc.health.v1.Health/Check", health.HealthCheckRequest(),
                       health.HealthCheckResponse)
print(answer.status == health.HealthCheckResponse.SERVING)
"""


@pytest.fixture
def network():
    try:
        network = Network(IDS).__enter__()
    except NoNetwork as error:
        pytest.skip(f"no network of its own: {error}")
    yield network
    network.__exit__()


@pytest.fixture
def cluster(network, fresh_cluster):
    """It goes before the network does."""
    return fresh_cluster(gateways=2, hosts=network.hosts, prefixes=network.prefixes)


def serving_by_itself(network, cluster, id_):
    done = subprocess.run([*network.prefixes[id_], sys.executable, "-c", ASK_HEALTH, cluster.entry(id_)["grpc"]],
                          capture_output=True, text=True, timeout=60 * TIME_SCALE, check=True)
    return done.stdout.strip() == "True"


CUTS = {
    "unplugged": lambda network: [network.unplug(id_) for id_ in ("p0", "a0")],
    "deaf": lambda network: [network.cut_in(id_) for id_ in ("p1", "a1")],
    "mute": lambda network: [network.cut_out(id_) for id_ in ("p2", "a2")],
    "from a peer": lambda network: (network.cut_between("p0", "p1"), network.cut_between("a1", "a2")),
    "from a gateway": lambda network: (network.cut_between("g0", "p1"), network.cut_between("g1", "a0")),
}


@pytest.mark.parametrize("kinds", [list(CUTS)] if not SHORT else [["unplugged"], ["from a peer"]], ids="+".join)
def test_a_node_of_each_service_is_cut_off_and_nobody_notices(network, cluster, kinds):
    seconds = len(kinds) * (CUT_S + 4) + 4
    with Load(cluster.http, **short(seconds)) as load:
        for kind in kinds:
            print(f"cut: {kind}")
            CUTS[kind](network)
            time.sleep(CUT_S)
            network.heal()
            cluster.wait_serving()
            cluster.wait_ready()
        assert load.running() or SHORT, "the cuts outlasted the load"
        load.wait()
        print(load.text)
        load.assert_right()
        if not SHORT:
            load.assert_no_failure()
        check_replicas(cluster, load)


@pytest.mark.parametrize("id_, cut", [("p0", "unplug"), ("a1", "cut_in"), ("p2", "cut_out")])
def test_a_node_that_is_cut_off_stops_serving_by_itself_and_is_back_once_it_can_be(network, cluster, id_, cut):
    assert serving_by_itself(network, cluster, id_)
    getattr(network, cut)(id_)
    wait_until(lambda: not serving_by_itself(network, cluster, id_), 30 * TIME_SCALE, f"{id_} notices that it is alone")
    network.heal()
    cluster.wait_serving()


def test_a_node_that_was_cut_off_for_longer_than_logs_reach_back_has_the_profiles_again(network, fresh_cluster):
    """What it missed is in no log any more, nor in the memory of who would have sent it: only in rows of its peers."""
    cluster = fresh_cluster(hosts=network.hosts, prefixes=network.prefixes,
                            extra_args={"profile": [f"--retention_s={RETENTION_S}"]})
    gateway = Gateway(cluster.http[0])
    network.unplug("p1")
    start_ms = unique_minute()
    tags = [make_tag(ms=start_ms + i) for i in range(10)]
    for tag in [*tags, make_tag(ms=start_ms + 10 * RETENTION_S * 1000 + MINUTE_MS)]:
        key = unique("key")
        wait_until(lambda: gateway.post_tag(tag, Idempotency_Key=key).status == 204, READY_TIMEOUT_S, "a tag is accepted")
    for id_ in ("p0", "p2"):
        cluster.kill(id_, signal.SIGTERM)
        cluster.restart(id_)
        cluster.wait_serving(id_)
    for id_ in ("p0", "p2"):
        wait_until(lambda: cluster.events_or_none(id_) == 1, READY_TIMEOUT_S, f"retention has come to {id_}")
    network.heal()
    cluster.wait_serving("p1")
    for tag in tags:
        view, = Replica(cluster, "p1").profile(tag["cookie"])["views"]
        assert view.cookie == tag["cookie"]


def answers_right_under_load(network, cluster, **flags):
    with Load(cluster.http, **flags) as load:
        load.wait()
        print(load.text)
        network.heal()
        load.assert_right()
        if not SHORT:
            load.assert_no_failure()
        cluster.wait_ready()
        check_replicas(cluster, load)


def test_with_one_packet_of_twenty_lost_everything_is_slower_and_nothing_wrong(network, cluster):
    """No time limit of 200 ms: TCP waits for that long before it sends again."""
    network.lose(5)
    answers_right_under_load(network, cluster, **short(12, rate=100 if SHORT else 300, timeout_ms=10_000, final_check=False,
                                                       cookies=300, speedup=100, aggregate_every=50))


def test_with_every_packet_20_ms_late_nothing_fails_and_nothing_is_wrong(network, cluster):
    try:
        network.delay(20)
    except NoNetwork as error:
        pytest.skip(str(error))
    answers_right_under_load(network, cluster, **short(10))
