# SPDX-License-Identifier: Apache-2.0
"""The memory of a process stays within what its cgroup gives it, which it finds out by itself."""

import contextlib
import time

import grpc
import pytest

import cgroups
from load import Load
from running import SHORT
from test_grpc import add, make_tag

# The least that a node takes.
LIMIT_BYTES = 128 << 20
# What a process may take of its limit at any moment.
SHARE_MAX = 0.9
LOAD_S = 25
SAMPLE_S = 0.5
BATCH = 500
# One process of each kind; the others do the same work.
LIMITED = ("g0", "p0", "a0")


@pytest.fixture
def groups():
    if SHORT:
        pytest.skip("a sanitizer takes many times the memory")
    with contextlib.ExitStack() as stack:
        try:
            made = {id_: stack.enter_context(cgroups.MemoryGroup(LIMIT_BYTES)) for id_ in LIMITED}
        except cgroups.NoCgroups as why:
            pytest.skip(str(why))
        yield made


def test_batches_at_full_speed_stay_below_the_limit(groups, fresh_cluster):
    cluster = fresh_cluster(prefixes={id_: group.prefix for id_, group in groups.items()})
    for id_ in LIMITED:
        metrics = cluster.metrics(id_)
        assert metrics["allezon_memory_budget_bytes"] == LIMIT_BYTES, id_
        parts = sum(value for name, value in metrics.items() if name.startswith("allezon_memory_part_bytes{"))
        assert parts == LIMIT_BYTES, id_
    most = dict.fromkeys(LIMITED, 0)
    with Load(cluster.http, rate=0, batch=BATCH, duration_s=LOAD_S, connections=8, timeout_ms=30_000,
              profile_every=1000, profile_lag_s=2, aggregate_lag_s=5) as load:
        while load.running():
            for id_ in LIMITED:
                most[id_] = max(most[id_], cgroups.anonymous_bytes(cluster.entry(id_)["pid"]))
            time.sleep(SAMPLE_S)
        load.assert_no_failure()
        assert load.report["wrong"] == 0, load.text
        # Enough to fill memtables and to make segments; a slow machine stores as much in more time.
        assert load.report["tags_acknowledged"] > 20 * BATCH, load.text
    killed = {id_: group.oom_kills() for id_, group in groups.items()}
    print({id_: f"{most[id_] >> 20} MiB" for id_ in LIMITED}, load.report["tags_acknowledged"], "tags")
    assert killed == dict.fromkeys(LIMITED, 0)
    cluster.assert_all_running()
    for id_, taken in most.items():
        assert taken < SHARE_MAX * LIMIT_BYTES, f"{id_} took {taken >> 20} MiB"
    for id_ in LIMITED:
        # What the metric says is what the kernel says, but for the moment between.
        says = cluster.metrics(id_)["allezon_memory_anonymous_bytes"]
        assert abs(says - cgroups.anonymous_bytes(cluster.entry(id_)["pid"])) < 0.1 * LIMIT_BYTES, id_


def test_a_call_that_takes_more_than_its_part_is_refused_with_what_to_do(fresh_cluster):
    # The least that there is: 10 MiB for calls, in which a message is counted three times.
    cluster = fresh_cluster(profiles=1, aggregates=1, rf=1, extra_args={"profile": ["--memory_mib=128"]})
    (node,) = cluster.profiles
    tags = [make_tag(origin="o" * 256) for _ in range(6000)]
    for tag in tags:
        tag.product_info.brand_id = "b" * 256
        tag.product_info.category_id = "c" * 256
    with pytest.raises(grpc.RpcError) as error:
        add(node, "Profile", tags)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "split it" in error.value.details()
    # The part is free again after each call.
    for start in range(0, len(tags), 1500):
        assert add(node, "Profile", tags[start:start + 1500]).accepted == 1500
    assert cluster.events("p0") == len(tags)
