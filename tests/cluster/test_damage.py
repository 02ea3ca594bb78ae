# SPDX-License-Identifier: Apache-2.0
"""Damaged data folders, of nodes that run: no answer is wrong, no request fails, and the node gets back what it lost."""

import json
import pathlib
import signal
import subprocess
import time

from faults import check_replicas
from flips import garble
from load import Load, short
from running import TIME_SCALE, wait_until

SCRUB_S = 2
FOUND_WITHIN_S = 30 * TIME_SCALE


def log_lines(cluster, id_, text):
    return [line for line in cluster.log_path(id_).read_text(errors="replace").splitlines() if text in line]


# One after the other, each once the one before is whole again.
HIT = [("p1", "table"), ("a2", "log"), ("p2", "manifest"), ("a1", "current")]


def test_a_damaged_node_gets_back_what_it_lost(fresh_cluster):
    flags = [f"--scrub_s={SCRUB_S}", "--write_buffer_mib=1"]
    cluster = fresh_cluster(gateways=2, extra_args={"profile": flags, "aggregate": flags})
    with Load(cluster.http, **short(600)) as load:
        time.sleep(4)
        for id_, kind in HIT:
            cluster.kill(id_, signal.SIGKILL)
            if kind == "table":
                # A start writes tables of what the log holds.
                cluster.restart(id_)
                cluster.wait_serving(id_)
                cluster.kill(id_, signal.SIGKILL)
            data = pathlib.Path(cluster.entry(id_)["data"])
            garble(data, kind)
            cluster.restart(id_)
            wait_until(lambda: log_lines(cluster, id_, "what a damaged disk lost is back"), FOUND_WITHIN_S, f"{id_} is whole again")
            cluster.wait_serving(id_)
            wait_until(lambda: not (data / "damaged").exists(), FOUND_WITHIN_S, f"{id_} has removed what it set aside")
        load.stop()
        load.assert_right()
        load.assert_no_failure()
        check_replicas(cluster, load)


def test_a_node_says_what_it_waits_for(fresh_cluster):
    cluster = fresh_cluster(gateways=1)
    with Load(cluster.http, **short(4)) as load:
        load.wait()
        load.assert_right()
    cluster.kill("p1", signal.SIGKILL)
    cluster.kill("p2", signal.SIGTERM)
    garble(cluster.entry("p1")["data"], "log")
    cluster.restart("p1")
    wait_until(lambda: log_lines(cluster, "p1", "lost is not back yet"), FOUND_WITHIN_S, "p1 says that it waits")
    line = json.loads(log_lines(cluster, "p1", "lost is not back yet")[-1])
    assert line["shards"].split(",") == [str(shard) for shard in range(128)]
    assert "p2" in line["waits_for"].split(",")
    # With p0 alone it cannot be whole: what it lost may have been here and on p2 only.
    wait_until(lambda: cluster.metrics("p1")["allezon_sync_sessions_started"] > 8, FOUND_WITHIN_S, "p1 has pulled all from p0")
    metrics = cluster.metrics("p1")
    assert metrics["allezon_replica_shards_damaged"] == 128
    assert metrics["allezon_replica_shards_serving"] == 0
    cluster.restart("p2")
    cluster.wait_serving()
    wait_until(lambda: cluster.metrics("p1")["allezon_replica_shards_damaged"] == 0, FOUND_WITHIN_S, "the metric says so")


def test_a_service_of_one_node_refuses_a_damaged_folder_until_told(fresh_cluster):
    cluster = fresh_cluster(gateways=1, profiles=1, aggregates=1, rf=1)
    with Load(cluster.http, **short(4)) as load:
        load.wait()
    cluster.kill("p0", signal.SIGKILL)
    garble(cluster.entry("p0")["data"], "log")
    argv = cluster.entry("p0")["argv"]
    refused = subprocess.run(argv, cwd=cluster.folder, capture_output=True, text=True, timeout=30 * TIME_SCALE)
    assert refused.returncode == 1, refused.stderr
    assert "--accept_data_loss" in refused.stderr and "damaged" in refused.stderr
    argv.append("--accept_data_loss")
    cluster.restart("p0")
    cluster.wait_serving()
