# SPDX-License-Identifier: Apache-2.0
"""Aggregate queries of ten minutes, by rows and filters, beside ClickHouse on the same rows."""

import contextlib
import json
import time
import urllib.parse
import urllib.request

import measure
from clickhouse import clickhouse
from clusters import cluster
from ingest import add_tags_argv
from processes import BenchError, program
from reads import WRITES_PER_S, fill, wait_quiet, writes
from session import Case

SECTION = "aggregates"
SECONDS_MAX = 5
MINUTES = 10
START_S = 1_704_067_200  # 2024-01-01
RATES = (1000, 10_000)  # tags/s: the assignment's, and ten times it
HOURS_APART = 6  # the sets of rows
QUICK_SHARE = 20
FILTERS = ("origin", "brand_id", "category_id")
NUMBERS = ("origin=1000=3", "brand=250=3", "category=67=2")  # of queries.lua
ACTION = "VIEW"
SEAL_S = 12  # a minute that has been quiet for 10 s is sealed


def start_of(rate):
    return START_S + RATES.index(rate) * HOURS_APART * 3600


def rows_options(session, rate):
    """Of allezon-bench-add-tags: ten minutes of tags."""
    rate = rate / QUICK_SHARE if session.quick else rate
    return {"tags": int(rate * 60 * MINUTES), "step_us": 1e6 / rate}


@contextlib.contextmanager
def filled(session):
    with cluster(session.data_dir, rf=1) as running_cluster:
        for rate in RATES:
            session.note(f"    storing ten minutes of {rate} tags/s")
            fill(running_cluster, services=["aggregate"], start_s=start_of(rate), in_turn=False,
                 **rows_options(session, rate))
        time.sleep(SEAL_S)
        wait_quiet(running_cluster)
        yield running_cluster


@contextlib.contextmanager
def filled_clickhouse(session):
    """With the same rows; its answers are compared with ours before anything is measured."""
    ours = session.shared(filled)
    with clickhouse(session) as server:
        for rate in RATES:
            session.note(f"    inserting ten minutes of {rate} tags/s into ClickHouse")
            options = {"start_ms": start_of(rate) * 1000, "tsv": "true", **rows_options(session, rate)}
            server.insert([program("allezon-bench-add-tags"), *(f"--{name}={value}" for name, value in options.items())])
        server.query("OPTIMIZE TABLE tags FINAL")
        for rate in RATES:
            for filters in range(len(FILTERS) + 1):
                check_equal(ours, server, rate, filters)
        yield server


def our_path(rate, filters):
    start, end = (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(start_of(rate) + s)) for s in (0, 60 * MINUTES))
    return (f"/aggregates?time_range={start}_{end}&action={ACTION}&aggregates=COUNT&aggregates=SUM_PRICE"
            + "".join(f"&{name}={name.removesuffix('_id')}_{{{name.removesuffix('_id')}}}" for name in FILTERS[:filters]))


def their_path(rate, filters):
    where = "".join(f" AND {name} = '{name.removesuffix('_id')}_[{name.removesuffix('_id')}]'" for name in FILTERS[:filters])
    query = (f"SELECT toStartOfMinute(time) AS minute, count(), sum(price) FROM tags WHERE time >= toDateTime({start_of(rate)})"
             f" AND time < toDateTime({start_of(rate) + 60 * MINUTES}) AND action = '{ACTION}'{where}"
             " GROUP BY minute ORDER BY minute")
    return "/?query=" + urllib.parse.quote(query).replace("%5B", "{").replace("%5D", "}")


def check_equal(ours, server, rate, filters):
    values = {"{origin}": "007", "{brand}": "011", "{category}": "13"}

    def get(base, path):
        for name, value in values.items():
            path = path.replace(name, value)
        with urllib.request.urlopen(base + path, timeout=60) as answer:
            return answer.read().decode()

    rows = json.loads(get(f"http://{ours.http}", our_path(rate, filters)))["rows"]
    # A minute in which nothing happened is a row of zeros here, and none there.
    here = [(row[0].replace("T", " "), int(row[-2]), int(row[-1])) for row in rows if row[-2] != "0"]
    lines = get(f"http://127.0.0.1:{server.port}", their_path(rate, filters)).splitlines()
    there = [(minute, int(count), int(total)) for minute, count, total in (line.split("\t") for line in lines)]
    if here != there:
        raise BenchError(f"{rate} tags/s, {filters} filters: {here} here, but ClickHouse says {there}")


def ask(session, url, path, *, connections, roles):
    return measure.wrk(url, "queries.lua", [path, *NUMBERS], connections=connections,
                       seconds=min(session.seconds, SECONDS_MAX), roles=roles, unit="queries")


def ask_us(session, rate, filters, connections):
    ours = session.shared(filled)
    return ask(session, f"http://{ours.http}", our_path(rate, filters), connections=connections, roles=ours.roles())


def ask_under_writes(session, rate, filters, connections):
    ours = session.shared(filled)
    with writes(session, ours) as load:
        return ask(session, f"http://{ours.http}", our_path(rate, filters), connections=connections,
                   roles={**ours.roles(), "writer": [load.pid]})


def ask_clickhouse(session, rate, filters, connections):
    server = session.shared(filled_clickhouse)
    return ask(session, f"http://127.0.0.1:{server.port}", their_path(rate, filters), connections=connections,
               roles={"clickhouse": [server.process.pid]})


def pair(rate, filters, connections, target_p50_ms=None, quick=False):
    what = f"{rate * 60 * MINUTES:,} rows, {filters} filters, {connections} connection{'s' if connections > 1 else ''}"
    theirs = f"ClickHouse 18.16: {what}"
    return [Case(SECTION, f"allezon: {what}", lambda s: ask_us(s, rate, filters, connections), connections=None,
                 target_ms={} if target_p50_ms is None else {"p50": target_p50_ms}, against={theirs: 1}, quick=quick),
            Case(SECTION, theirs, lambda s: ask_clickhouse(s, rate, filters, connections), connections=None, quick=quick)]


def cases():
    found = []
    for rate, target_p50_ms in zip(RATES, (3, 15)):
        for filters in range(len(FILTERS) + 1):
            found += pair(rate, filters, 1, target_p50_ms, quick=filters == len(FILTERS))
        found += pair(rate, 1, 16)
        found.append(Case(SECTION, f"allezon: {rate * 60 * MINUTES:,} rows, 1 filters, 1 connection, under {WRITES_PER_S} "
                          "tags/s",
                          lambda s, rate=rate: ask_under_writes(s, rate, 1, 1), connections=None, quick=rate == RATES[0]))
    return found
