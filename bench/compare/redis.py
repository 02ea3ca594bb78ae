# SPDX-License-Identifier: Apache-2.0
"""Redis 7 with a replica: what is durable and on two machines there is so here."""

import contextlib
import socket

import measure
from processes import free_ports, program, running
from session import Case, tag_arguments

CONNECTIONS = 64
REPLICAS = 1


@contextlib.contextmanager
def redis(session):
    """A primary and a replica, each with its AOF synced at every turn of its loop; ([process, …], port)."""
    ports = free_ports(2)
    with session.folder("redis") as folder, contextlib.ExitStack() as stack:
        servers = []
        for number, port in enumerate(ports):
            data = folder / str(number)
            data.mkdir()
            # Without snapshots: the AOF is what is durable.
            argv = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", data, "--appendonly", "yes",
                    "--appendfsync", "always", "--save", ""]
            if number > 0:
                argv += ["--replicaof", "127.0.0.1", ports[0]]
            servers.append(stack.enter_context(running(argv, folder / f"{number}.log")))
            servers[-1].wait_port(port)
        servers[1].wait_until(lambda: "master_link_status:up" in info(ports[1]))
        yield servers, ports[0]


def info(port):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"INFO replication\r\n")
        return connection.recv(64 * 1024).decode()


def raw(session):
    """One tag in flight a connection, all its commands in one write."""
    with redis(session) as (servers, port):
        roles = {"redis": [server.pid for server in servers]}
        for seconds in (measure.WARM_UP_S, session.seconds):
            result = measure.bench_client(
                [program("allezon-bench-redis-load"), f"--port={port}", f"--connections={CONNECTIONS}",
                 f"--replicas={REPLICAS}", f"--seconds={seconds}", f"--start_ms={tag_arguments()[0] * 1000}"],
                seconds=seconds, roles=roles)
        return result


def behind_http(session):
    """The same behind the least HTTP server that stores a tag."""
    http_port = free_ports(1)[0]
    with redis(session) as (servers, port), \
            running([program("allezon-bench-redis-http"), f"--port={http_port}", f"--redis_port={port}",
                     f"--connections={CONNECTIONS}", f"--replicas={REPLICAS}"], session.data_dir / "redis-http.log") as http:
        http.wait_port(http_port)
        return measure.wrk(f"http://127.0.0.1:{http_port}", "tags.lua", tag_arguments(), connections=CONNECTIONS,
                           seconds=session.seconds, unit="tags",
                           roles={"http": [http.pid], "redis": [server.pid for server in servers]})


def cases(section):
    return [Case(section, "Redis by its raw protocol: AOF always, one replica, WAIT 1", raw),
            Case(section, "Redis behind minimal HTTP: the same", behind_http)]
