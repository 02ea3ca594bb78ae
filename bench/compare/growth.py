# SPDX-License-Identifier: Apache-2.0
"""What becomes of rates, latencies, memory, disk and start-up as tags pile up, and as there are more nodes.

More nodes share the same cores here, so more of them cannot be faster: the CPU time of a tag tells what they cost."""

import contextlib
import pathlib
import signal
import time

import ingest
import measure
from clusters import SERVICES, cluster
from processes import memory_mib
from reads import fill, wait_quiet
from session import Case, tag_arguments

SECTION = "growth"
ROUNDS_MAX = 1  # what is stored stays stored
STORED_MILLIONS = (1, 10, 50)
QUICK_SHARE = 100
STOP_TIMEOUT_S = 300  # with as much as that to be written
NODES = (1, 3, 5)
# The tags of STORED_MILLIONS are spread over these hours before now, within the retention.
HOURS = 21
SECONDS_A_MILLION = HOURS * 3600 / max(STORED_MILLIONS)


class Growing:
    """A cluster of one node of each service that holds more and more."""

    def __init__(self, running_cluster, share):
        self.cluster = running_cluster
        self.share = share
        self.stored = 0
        self._start_s = int(time.time()) - HOURS * 3600

    def fill(self, millions):
        """Returns (tags, seconds), once compaction has come to an end."""
        wanted = int(millions * 1e6 / self.share)
        began = time.monotonic()
        tags = wanted - self.stored
        fill(self.cluster, start_s=self._start_s, step_us=SECONDS_A_MILLION * self.share, first=self.stored, tags=tags,
             in_turn=False)
        seconds = time.monotonic() - began
        self.stored = wanted
        wait_quiet(self.cluster)
        return tags, seconds


@contextlib.contextmanager
def growing(session):
    with cluster(session.data_dir, rf=1) as running_cluster:
        yield Growing(running_cluster, QUICK_SHARE if session.quick else 1)


def store(session, millions):
    tags, seconds = session.shared(growing).fill(millions)
    return measure.Measurement("tags", tags, seconds)


def one_tag(session, millions):
    """One tag a request on what is stored, then sizes and a start of each node. Filled before, if that was left out."""
    grown = session.shared(growing)
    if grown.stored < millions * 1e6 / grown.share:
        grown.fill(millions)
    running_cluster = grown.cluster
    result = measure.wrk(f"http://{running_cluster.http}", "tags.lua", tag_arguments(), connections=ingest.CONNECTIONS,
                         seconds=session.seconds, roles=running_cluster.roles(), unit="tags")
    wait_quiet(running_cluster)
    for service in SERVICES:
        entry = running_cluster.entries[service][0]
        events = running_cluster.events(service)
        result.figures[f"MiB of {service} memory"] = memory_mib(entry["pid"])
        running_cluster.kill(entry["id"], signal.SIGTERM, STOP_TIMEOUT_S)
        # Without the room that a running node keeps for its write-ahead log.
        result.figures[f"bytes of {service} disk a tag"] = disk_bytes(entry["data"]) / events
        result.figures[f"s of {service} start-up"] = start_s(running_cluster, entry)
    wait_quiet(running_cluster)
    return result


def disk_bytes(folder):
    return sum(path.stat().st_blocks * 512 for path in pathlib.Path(folder).rglob("*") if path.is_file())


def start_s(running_cluster, entry):
    """From the start of the process until it serves."""
    began = time.monotonic()
    running_cluster.restart(entry["id"])
    running_cluster.wait_serving()
    return time.monotonic() - began


def on_nodes(session, nodes):
    result = ingest.one_tag(session, rf=1, nodes=nodes)
    result.figures["CPU us a tag, client aside"] = sum(sum(cpu) for role, cpu in result.cpu_us.items() if role != "client")
    return result


def cases():
    found = []
    for millions in STORED_MILLIONS:
        quick = millions != max(STORED_MILLIONS)
        found.append(Case(SECTION, f"stored until there are {millions} million, gRPC", lambda s, m=millions: store(s, m),
                          connections=None, quick=quick))
        found.append(Case(SECTION, f"one tag a request on {millions} million stored, RF 1",
                          lambda s, m=millions: one_tag(s, m), group="stored tags", size=millions,
                          quick=quick))
    found += [Case(SECTION, f"one tag a request, RF 1, {nodes} nodes of each service",
                   lambda s, n=nodes: on_nodes(s, n), group="nodes", size=nodes, quick=nodes != max(NODES))
              for nodes in NODES]
    return found
