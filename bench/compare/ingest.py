# SPDX-License-Identifier: Apache-2.0
"""Tags a second, by how they come in, on how many replicas they are, and how durable they are."""

import time

import measure
from clusters import cluster
from processes import free_ports, program, running
from session import Case, tag_arguments

SECTION = "ingest"
CONNECTIONS = 64
CONNECTIONS_MANY = 256
BATCH = 100
TOP_SECONDS_MAX = 5
CALLS_IN_FLIGHT = CONNECTIONS  # of gRPC, each of them one to either service


def one_tag(session, *, rf, nodes=None, connections=CONNECTIONS, wal="sync"):
    """One tag an HTTP request, as fast as answers come."""
    with cluster(session.data_dir, rf=rf, nodes=nodes, wal=wal) as running_cluster:
        url = f"http://{running_cluster.http}"
        warm, result = (
            measure.wrk(url, "tags.lua", tag_arguments(), connections=connections, seconds=seconds, roles=roles, unit="tags",
                        warm_up_s=0)
            for seconds, roles in ((measure.WARM_UP_S, {}), (session.seconds, running_cluster.roles())))
        # What was in flight when a client ended may be stored.
        running_cluster.check_events(warm.count + result.count, warm.failed + result.failed + 2 * connections)
        return result


def open_loop(session, *, rf, share):
    """One tag an HTTP request, at a fixed rate: a share of the top of the same client on the same cluster just before."""
    with cluster(session.data_dir, rf=rf) as running_cluster:
        # Another seed, other cookies: the second run would find the tags of the first one in its profiles.
        top = measure.load(running_cluster.http, seconds=min(session.seconds, TOP_SECONDS_MAX), roles={}, rate=0, seed=1,
                           connections=CONNECTIONS)
        result = measure.load(running_cluster.http, seconds=session.seconds, roles=running_cluster.roles(),
                              rate=round(top.rate * share), seed=2, connections=CONNECTIONS)
        result.figures["tags/s at the top"] = top.rate
        return result


def batches(session, *, rf, wal="sync"):
    """NDJSON, BATCH tags a request."""
    with cluster(session.data_dir, rf=rf, wal=wal) as running_cluster:
        url = f"http://{running_cluster.http}"
        warm, result = (
            measure.wrk(url, "batches.lua", tag_arguments(BATCH), connections=CONNECTIONS, seconds=seconds, roles=roles,
                        unit="tags", per_request=BATCH, warm_up_s=0)
            for seconds, roles in ((measure.WARM_UP_S, {}), (session.seconds, running_cluster.roles())))
        running_cluster.check_events(warm.count + result.count,
                                     warm.failed + result.failed + 2 * CONNECTIONS * BATCH)
        return result


def grpc_batches(session, *, rf, wal="sync"):
    """AddTags of both services: a tag counts once both have it."""
    with cluster(session.data_dir, rf=rf, wal=wal) as running_cluster:
        warm, result = (
            measure.bench_client(add_tags_argv(running_cluster, seconds=seconds), seconds=seconds, roles=roles)
            for seconds, roles in ((measure.WARM_UP_S, {}), (session.seconds, running_cluster.roles())))
        running_cluster.check_events(warm.count + result.count, warm.failed + result.failed)
        return result


def add_tags_argv(running_cluster, *, services=("profile", "aggregate"), batch=BATCH, in_flight=CALLS_IN_FLIGHT,
                  start_s=None, **options):
    """The argv of the gRPC client; `options` are more of its flags."""
    flags = {f"{service}s": ",".join(running_cluster.addresses(service)) for service in services}
    flags |= {"batch": batch, "in_flight": in_flight, "start_ms": int((start_s or time.time()) * 1000),
              "step_us": 20, **options}
    return [program("allezon-bench-add-tags"), *(f"--{name}={value}" for name, value in flags.items())]


def nothing_behind(session):
    """A gateway with one node of each service that answers at once: what the gateway itself costs."""
    gateway_port, profile_port, aggregate_port = free_ports(3)
    node = program("allezon-bench-nothing-node")
    with session.folder("nothing") as folder, \
            running([node, f"--listen=127.0.0.1:{profile_port}"], folder / "profile.log") as profile, \
            running([node, f"--listen=127.0.0.1:{aggregate_port}"], folder / "aggregate.log") as aggregate, \
            running([program("allezon-gateway"), f"--listen=127.0.0.1:{gateway_port}", "--rf=1", "--log_level=warn",
                     f"--profiles=p0=127.0.0.1:{profile_port}", f"--aggregates=a0=127.0.0.1:{aggregate_port}"],
                    folder / "gateway.log") as gateway:
        for process, port in ((profile, profile_port), (aggregate, aggregate_port), (gateway, gateway_port)):
            process.wait_port(port)
        return measure.wrk(f"http://127.0.0.1:{gateway_port}", "tags.lua", tag_arguments(), connections=CONNECTIONS,
                           seconds=session.seconds, unit="tags",
                           roles={"gateway": [gateway.pid], "nodes": [profile.pid, aggregate.pid]})


def asynchronous(run):
    return lambda session, rf: run(session, rf=rf, wal="async")


def cases():
    one = {1: 0.40, 2: 0.30, 3: 0.24}  # targets by RF
    batch = {1: 1.5, 2: None, 3: 0.6}

    def by_rf(name, run, targets=None, connections=CONNECTIONS, quick=(1,)):
        return [Case(SECTION, f"{name}, RF {rf}", lambda session, rf=rf: run(session, rf=rf), connections=connections,
                     target=(targets or {}).get(rf), quick=rf in quick) for rf in one]

    def at(share, rf):
        return Case(SECTION, f"open loop at {share:.0%} of the top, RF {rf}",
                    lambda session: open_loop(session, rf=rf, share=share), connections=None,
                    target_ms={"p99": 30} if share == 0.8 else {}, quick=(rf, share) == (1, 0.8))

    ndjson, grpc = f"NDJSON, {BATCH} tags a request", f"gRPC AddTags, {BATCH} tags a call"
    return [
        Case(SECTION, "gateway, services that do nothing", nothing_behind, target=0.6),
        *by_rf("one tag a request", one_tag, one, quick=(1, 2, 3)),
        *by_rf(f"one tag a request, {CONNECTIONS_MANY} connections",
               lambda session, rf: one_tag(session, rf=rf, connections=CONNECTIONS_MANY), connections=CONNECTIONS_MANY),
        *by_rf("one tag a request, WAL async", asynchronous(one_tag)),
        *by_rf(ndjson, batches, batch),
        *by_rf(f"{ndjson}, WAL async", asynchronous(batches), quick=()),
        *by_rf(grpc, grpc_batches, batch),
        *by_rf(f"{grpc}, WAL async", asynchronous(grpc_batches), quick=()),
        *(at(share, rf) for rf in one for share in (0.25, 0.5, 0.8)),
    ]
