# SPDX-License-Identifier: Apache-2.0
"""allezon-load beside a rehearsal: the assignment's mix at a steady rate, every answer compared. On
the local cluster it runs in the network of a client; on any other as a pod."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import tempfile
import threading

import cluster
from cluster import ClusterError

PROGRAM = cluster.ROOT / "build/release/bin/allezon-load"
RATE = 500  # tags a second
# After its end a stream waits for the lags, then asks for every profile and every minute.
END_TIMEOUT_S = 180
CONNECT_TIMEOUT_S = 30
TEXT_LINES_MAX = 40
FLAGS = {
    "rate": RATE, "aggregate_timeout_ms": 5000, "duration_s": 36_000, "finish_on_signal": True,
    "cookies": 5000, "speedup": 8,  # a logical minute in 15 s
    # A replica that may lag 5 s behind what it vouches for answers nothing.
    "profile_lag_s": 10, "aggregate_lag_s": 10, "final_check": True, "allow_failures": True,
}
KINDS = ("tags", "profiles", "aggregates")


def argv(program: str, targets: list[str], report: str, flags: dict[str, object]) -> list[str]:
    chosen = {"targets": ",".join(targets), "json": report, **FLAGS, **flags}
    words = {name: str(value).lower() if isinstance(value, bool) else value
             for name, value in chosen.items()}
    return [program, *(f"--{name}={word}" for name, word in words.items())]


def problems(report: dict) -> list[str]:
    """What of a load's report (bench/load/report.cc) must not be."""
    found = []
    for kind in KINDS:
        part = report[kind]
        if part["failed"]:
            reasons = ", ".join(f"{count} {why}" for why, count in sorted(part["failures"].items()))
            found.append(f"{part['failed']} {kind} failed ({reasons})")
        if kind != "tags" and part["right"] + part["within_bounds"] == 0:
            found.append(f"no answer of {kind} was compared")
    if report["wrong"]:
        first = report["wrong_samples"][0]
        found.append(f"{report['wrong']} answers were wrong, the first: {first}")
    if report["tags_not_sent"]:
        found.append(f"{report['tags_not_sent']} tags of the schedule were not sent")
    if report["interrupted"]:
        found.append("the load was cut short")
    return found


class Load:
    """Runs from construction on; `finish()` ends the stream, waits for the final check and returns
    the report."""

    def __init__(self, command: list[str]):
        self._output: list[str] = []
        self._started = threading.Event()
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._started.wait(CONNECT_TIMEOUT_S) or self._process.poll() is not None:
            self.kill()
            raise ClusterError("the load has not started", self.text())

    def _read(self) -> None:
        for line in self._process.stdout:
            self._output.append(line)
            if "tags/s" in line:
                self._started.set()
        self._started.set()

    def text(self) -> str:
        """The end of what it has said; of its progress only where requests failed."""
        calm, failed = [], "0"
        for line in self._output:
            now = line.partition("; failed ")[2].partition(",")[0]
            if "tags/s, " not in line or now != failed:
                calm.append(line)
            failed = now or failed
        return "".join(calm[-TEXT_LINES_MAX:])

    def check_running(self) -> None:
        if self._process.poll() is not None:
            raise ClusterError("the load has ended by itself", self.text())

    def _end_stream(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def _report(self) -> str:
        raise NotImplementedError

    def finish(self) -> dict:
        self.check_running()
        self._end_stream()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ClusterError(f"the load did not end in {END_TIMEOUT_S} s", self.text()) from None
        self._reader.join()
        text = self._report()
        if not text:
            raise ClusterError("the load gave no report", self.text())
        return json.loads(text)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class ClientLoad(Load):
    """In the network of the local cluster's client."""

    def __init__(self, client: list[str], targets: list[str], **flags):
        self._folder = tempfile.TemporaryDirectory(prefix="allezon-rehearsal-")
        self._file = pathlib.Path(self._folder.name) / "report.json"
        super().__init__([*client, *argv(str(PROGRAM), targets, str(self._file), flags)])

    def _report(self) -> str:
        return self._file.read_text(encoding="utf-8")


class PodLoad(Load):
    """As a pod with the image that is installed; its output is followed."""

    def __init__(self, where: cluster.Cluster, targets: list[str], **flags):
        self._cluster, self._name = where, f"rehearsal-load-{id(self):x}"
        command = argv("allezon-load", targets, "/dev/stdout", flags)
        where.kubectl("create", "-f", "-", text=json.dumps(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self._name},
             "spec": _spec(where.installed_image(), command)}))
        where.kubectl("wait", f"pod/{self._name}", "--for=jsonpath={.status.phase}=Running",
                      "--timeout=60s")
        super().__init__(where.command("kubectl", "-n", where.namespace, "logs", "--follow",
                                       self._name))

    def _end_stream(self) -> None:
        # A SIGTERM that leaves the pod, and so its output, where they are.
        self._cluster.kubectl("patch", f"pod/{self._name}",
                              "--patch={\"spec\": {\"activeDeadlineSeconds\": 1}}")

    def _report(self) -> str:
        found = [line for line in self._output if line.startswith('{"settings"')]
        return found[-1] if found else ""

    def kill(self) -> None:
        super().kill()
        self._cluster.kubectl("delete", f"pod/{self._name}", "--force", "--grace-period=0",
                              "--ignore-not-found", check=False)


def _spec(image: str, command: list[str]) -> dict:
    return {
        "restartPolicy": "Never", "automountServiceAccountToken": False,
        "enableServiceLinks": False, "terminationGracePeriodSeconds": END_TIMEOUT_S,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532,
                            "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": "load", "image": image, "imagePullPolicy": "IfNotPresent", "command": command,
            "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                "capabilities": {"drop": ["ALL"]}}}]}
