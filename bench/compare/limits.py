# SPDX-License-Identifier: Apache-2.0
"""What the machine gives at best: servers without work, syncs, calls."""

import os
import time

import measure
from processes import free_ports, program, running
from session import Case, tag_arguments

SECTION = "limits"
CONNECTIONS = 64
BLOCK_BYTES = 4096
OVERWRITTEN_BLOCKS = 4096
SYNC_SECONDS_MAX = 3

NGINX_CONF = """
daemon off;
worker_processes auto;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{ return 204; }}
  }}
}}
"""


def nginx_204(session):
    with session.folder("nginx") as folder:
        port = free_ports(1)[0]
        conf = folder / "nginx.conf"
        conf.write_text(NGINX_CONF.format(folder=folder, port=port))
        with running(["nginx", "-c", conf, "-p", folder, "-e", folder / "error.log"], folder / "log") as nginx:
            nginx.wait_port(port)
            return measure.wrk(f"http://127.0.0.1:{port}", "tags.lua", tag_arguments(), connections=CONNECTIONS,
                               seconds=session.seconds, roles={"server": [nginx.pid]})


def fdatasync(session, *, overwrite):
    """One block after the other, each synced."""
    block = os.urandom(BLOCK_BYTES)
    with session.folder("fdatasync") as folder:
        descriptor = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
        try:
            if overwrite:
                os.pwrite(descriptor, os.urandom(OVERWRITTEN_BLOCKS * BLOCK_BYTES), 0)
                os.fsync(descriptor)
            took_ms, began = [], time.monotonic()
            while time.monotonic() - began < min(session.seconds, SYNC_SECONDS_MAX):
                place = len(took_ms) % OVERWRITTEN_BLOCKS if overwrite else len(took_ms)
                start = time.monotonic()
                os.pwrite(descriptor, block, place * BLOCK_BYTES)
                os.fdatasync(descriptor)
                took_ms.append((time.monotonic() - start) * 1000)
            seconds = time.monotonic() - began
        finally:
            os.close(descriptor)
    took_ms.sort()
    return measure.Measurement("syncs", len(took_ms), seconds,
                               latency_ms={"p50": took_ms[len(took_ms) // 2], "p99": took_ms[len(took_ms) * 99 // 100]})


def grpc_calls(session, *, batch, in_flight):
    """AddTags of a server that does nothing with them."""
    port = free_ports(1)[0]
    with running([program("allezon-bench-nothing-node"), f"--listen=127.0.0.1:{port}"],
                 session.data_dir / "nothing-node.log") as node:
        node.wait_port(port)
        return measure.bench_client(
            [program("allezon-bench-add-tags"), f"--profiles=127.0.0.1:{port}", f"--batch={batch}",
             f"--in_flight={in_flight}", f"--seconds={session.seconds}"], seconds=session.seconds, roles={"server": [node.pid]})


def cases():
    return [
        Case(SECTION, "H: cpp-httplib answering 204", lambda session: session.measure_h(CONNECTIONS, session.seconds)),
        Case(SECTION, "nginx answering 204", nginx_204),
        Case(SECTION, "gRPC calls of 1 tag, 64 in flight", lambda session: grpc_calls(session, batch=1, in_flight=64)),
        *(Case(SECTION, f"gRPC calls of {batch} tags, 4 in flight",
               lambda session, batch=batch: grpc_calls(session, batch=batch, in_flight=4), quick=batch == 100)
          for batch in (100, 500)),
        Case(SECTION, "fdatasync of 4 KiB, appended", lambda session: fdatasync(session, overwrite=False), connections=None),
        Case(SECTION, "fdatasync of 4 KiB, overwritten", lambda session: fdatasync(session, overwrite=True), connections=None),
    ]
