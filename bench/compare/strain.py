# SPDX-License-Identifier: Apache-2.0
"""Far more than the platform can take, and the assignment's rate beside all that nodes do in the background."""

import contextlib
import http.client
import json
import shutil
import signal
import threading
import time

import ingest
import measure
from clusters import SERVICES, cluster, wait_until
from processes import BenchError, memory_mib
from reads import fill, wait_quiet
from session import Case

SECTION = "strain"
ROUNDS_MAX = 3
RF = 3
TIMES_TOP = 3
TOP_SECONDS_MAX = 5
# More than a gateway takes, so that it must refuse some.
CONNECTIONS_MANY = 3000
TIMEOUT_MS = 40_000  # longer than any deadline of the gateway
# What a tag's answer takes at most once the platform has recovered, and how long that may take.
RECOVERED_S = 0.1
RECOVERY_TIMEOUT_S = 60
PROBE_PERIOD_S = 0.05
PROBE_TIMEOUT_S = 30
MEMORY_PERIOD_S = 0.1
STEADY_RATE = 1000  # the assignment's
STEADY_SECONDS_MIN = 10
STEADY_TIMES_QUIET = 3  # the p99.9 of quiet running, at most
FILL_MILLIONS = 3
FILL_HOURS = 20  # that the tags stored before are spread over
RETENTION_S = 60
TAG = {"cookie": "probe", "country": "PL", "device": "PC", "action": "VIEW", "origin": "probe",
       "product_info": {"product_id": 1, "brand_id": "b", "category_id": "c", "price": 1}}


# --- far more than it can take --------------------------------------------------------------------


class Meanwhile:
    """Does `look()` every `period_s` from a thread of its own, as long as the with statement lasts."""

    def __init__(self, period_s):
        self._period_s = period_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def _run(self):
        while not self._ended.wait(self._period_s):
            self.look()


class Probe(Meanwhile):
    """A client of its own, which sends a tag now and then, and looks at what it is told."""

    def __init__(self, address):
        super().__init__(PROBE_PERIOD_S)
        self._address = address
        self.sent = 0
        self.complaint = ""

    def send(self):
        """(status, seconds)."""
        self.sent += 1
        began = time.monotonic()
        connection = http.client.HTTPConnection(self._address, timeout=PROBE_TIMEOUT_S)
        with contextlib.closing(connection):
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
            try:
                connection.request("POST", "/user_tags", json.dumps({"time": stamp, **TAG}),
                                   {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.complaint = self.complaint or f"a tag got no answer: {error!r}"
                return 0, time.monotonic() - began
        if answer.status in measure.REFUSED and not answer.getheader("Retry-After"):
            self.complaint = self.complaint or f"{answer.status} without Retry-After"
        if answer.status != 204 and answer.status not in measure.REFUSED:
            self.complaint = self.complaint or f"a tag was answered with {answer.status}"
        return answer.status, time.monotonic() - began

    def look(self):
        self.send()

    def wait_recovered(self):
        """Seconds until a tag is answered as on any other day."""
        began = time.monotonic()

        def recovered():
            status, took = self.send()
            return status == 204 and took < RECOVERED_S

        wait_until(recovered, RECOVERY_TIMEOUT_S, lambda: "the platform has not recovered")
        return time.monotonic() - began


class PeakMemory(Meanwhile):
    """The largest resident memory of a process of each role, meanwhile."""

    def __init__(self, roles):
        super().__init__(MEMORY_PERIOD_S)
        self._roles = roles
        self.mib = dict.fromkeys(roles, 0.0)

    def look(self):
        for role, pids in self._roles.items():
            self.mib[role] = max(self.mib[role], *map(memory_mib, pids))


def overload(session, **options):
    """An open loop far above the top. What is refused must be told so, nothing else may fail, what was acknowledged must be
    stored, and the platform must be as before soon after."""
    with cluster(session.data_dir, rf=RF) as running_cluster:
        address, roles = running_cluster.http, running_cluster.roles()
        top = measure.load(address, seconds=min(session.seconds, TOP_SECONDS_MAX), roles={}, rate=0, seed=1,
                           connections=ingest.CONNECTIONS, **options)
        probe = Probe(address)
        with PeakMemory(roles) as memory:
            with probe:
                result = measure.load(address, seconds=session.seconds, roles=roles, rate=round(TIMES_TOP * top.rate), seed=2,
                                      connections=CONNECTIONS_MANY, may_refuse=True, timeout_ms=TIMEOUT_MS, **options)
            recovery_s = probe.wait_recovered()
        if probe.complaint:
            raise BenchError(probe.complaint)
        sent = round(TIMES_TOP * top.rate * session.seconds) + probe.sent
        running_cluster.check_events(top.count + result.count, sent)
        result.figures |= {"tags/s at the top": top.rate, "s until it had recovered": recovery_s,
                           **{f"MiB of a {role} at most": mib for role, mib in memory.mib.items()}}
        return result


# --- beside what goes on in the background ---------------------------------------------------------


def beside(session, disturb, **node_flags):
    """The assignment's rate, quiet and then while nodes do what `disturb(cluster, session)` has brought about."""
    with cluster(session.data_dir, rf=RF, **node_flags) as running_cluster:
        def steady(seed):
            return measure.load(running_cluster.http, seconds=max(session.seconds, STEADY_SECONDS_MIN), seed=seed,
                                roles=running_cluster.roles(), rate=STEADY_RATE, connections=ingest.CONNECTIONS)

        quiet = steady(2)
        disturb(running_cluster, session)
        result = steady(3)
        slowest, quiet_slowest = result.latency_ms["p99.9"], quiet.latency_ms["p99.9"]
        result.figures |= {"ms p99.9": slowest, "ms p99.9 when quiet": quiet_slowest,
                           "times as much": slowest / quiet_slowest, "ms at most": result.latency_ms["max"]}
        if slowest > STEADY_TIMES_QUIET * quiet_slowest:
            result.notes.append(f"more than {STEADY_TIMES_QUIET} times")
        return result


def fill_hours(running_cluster, session, *, hours_ago=FILL_HOURS + 2):
    """Millions of tags, after which nodes flush, compact, and make segments of minutes."""
    tags = int(FILL_MILLIONS * 1e6 / (100 if session.quick else 1))
    fill(running_cluster, tags=tags, start_s=int(time.time()) - hours_ago * 3600, step_us=FILL_HOURS * 3600 * 1e6 / tags,
         in_turn=False)


def lose_disks(running_cluster, session):
    """A node of each service finds its disk empty, and pulls everything from its peers."""
    fill_hours(running_cluster, session)
    wait_quiet(running_cluster)
    for service in SERVICES:
        entry = running_cluster.entries[service][0]
        running_cluster.kill(entry["id"], signal.SIGKILL)
        shutil.rmtree(entry["data"])
        running_cluster.restart(entry["id"])


def outlive(running_cluster, session):
    """What is stored is older than it is kept, and goes as long as it was stored before. Compaction comes to an end first."""
    fill_hours(running_cluster, session)
    time.sleep(RETENTION_S / 2)


def cases():
    def case(name, run, **options):
        return Case(SECTION, name, run, connections=None, **options)

    def steady(what, disturb, quick=True, **node_flags):
        return case(f"{STEADY_RATE} tags/s, RF {RF}, {what}", lambda session: beside(session, disturb, **node_flags),
                    quick=quick)

    return [
        case(f"one tag a request at {TIMES_TOP} times the top, RF {RF}", overload),
        case(f"NDJSON, {ingest.BATCH} tags a request, at {TIMES_TOP} times the top, RF {RF}",
             lambda session: overload(session, batch=ingest.BATCH), quick=False),
        steady("quiet again", lambda *_: None, quick=False),
        steady(f"after {FILL_MILLIONS} million more at once", fill_hours),
        steady("beside a sync of a node of each service", lose_disks),
        steady("beside retention", outlive, quick=False, retention_s=RETENTION_S),
    ]
