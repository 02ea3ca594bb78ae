# SPDX-License-Identifier: Apache-2.0
"""A cluster of real processes as the tests see it."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "local"))
import grpc_api  # noqa: E402
import shifted_clock  # noqa: E402
from cluster import Cluster  # noqa: E402
from entries import describe_exit  # noqa: E402
from names import Fronts  # noqa: E402
from settings import SERVICES, make_settings  # noqa: E402

# The folder with the programs of the build under test.
BIN_DIR = pathlib.Path(os.environ.get("ALLEZON_BIN_DIR", ROOT / "build" / "release" / "bin"))
# Builds with a sanitizer run a shortened set: fewer rounds, smaller counts.
SHORT = os.environ.get("ALLEZON_TEST_SHORT", "") not in ("", "0")
# Time limits are multiplied by it; a sanitizer makes the programs several times slower.
TIME_SCALE = float(os.environ.get("ALLEZON_TEST_TIME_SCALE", "1"))
# What asks the fixture `gateway` asks two gateways through nginx.
BEHIND_NGINX = os.environ.get("ALLEZON_TEST_NGINX", "") not in ("", "0")
READY_TIMEOUT_S = 60 * TIME_SCALE
STOP_TIMEOUT_S = 30 * TIME_SCALE

# What a sanitizer prints when it has found something.
SANITIZER_REPORT = re.compile(
    r"ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|runtime error: |"
    r"SUMMARY: (Address|Thread|Leak|UndefinedBehavior)Sanitizer")


class RunningCluster(Cluster):
    """A Cluster (local/cluster.py) on free ports, watched so that nothing survives its test."""

    def __init__(self, folder, *, gateways=1, profiles=3, aggregates=3, rf=None, write_quorum=None,
                 nginx=False, extra_args=None, env=None, log_level="info", hosts=None, prefixes=None, proxies=None,
                 names=None):
        settings = make_settings(folder, gateways=gateways, profiles=profiles,
                                 aggregates=aggregates, rf=rf,
                                 write_quorum=write_quorum, nginx=int(nginx))
        super().__init__(folder, BIN_DIR, settings, extra_args=extra_args, env=env,
                         log_level=log_level, hosts=hosts, prefixes=prefixes, fronts=proxies and proxies.fronts,
                         note=print)
        self.proxies = proxies
        self.disks = None  # with those of its nodes, where they have some
        if names is not None:
            self.fronts = Fronts(names, settings)
            self.prefixes = {id_: names.prefix for service in SERVICES for id_ in settings.ids(service)}
        self._reaper = None
        self._ended = {}  # those that a test ended, and how

    def launch(self):
        """Starts every process and waits until the gateways are ready and every node serves: only then does
        a cluster stand a fault."""
        # Kills the processes should this one be killed before it can stop them.
        self._reaper = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__).with_name("reaper.py")), str(self.folder)],
            stdin=subprocess.PIPE, start_new_session=True)
        self.start()
        if self.proxies is not None:
            for id_ in self.proxies.fronts:
                self.proxies.aim(id_, self.entry(id_)["grpc"])
        self.wait_ready()
        self.wait_serving()

    # --- where things are ---

    @property
    def http(self):
        """host:port of each gateway."""
        return [entry["http"] for entry in self.entries["gateways"]]

    @property
    def nginx(self):
        """host:port of the nginx before the gateways; only with nginx=True."""
        return self.entries["nginx"][0]["http"]

    @property
    def profiles(self):
        """host:port of each profile node's gRPC server."""
        return [entry["grpc"] for entry in self.entries["profile"]]

    @property
    def aggregates(self):
        return [entry["grpc"] for entry in self.entries["aggregate"]]

    def node_ids(self):
        return [entry["id"] for service in ("profile", "aggregate")
                for entry in self.entries[service]]

    def process_ids(self):
        return [entry["id"] for entry in self.all_entries()]

    def metrics(self, id_):
        """The samples of a process's /metrics: {'name{label="value"}': 12.0}."""
        entry = self.entry(id_)
        url = f"http://{entry.get('metrics') or entry['http']}/metrics"
        with urllib.request.urlopen(url, timeout=10 * TIME_SCALE) as answer:
            lines = answer.read().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def ids(self, service):
        """["p0", "p1", …]"""
        return [entry["id"] for entry in self.entries[service]]

    def events(self, id_):
        """How many events a node holds."""
        return int(sum_of(self.metrics(id_), "allezon_store_events"))

    def stores(self, id_):
        """Whether a node's disk takes what it is given; False while it does not answer, too."""
        try:
            return self.metrics(id_)["allezon_store_healthy"] == 1
        except OSError:  # urllib's errors are, too
            return False

    def serving(self, id_):
        """Whether a node says SERVING to grpc.health."""
        health = grpc_api.health_messages()
        try:
            answer = grpc_api.call(self.entry(id_)["grpc"], "grpc.health.v1.Health/Check",
                                   health.HealthCheckRequest(), health.HealthCheckResponse,
                                   timeout_s=2 * TIME_SCALE)
        except grpc_api.grpc.RpcError:
            return False
        return answer.status == health.HealthCheckResponse.SERVING

    # --- waiting ---

    def wait_serving(self, *ids, timeout_s=READY_TIMEOUT_S):
        """Waits until these nodes (all where none is named) say SERVING."""
        waiting = list(ids or self.node_ids())

        def done():
            waiting[:] = [id_ for id_ in waiting if not self.serving(id_)]
            return not waiting

        wait_until(done, timeout_s, lambda: "\n".join(
            [f"not SERVING: {waiting}", *map(self.log_tail, waiting)]))

    def wait_equal(self, timeout_s=READY_TIMEOUT_S):
        """Waits until all nodes of a service hold equally many events, for clusters with a replica of
        every shard on every node; returns {service: events}. Nothing may be written meanwhile."""
        counts = {}

        def done():
            for service in ("profile", "aggregate"):
                counts[service] = {id_: self.events_or_none(id_) for id_ in self.ids(service)}
            return all(len(set(of.values())) == 1 and None not in of.values()
                       for of in counts.values())

        wait_until(done, timeout_s, lambda: f"the replicas do not become equal: {counts}")
        return {service: next(iter(of.values())) for service, of in counts.items()}

    def events_or_none(self, id_):
        """None where the node does not answer."""
        try:
            return self.events(id_)
        except OSError:  # urllib's errors are, too
            return None

    # --- faults ---

    def pause(self, id_):
        """SIGSTOP: the process hangs, its connections stay open."""
        self.kill(id_, signal.SIGSTOP)

    def resume(self, id_):
        self.kill(id_, signal.SIGCONT)

    def wipe(self, id_):
        """Removes what a node that has ended has stored: it lost its disk."""
        assert not self.running(id_), f"{id_} runs: end it first"
        data = pathlib.Path(self.entry(id_)["data"])
        shutil.rmtree(data.resolve())
        if data.is_symlink():  # into a disk of its own
            data.resolve().mkdir()

    def wait_ready(self, timeout_s=READY_TIMEOUT_S):
        super().wait_ready(timeout_s)

    def kill(self, id_, sig=signal.SIGKILL, wait_s=None):
        """Sends a signal. After SIGKILL and SIGTERM waits until the process is gone and returns its
        exit code (negative: the signal); after others returns None at once."""
        ends = sig in (signal.SIGKILL, signal.SIGTERM)
        if ends:
            self._ended[id_] = sig
        super().kill(id_, sig, STOP_TIMEOUT_S if wait_s is None and ends else wait_s)
        return self.exit_code(id_) if ends else None

    def restart(self, id_):
        """Starts a process that has ended again, by its argv in its cwd; wait_ready() may follow."""
        super().restart(id_)
        self._ended.pop(id_, None)

    def restart_wiped(self, id_):
        """kill -9, an empty disk, and a start."""
        self.kill(id_)
        self.wipe(id_)
        self.restart(id_)

    def restart_by_clock(self, id_, shift_s):
        """Starts a process that has ended again, with a wall clock that is ahead by so much, behind below 0, or right
        again at 0."""
        self.envs[id_] = shifted_clock.environment(shift_s)
        self.restart(id_)

    def assert_all_running(self):
        down = [id_ for id_ in self.process_ids() if not self.running(id_)]
        assert not down, "\n".join([f"{', '.join(down)} ended", *map(self.log_tail, down)])

    # --- the end ---

    def finish(self):
        """Stops everything and returns what was wrong: a process that ended by itself, one that did
        not end with 0 on SIGTERM, a report of a sanitizer."""
        wrong = [f"{id_} (pid {pid}) ended by itself: {describe_exit(code)}"
                 for id_, pid, code in self.died() if id_ not in self._ended]
        for id_, code in self.stop(STOP_TIMEOUT_S).items():
            if code != 0:
                wrong.append(f"{id_} was stopped by SIGTERM: {describe_exit(code)}")
        for id_ in self.process_ids():
            for line in self._log_lines(id_):
                if SANITIZER_REPORT.search(line):
                    wrong.append(f"{id_}: {line.strip()}")
                    break
        if self._reaper is not None:
            self._reaper.stdin.close()
            self._reaper.wait(timeout=STOP_TIMEOUT_S)
        return wrong

    def log_tails(self):
        return "\n".join(self.log_tail(id_) for id_ in self.process_ids())

    def _log_lines(self, id_):
        try:
            return self.log_path(id_).read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []


def wait_until(condition, timeout_s, what, every_s=0.05):
    """Waits for a condition; `what` is the complaint past the time limit, or makes it."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else f"not in time: {what}"
        time.sleep(every_s)


def sum_of(metrics, name):
    """Of all samples of that name, whatever their labels."""
    return sum(value for key, value in metrics.items() if key.partition("{")[0] == name)
