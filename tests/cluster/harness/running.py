# SPDX-License-Identifier: Apache-2.0
"""A cluster as the tests see it."""

import pathlib
import re
import signal
import subprocess
import sys
import urllib.request

from harness.environment import BIN_DIR, ROOT, scaled
from harness.grpc_client import GrpcNode, Protos
from harness.http_client import Http, Response, raw_http

import cluster as local_cluster  # local/cluster.py

# What a sanitizer prints when it has found something.
SANITIZER_REPORT = re.compile(
    r"ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|runtime error: |"
    r"SUMMARY: (Address|Thread|Leak|UndefinedBehavior)Sanitizer")


class RunningCluster(local_cluster.Cluster):
    """A started Cluster (local/cluster.py), with clients for its processes."""

    def __init__(self, folder: pathlib.Path, protos: Protos, *, gateways=1, profiles=3, aggregates=3,
                 rf=1, extra_args=None, env=None, log_level="info"):
        settings = local_cluster.make_settings(folder, gateways=gateways, profiles=profiles,
                                               aggregates=aggregates, rf=rf)
        super().__init__(folder, BIN_DIR, settings, extra_args=extra_args, env=env,
                         log_level=log_level, note=print)
        self.protos = protos
        self.pb = protos.messages
        self._clients = []
        self._reaper = None
        self._killed = set()

    def launch(self) -> "RunningCluster":
        """Starts, waits until ready."""
        # Ends the processes should this one be killed before it can.
        self._reaper = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/cluster/harness/reaper.py"), str(self.folder)],
            stdin=subprocess.PIPE, start_new_session=True)
        self.start()
        try:
            self.wait_ready(scaled(60))
        except BaseException:
            self.stop(5)
            raise
        return self

    def wait_ready(self, timeout_s: float = None) -> None:
        super().wait_ready(scaled(60) if timeout_s is None else timeout_s)

    def http(self, gateway: str = "g0", timeout_s: float = 10.0) -> Http:
        client = Http(*local_cluster.split_address(self.entry(gateway)["http"]), timeout_s)
        self._clients.append(client)
        return client

    def raw(self, data, gateway: str = "g0", **kwargs) -> bytes:
        return raw_http(*local_cluster.split_address(self.entry(gateway)["http"]), data, **kwargs)

    def grpc(self, id_: str) -> GrpcNode:
        node = GrpcNode(self.entry(id_)["grpc"], self.protos)
        self._clients.append(node)
        return node

    def metrics(self, id_: str) -> dict[str, float]:
        """The samples of /metrics: "name{label=\"value\"}" -> value."""
        entry = self.entry(id_)
        url = f"http://{entry.get('metrics') or entry['http']}/metrics"
        with urllib.request.urlopen(url, timeout=scaled(10)) as answer:
            samples = {}
            for line in answer.read().decode().splitlines():
                if line and not line.startswith("#"):
                    name, _, value = line.rpartition(" ")
                    samples[name] = float(value)
            return samples

    def kill(self, id_, sig=signal.SIGKILL, wait_s=None):
        if sig == signal.SIGKILL:
            self._killed.add(id_)
        super().kill(id_, sig, scaled(30) if wait_s is None and
                     sig in (signal.SIGKILL, signal.SIGTERM) else wait_s)

    def restart(self, id_):
        super().restart(id_)
        self._killed.discard(id_)

    def finish(self) -> list[str]:
        """Stops everything; returns what was wrong: a process that ended by itself, one that did
        not end well on SIGTERM, a report of a sanitizer."""
        wrong = [f"{id_} (pid {pid}) ended by itself: {local_cluster.describe_exit(code)}"
                 for id_, pid, code in self.died() if id_ not in self._killed]
        for client in self._clients:
            client.close()
        for id_, code in self.stop(scaled(30)).items():
            if code != 0 and id_ not in self._killed:
                wrong.append(f"{id_} was stopped by SIGTERM: {local_cluster.describe_exit(code)}")
        for entry in self.all_entries():
            for line in self.log_path(entry["id"]).read_text(errors="replace").splitlines():
                if SANITIZER_REPORT.search(line):
                    wrong.append(f"{entry['id']}: {line.strip()}")
                    break
        if self._reaper is not None:
            self._reaper.stdin.close()
            self._reaper.wait(timeout=scaled(30))
        return wrong

    def log_tails(self) -> str:
        return "\n".join(self.log_tail(entry["id"]) for entry in self.all_entries())


__all__ = ["RunningCluster", "Response"]
