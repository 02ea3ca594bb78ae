# SPDX-License-Identifier: Apache-2.0
"""./dev verify: it is silent where all is well, also beside a load, and names what is not."""

import contextlib
import json
import subprocess
import time
import uuid

import pytest

import grpc_api
from api import MINUTE_MS, Gateway, make_tag, time_text, unique, unique_minute
from inner import Node
from load import Load, short
from placement import Instance, keyed_event_id, make_placement, parse_instances, shard_of
from running import READY_TIMEOUT_S, ROOT, SHORT, wait_until
from verify import PATIENCE_S, verify
from verify_service import UsageError
from verify_tags import TagLine, parse_time

NODES = 5
TAGS = 60


@pytest.fixture(scope="module")
def five(module_cluster_of):
    return module_cluster_of(profiles=NODES, aggregates=NODES, rf=3)


@contextlib.contextmanager
def nodes_of(cluster, service):
    """{id: Node}"""
    nodes = {entry["id"]: Node(service, entry) for entry in cluster.entries[service]}
    try:
        yield nodes
    finally:
        for node in nodes.values():
            node.close()


def dev_verify(*arguments):
    done = subprocess.run([str(ROOT / "dev"), "verify", *map(str, arguments)], text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False)
    return done.returncode, done.stdout


def stored_tags(cluster, count=TAGS, **fields):
    """TagLine fields of tags that were acknowledged, half of them with keys, some of one cookie at one time."""
    gateway = Gateway(cluster.http[0])
    start_ms, twins = unique_minute(), unique()
    lines = []
    for i in range(count):
        tag = make_tag(twins if i % 10 == 0 else None, start_ms + i % 7 * MINUTE_MS, price=i % 3, **fields)
        key = unique("key") if i % 2 else None
        gateway.store(tag, **({"Idempotency_Key": key} if key else {}))
        lines.append({**tag, **({"key": key} if key else {})})
    return lines


# --- placement, as the unit tests of router/ have it ---


def test_placement_is_that_of_the_nodes():
    placement = make_placement([Instance(f"p{i}", f"host{i}:7000") for i in range(3)], 16, 2)
    assert " ".join("".join(id_[1] for id_ in ids) for ids in placement.replicas) == \
        "02 21 20 20 10 21 20 12 21 02 12 02 01 21 01 10"
    assert placement.version == 2673284487930285813
    assert keyed_event_id("key", "c1").hex() == "f47515cb6100b958d225843c815f491e"
    assert [shard_of(cookie, shards) for cookie, shards in
            (("", 128), ("c1", 128), ("zażółć", 128), ("x" * 256, 4096))] == [66, 2, 113, 3785]
    assert parse_instances("p0=127.0.0.1:7001,p1=[::1]:7002/zone-b")[1] == Instance("p1", "[::1]:7002", "zone-b")
    assert parse_time("2022-03-22T12:15:00.5Z") == parse_time(time_text(1647951300500))


def test_nodes_hold_what_the_placement_says(five):
    """Each node's digests of the shards that it should hold are all the events that it has."""
    stored_tags(five)
    for service in ("profile", "aggregate"):
        with nodes_of(five, service) as nodes:
            for node in nodes.values():
                shards = node.placement.shards_of(node.id)
                wait_until(lambda: sum(d.count for d in node.call("ReadDigests", 5, level=1, shards=shards).digests)
                           == five.events(node.id), READY_TIMEOUT_S, f"{node.id} holds what is expected and nothing else")


# --- replicas ---


def test_equal_replicas_are_fine(five, tmp_path):
    tags = tmp_path / "tags"
    lines = stored_tags(five)
    tags.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, printed = dev_verify("--dir", five.folder, "--tags", tags)
    assert code == 0, printed
    assert len(printed.splitlines()) == 4 and f"tags on 3 / 2 / 1 / 0 replicas: {len(lines)} / 0 / 0 / 0" in printed, printed


def test_beside_a_load_nothing_is_reported(five):
    """Also not where one cookie, and so one minute of one shard, gets every tag."""
    for cookies in (3000, 1):
        with Load(five.http, **short(12 if SHORT else 5, cookies=cookies, rate=100 if SHORT else 500)) as load:
            time.sleep(1)
            report = verify(five.folder)
            assert load.running(), "the load ended before"
            load.stop()
        assert not report.problems, report.text()


def test_a_node_that_is_down_is_reported(five):
    lines = stored_tags(five, 10)
    five.kill("p1")
    try:
        report = verify(five.folder, lines, patience_s=1)
    finally:
        five.restart("p1")
        five.wait_serving("p1")
    assert [line for line in report.problems if line.startswith("profile: p1 (") and "cannot be asked" in line], report.text()
    assert not [line for line in report.problems if line.startswith("aggregate")], report.text()
    on = report.standing["profile"].on
    assert on[3] + on[2] == len(lines) and on[2] > 0, report.text()
    assert not verify(five.folder).problems


def test_a_node_that_hangs_is_reported(five):
    five.pause("a2")
    try:
        report = verify(five.folder, patience_s=1)
    finally:
        five.resume("a2")
        five.wait_serving("a2")
    assert len(report.problems) == 1 and report.problems[0].startswith("aggregate: a2 ("), report.text()


@pytest.mark.parametrize("service", ["profile", "aggregate"])
def test_an_event_that_only_one_replica_holds_is_reported_until_a_sync_repairs_it(five, service):
    cookie, ms, event_id = unique(), unique_minute(), uuid.uuid4().bytes
    replica_pb2, tag_pb2 = grpc_api.messages("replica"), grpc_api.messages("tag")
    tag = tag_pb2.Tag(time_ms=ms, cookie=cookie, country="PL", device=1, action=1, origin="o",
                      product_info=tag_pb2.ProductInfo(product_id=tag_pb2.ProductId(number=7), price=1))
    line = {"cookie": cookie, "time": time_text(ms), "action": "VIEW"}
    with nodes_of(five, service) as nodes:
        any_node = next(iter(nodes.values()))
        shard = shard_of(cookie, any_node.shards)
        coordinator, only, lacking = any_node.placement.replicas[shard]
        event = replica_pb2.Event(shard=shard, id=bytes([event_id[0] & 0x7F]) + event_id[1:], accepted_s=int(time.time()),
                                  time_ms=ms, tag=tag.SerializeToString())
        # As the coordinator would send it, whose process and disk are named too.
        sender = nodes[coordinator].call("ReadDigests", 5, level=1).by
        answer = nodes[only].call("Replicate", 5, events=[event], **{"from": sender})
        assert not answer.failures, answer
        began = time.monotonic()
        report = verify(five.folder)
        assert time.monotonic() - began >= PATIENCE_S
        first, second = report.problems
        assert first.startswith(f"{service}: shard {shard} has been different for 10 s: "), report.text()
        assert f"(minute {ms // MINUTE_MS}): 1 only on {only}, not on " in second, report.text()
        assert event.id.hex() in second and coordinator in second and lacking in second, report.text()
        assert verify(five.folder, [line], patience_s=0.5).standing[service].on == {1: 1}

        for id_ in (coordinator, lacking):
            nodes[id_].call("SyncNow", 5, shards=[shard])
        wait_until(lambda: not verify(five.folder, patience_s=0.5).problems, READY_TIMEOUT_S, "the sync repairs it")
        report = verify(five.folder, [line], patience_s=0.5)
        other = "aggregate" if service == "profile" else "profile"
        assert [problem for problem in report.problems if problem.startswith(service)] == [], report.text()
        assert report.standing[service].on == {3: 1} and report.standing[other].on == {0: 1}, report.text()


def test_a_tag_that_was_never_stored_is_on_no_replica(five):
    lines = stored_tags(five, 10)
    lost = [{**lines[0], "cookie": unique()}, {**lines[1], "key": unique()},
            {key: value for key, value in {**lines[2], "origin": "another"}.items() if key != "key"}]
    report = verify(five.folder, [*lines, *lost], patience_s=1)
    for service in ("profile", "aggregate"):
        assert report.standing[service].on == {3: len(lines), 0: len(lost)}, report.text()


# --- usage ---


def test_no_cluster_and_no_tags_are_errors_of_usage(five, tmp_path):
    assert dev_verify("--dir", tmp_path)[0] == 2
    (tmp_path / "tags").write_text('{"cookie": "c"}\n')
    code, printed = dev_verify("--dir", five.folder, "--tags", tmp_path / "tags")
    assert code == 2 and "tags:1" in printed, printed
    assert dev_verify("--dir", five.folder, "--tags", tmp_path / "none")[0] == 2
    with pytest.raises(UsageError):
        verify(tmp_path)
    with pytest.raises(ValueError):
        TagLine({"cookie": "c", "time": "yesterday", "action": "VIEW"})
