# SPDX-License-Identifier: Apache-2.0
"""Profiles of 200 views and 200 buys a second, of few cookies among many."""

import contextlib
import json
import os
import pathlib
import signal
import time
import urllib.request

import measure
from clusters import cluster, wait_until
from ingest import add_tags_argv
from processes import BenchError, program, run, running
from session import Case

SECTION = "reads"
SECONDS_MAX = 5
COLD_SECONDS = 2
TAGS_OF_ACTION = 200
START_S = 1_704_067_200  # 2024-01-01
TIME_RANGE = "2024-01-01T00:00:00_2024-01-02T00:00:00"
WRITES_PER_S = 1000  # the assignment's rate
LOAD_TIMEOUT_S = 3600
QUIET_TIMEOUT_S = 300


def sizes(session):
    """(cookies with full profiles, cookies in all)."""
    return (200, 20_000) if session.quick else (5000, 1_000_000)


@contextlib.contextmanager
def filled(session):
    """A cluster of one node of each service with those profiles."""
    full, everyone = sizes(session)
    with cluster(session.data_dir, rf=1) as running_cluster:
        session.note(f"    storing {everyone + full * 2 * TAGS_OF_ACTION:,} tags")
        fill(running_cluster, services=["profile"], start_s=START_S, step_us=10_000, cookies=everyone, tags=everyone)
        fill(running_cluster, services=["profile"], start_s=START_S + 4 * 3600, step_us=10_000, cookies=full,
             tags=full * 2 * TAGS_OF_ACTION)
        wait_quiet(running_cluster)
        check_profiles(running_cluster, full)
        yield running_cluster


def fill(running_cluster, *, tags, in_turn=True, **options):
    text = run(add_tags_argv(running_cluster, batch=1000, in_flight=8, tags=tags, in_turn=str(in_turn).lower(), **options),
               timeout_s=LOAD_TIMEOUT_S)
    report = json.loads(text.splitlines()[-1])
    if report["tags"] != tags:
        raise BenchError(f"{report['tags']} of {tags} tags were stored")


def wait_quiet(running_cluster):
    """Until no node flushes or compacts any more."""
    def busy():
        return sum(running_cluster.metric(entry, name) for service in ("profile", "aggregate")
                   for entry in running_cluster.entries[service]
                   for name in ("allezon_rocksdb_compactions_running", "allezon_rocksdb_flushes_running"))

    quiet_since = [time.monotonic()]

    def quiet():
        if busy():
            quiet_since[0] = time.monotonic()
        return time.monotonic() - quiet_since[0] > 2

    wait_until(quiet, QUIET_TIMEOUT_S, lambda: "compaction does not come to an end")


def check_profiles(running_cluster, full):
    for number in (0, full // 2, full - 1):
        url = f"http://{running_cluster.http}/user_profiles/cookie_{number:06d}?time_range={TIME_RANGE}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            profile = json.load(answer)
        if not len(profile["views"]) == len(profile["buys"]) == TAGS_OF_ACTION:
            raise BenchError(f"{url} has {len(profile['views'])} views and {len(profile['buys'])} buys")


def read(session, *, connections, order="", seconds=None, roles=None, warm_up_s=measure.WARM_UP_S):
    running_cluster = session.shared(filled)
    full, _ = sizes(session)
    return measure.wrk(f"http://{running_cluster.http}", "queries.lua",
                       [f"/user_profiles/cookie_{{cookie}}?time_range={TIME_RANGE}", f"cookie={full}=6{order}"],
                       connections=connections, seconds=seconds or min(session.seconds, SECONDS_MAX), unit="profiles",
                       roles={**running_cluster.roles(), **(roles or {})}, warm_up_s=warm_up_s)


def cold(session):
    """A node that has just been started, whose files the kernel does not hold either; each profile is read once."""
    running_cluster = session.shared(filled)
    for entry in running_cluster.entries["profile"]:
        running_cluster.kill(entry["id"], signal.SIGTERM)
        forget_files(pathlib.Path(entry["data"]))
        running_cluster.restart(entry["id"])
    running_cluster.wait_serving()
    result = read(session, connections=4, order="=in_turn", seconds=COLD_SECONDS, warm_up_s=0)
    again = result.count - sizes(session)[0]
    if again > 0:
        result.notes.append(f"{again / result.count:.0%} of them were not the first read of their profile")
    return result


def forget_files(folder):
    """Has the kernel drop what it holds of files."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def writes(session, running_cluster):
    """Tags that come in meanwhile."""
    argv = [program("allezon-load"), f"--targets={running_cluster.http}", f"--rate={WRITES_PER_S}", "--start=now",
            "--duration_s=3600", "--profile_every=0", "--aggregate_every=0", "--progress=false", "--cookies=1000000",
            "--odd=false"]
    log = session.data_dir / "writes.log"
    with running(argv, log) as load:
        yield load
        load.stop()
        if load.child.returncode != 0:
            raise BenchError(f"tags that came in meanwhile failed: {load.log_tail()}")


def under_writes(session):
    with writes(session, session.shared(filled)) as load:
        return read(session, connections=4, roles={"writer": [load.pid]})


def cases():
    def case(name, run_, **targets):
        return Case(SECTION, name, run_, connections=None, **targets)

    return [
        case("200 + 200 tags, hot, 1 connection", lambda s: read(s, connections=1), target_ms={"p50": 2}),
        case("200 + 200 tags, hot, 4 connections", lambda s: read(s, connections=4), target_ms={"p50": 2}, target_rate=2500),
        case("200 + 200 tags, hot, 64 connections", lambda s: read(s, connections=64), target_rate=2500),
        case(f"200 + 200 tags, hot, 4 connections, under {WRITES_PER_S} tags/s", under_writes),
        case("200 + 200 tags, cold, 4 connections", cold),
    ]
