# SPDX-License-Identifier: Apache-2.0
"""Replicas: any one node of a service may be gone, and nobody notices; what comes back is whole before it is asked."""

import os
import pathlib
import signal
import subprocess

import grpc
import pytest

from api import MINUTE_MS, Gateway, bucket_text, make_tag, unique, unique_minute
from replicas import Replica
from running import READY_TIMEOUT_S, SHORT, TIME_SCALE, wait_until
from traffic import Traffic

# Over all shards and all nodes' share of coordinating, with few requests.
TAGS = 20 if SHORT else 60
ENTRIES = (["p0", "a0"], ["p1", "a1"], ["p2", "a2"])


def profile(gateway, cookie, consistency=None):
    return gateway.profile(cookie, **({"consistency": consistency} if consistency else {}))


def totals_query(start_ms, origin, consistency=None):
    query = (f"time_range={bucket_text(start_ms)}_{bucket_text(start_ms + MINUTE_MS)}&action=VIEW&origin={origin}"
             "&aggregates=COUNT&aggregates=SUM_PRICE")
    return f"{query}&consistency={consistency}" if consistency else query


def count_and_sum(gateway, start_ms, origin, consistency=None):
    row, = gateway.aggregates(totals_query(start_ms, origin, consistency))["rows"]
    return int(row[-2]), int(row[-1])


class Tags:
    """Tags of one minute and one origin, of a cookie each."""

    def __init__(self, count=TAGS):
        self.start_ms, self.origin = unique_minute(), unique("o")
        self.tags = [make_tag(ms=self.start_ms + i, origin=self.origin, price=i) for i in range(count)]
        self.total = (count, sum(range(count)))

    def store(self, *gateways):
        for i, tag in enumerate(self.tags):
            gateways[i % len(gateways)].store(tag)
        return self

    def check_gateway(self, gateway, consistency=None):
        for tag in self.tags:
            assert profile(gateway, tag["cookie"], consistency)["views"] == [tag]
        assert count_and_sum(gateway, self.start_ms, self.origin, consistency) == self.total

    def check_replica(self, cluster, id_):
        """What this node holds and answers by itself."""
        replica = Replica(cluster, id_)
        if id_ in cluster.ids("aggregate"):
            assert replica.scan(self.start_ms, 1, origin=self.origin) == [self.total]
            return
        for tag in self.tags:
            view, = replica.profile(tag["cookie"])["views"]
            assert (view.cookie, view.product_info.price) == (tag["cookie"], tag["product_info"]["price"])


def store_until_accepted(gateway, tags):
    """For a cluster that may just have come to itself; each tag counts once whatever was tried."""
    for tag in tags:
        key = unique("key")
        wait_until(lambda: gateway.post_tag(tag, Idempotency_Key=key).status == 204, READY_TIMEOUT_S,
                   "a tag is accepted")


@pytest.fixture(scope="module")
def gateways(module_cluster):
    return [Gateway(address) for address in module_cluster.http]


@pytest.mark.parametrize("consistency", [None, "one", "quorum"])
def test_what_one_gateway_stored_the_other_finds(module_cluster, gateways, consistency):
    for writer, reader in (gateways, gateways[::-1]):
        tags = Tags().store(writer)
        # Its own writes at once; the other's within the latency of visibility, at a quorum at once.
        if consistency == "quorum":
            tags.check_gateway(reader, consistency)
        tags.check_gateway(writer, consistency)
        wait_until(lambda: count_and_sum(reader, tags.start_ms, tags.origin, consistency) == tags.total,
                   10 * TIME_SCALE, "the other gateway shows them all")
        tags.check_gateway(reader, consistency)


def test_every_replica_holds_every_tag(module_cluster, gateways):
    tags = Tags().store(*gateways)
    module_cluster.wait_equal()
    for id_ in module_cluster.node_ids():
        tags.check_replica(module_cluster, id_)


@pytest.mark.parametrize("value", ["two", "", "ONE,QUORUM"])
def test_a_consistency_that_is_none_is_refused_by_name(gateways, value):
    answer = gateways[0].request("POST", "/user_profiles/x?time_range=2022-03-22T12:00:00_2022-03-22T12:01:00"
                                         f"&consistency={value}")
    assert answer.status == 400
    assert answer.problem()["field"] == "consistency"


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_no_request_fails_while_one_node_after_another_is_gone(module_cluster, sig):
    """Each node of both services is ended, misses writes, comes back, and holds them before it serves."""
    cluster = module_cluster
    with Traffic(cluster.http) as traffic:
        traffic.go_on(100)
        for pair in ENTRIES if not SHORT else ENTRIES[:1]:
            for id_ in pair:
                cluster.kill(id_, sig)
            traffic.go_on(200)
            for id_ in pair:
                cluster.restart(id_)
            cluster.wait_serving(*pair)
            traffic.go_on(100)
        # Long enough for reads of what was stored meanwhile.
    traffic.assert_no_failure()
    cluster.wait_equal()
    traffic.check(cluster.http[0])


@pytest.mark.parametrize("id_", ["p1", "a1"])
def test_gateways_are_ready_while_a_node_hangs(module_cluster, gateways, id_):
    module_cluster.wait_ready()  # and connected
    module_cluster.pause(id_)
    try:
        for gateway in gateways:
            answer = gateway.request("GET", "/readyz")
            assert answer.status == 200, answer.body
    finally:
        module_cluster.resume(id_)
        module_cluster.wait_serving(id_)


@pytest.mark.parametrize("pair", ENTRIES if not SHORT else ENTRIES[1:2], ids=lambda pair: "+".join(pair))
def test_a_node_that_comes_back_holds_what_it_missed_once_it_serves(module_cluster, gateways, pair):
    for id_ in pair:
        module_cluster.kill(id_)
    tags = Tags().store(*gateways)
    tags.check_gateway(gateways[0])
    for id_ in pair:
        module_cluster.restart(id_)
    module_cluster.wait_serving(*pair)
    for id_ in pair:
        tags.check_replica(module_cluster, id_)


def test_a_node_that_lost_its_disk_gets_everything_back_by_itself(module_cluster, gateways):
    before = Tags().store(*gateways)
    for id_ in ("p1", "a1"):
        module_cluster.kill(id_)
        module_cluster.wipe(id_)
    meanwhile = Tags().store(*gateways)
    for id_ in ("p1", "a1"):
        module_cluster.restart(id_)
    module_cluster.wait_serving("p1", "a1")
    for tags in (before, meanwhile):
        for id_ in ("p1", "a1"):
            tags.check_replica(module_cluster, id_)
    module_cluster.wait_equal()


def test_a_node_that_has_not_got_its_data_back_says_so_and_answers_no_read(fresh_cluster):
    """With one of its two peers away, a new disk may lack what only that one and itself had acknowledged."""
    cluster = fresh_cluster()
    gateway = Gateway(cluster.http[0])
    tags = Tags().store(gateway)
    cluster.wait_equal()
    for away, wiped in (("p0", "p1"), ("a0", "a1")):
        cluster.kill(away)
        cluster.restart_wiped(wiped)
    for id_, ask in (("p1", lambda replica: replica.profile(tags.tags[0]["cookie"])),
                     ("a1", lambda replica: replica.scan(tags.start_ms, 1))):
        # It listens, and holds all that the third has, and still may not answer.
        wait_until(lambda: cluster.events_or_none(id_) == len(tags.tags), READY_TIMEOUT_S, f"{id_} has synced")
        assert not cluster.serving(id_)
        with pytest.raises(grpc.RpcError) as refused:
            ask(Replica(cluster, id_))
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        assert refused.value.details()
    answer = gateway.post_tag(make_tag())
    assert answer.status == 503, "one joined replica is no quorum"
    assert answer.problem()["detail"]
    for away, wiped in (("p0", "p1"), ("a0", "a1")):
        cluster.restart(away)
        cluster.wait_serving(away, wiped)
        tags.check_replica(cluster, wiped)
    cluster.wait_ready()
    more = Tags(5).store(gateway)
    more.check_gateway(gateway, "quorum")


def test_two_replicas_that_both_must_store_refuse_tags_and_answer_queries_while_one_is_gone(fresh_cluster):
    cluster = fresh_cluster(profiles=2, aggregates=2, rf=2, write_quorum=2)
    gateway = Gateway(cluster.http[0])
    tags = Tags().store(gateway)
    for down in ("p1", "a1"):
        cluster.kill(down)
        answer = gateway.post_tag(make_tag())
        assert answer.status == 503
        assert answer.problem()["detail"]
        # Every acknowledged tag is on both: one alone answers for as long as it likes.
        for _ in range(3):
            tags.check_gateway(gateway, "one")
        cluster.restart(down)
        cluster.wait_serving(down)
        store_until_accepted(gateway, [make_tag()])


def test_with_a_write_quorum_of_one_writes_go_on_beside_a_single_node(fresh_cluster):
    cluster = fresh_cluster(profiles=2, aggregates=2, rf=2, write_quorum=1)
    gateway = Gateway(cluster.http[0])
    Tags().store(gateway)
    for down in ("p1", "a1"):
        cluster.kill(down)
    tags = Tags().store(gateway)
    for down in ("p1", "a1"):
        cluster.restart(down)
    cluster.wait_serving()
    cluster.wait_equal()
    for id_ in cluster.node_ids():
        tags.check_replica(cluster, id_)


def test_all_processes_killed_at_once_come_back_ready_by_themselves_with_everything(fresh_cluster):
    cluster = fresh_cluster(gateways=2)
    gateways = [Gateway(address) for address in cluster.http]
    everything = []
    for _ in range(1 if SHORT else 3):
        everything.append(Tags().store(*gateways))
        for id_ in cluster.process_ids():
            cluster.kill(id_)
        for id_ in cluster.process_ids():
            cluster.restart(id_)
        cluster.wait_ready()
        for tags in everything:
            tags.check_gateway(gateways[0])
    cluster.wait_serving()
    cluster.wait_equal()
    for id_ in cluster.node_ids():
        for tags in everything:
            tags.check_replica(cluster, id_)


def test_a_key_counts_once_over_two_gateways_and_the_deaths_of_nodes_between(module_cluster, gateways):
    cluster = module_cluster
    start_ms, origin = unique_minute(), unique("o")
    keyed = [(make_tag(ms=start_ms + i, origin=origin, price=1), unique("key")) for i in range(TAGS)]

    def send_all(gateway):
        for tag, key in keyed:
            gateway.store(tag, Idempotency_Key=key)

    send_all(gateways[0])
    for round_, pair in enumerate(ENTRIES if not SHORT else ENTRIES[:1]):
        for id_ in pair:
            cluster.kill(id_)
        send_all(gateways[(round_ + 1) % 2])
        for id_ in pair:
            cluster.restart(id_)
        cluster.wait_serving(*pair)
        send_all(gateways[round_ % 2])
    for gateway in gateways:
        for consistency in ("one", "quorum"):
            assert count_and_sum(gateway, start_ms, origin, consistency) == (TAGS, TAGS)
            for tag, _ in keyed:
                assert profile(gateway, tag["cookie"], consistency)["views"] == [tag]
    cluster.wait_equal()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs in a mount namespace of the node's own: root only")
@pytest.mark.parametrize("full, reserve_mib", [("p1", 64), ("a1", 64), ("p1", 0), ("a1", 0)])
def test_a_full_disk_of_one_node_fails_no_request_and_loses_nothing(fresh_cluster, full, reserve_mib, tmp_path):
    """With a reserve the node goes on by itself; without one a write of its own fails half-way, and it starts anew."""
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("there can be no mount namespaces here")
    # The node sees a tmpfs of its own over the folder that holds its data folder; it goes when the node ends.
    script = 'mount -t tmpfs -o size=256m none "$1" && mkdir "$1/$2" && shift 2 && exec "$@"'
    disk = tmp_path / "disk"
    disk.mkdir()
    cluster = fresh_cluster(
        gateways=2, prefixes={full: ["unshare", "--mount", "sh", "-c", script, "sh", str(disk), full]},
        extra_args={full: [f"--data={disk}/{full}", "--write_buffer_mib=4", f"--disk_reserve_mib={reserve_mib}"]})
    ballast = pathlib.Path(f"/proc/{cluster.entry(full)['pid']}/root{disk}/ballast")
    gateway = Gateway(cluster.http[0])
    heavy = []  # much for the disk: RocksDB has reserved some room for its log beforehand

    def healthy():
        try:
            return cluster.metrics(full)["allezon_store_healthy"] == 1
        except OSError:  # it starts anew
            return False

    def disk_is_full():
        tags = [make_tag(origin=unique("x" * 200), country="x" * 250) for _ in range(200)]
        gateway.store_batch(tags)
        heavy.extend(tags)
        return not healthy()

    with Traffic(cluster.http) as traffic:
        traffic.go_on(100)
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError):
            while file.write(bytes(1 << 16)):
                pass
        wait_until(disk_is_full, 60 * TIME_SCALE, f"the disk of {full} is full")
        traffic.go_on(300)
        assert cluster.running(full), cluster.log_tail(full)
        ballast.unlink()
        wait_until(healthy, READY_TIMEOUT_S, "the disk is written to again")
        traffic.go_on(100)
    traffic.assert_no_failure()
    cluster.wait_serving()
    cluster.wait_equal()
    traffic.check(cluster.http[0])
    for tag in heavy[:: max(1, len(heavy) // 100)]:
        assert gateway.profile(tag["cookie"])["views"] == [tag]
