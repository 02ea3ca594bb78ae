# SPDX-License-Identifier: Apache-2.0
"""Processes of the cluster: started in a network namespace, written down, and ended by what was written
down, so that a `down` after any crash finds them."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import time

from settings import WORK, ClusterError

RECORD = WORK / "processes.json"
END_TIMEOUT_S = 10
KILL_TIMEOUT_S = 10


def run(*command, text: str | None = None, check: bool = True) -> str:
    result = subprocess.run([str(word) for word in command], input=text, capture_output=True, text=True,
                            check=False)
    if check and result.returncode != 0:
        raise ClusterError(f"{' '.join(str(word) for word in command)}: {result.stderr.strip()}")
    return result.stdout.strip()


def inside(namespace: str) -> list[str]:
    # `ip netns exec` would mount /sys anew and hide the cgroups.
    return ["nsenter", f"--net=/run/netns/{namespace}"]


def _started(pid: int) -> str | None:
    """When the process was started, by the kernel's count: a pid alone may be another's by now."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    fields = stat.rsplit(")", 1)[1].split()
    return None if fields[0] == "Z" else fields[19]


def _records() -> dict[str, dict]:
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}


def _write(records: dict[str, dict]) -> None:
    unfinished = RECORD.with_suffix(".new")
    unfinished.write_text(json.dumps(records, indent=1), encoding="utf-8")
    unfinished.rename(RECORD)


def start(name: str, namespace: str, *command) -> None:
    log = WORK / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [str(word) for word in command]
    with log.open("ab") as output:
        process = subprocess.Popen([*inside(namespace), *words], stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=output, start_new_session=True)
    records = _records()
    records[name] = {"pid": process.pid, "started": _started(process.pid), "namespace": namespace,
                     "command": words}
    _write(records)


def alive(name: str) -> bool:
    record = _records().get(name)
    return bool(record) and record["started"] is not None and _started(record["pid"]) == record["started"]


def names() -> list[str]:
    return list(_records())


def restart(name: str) -> None:
    """Starts one that has ended as it was started before."""
    record = _records()[name]
    start(name, record["namespace"], *record["command"])


def end(chosen: list[str], kill: bool = False) -> None:
    """Ends those that still run; waits until they are gone."""
    records = _records()
    left = [name for name in chosen if alive(name)]
    for name in left:
        os.kill(records[name]["pid"], signal.SIGKILL if kill else signal.SIGTERM)
    deadline = time.monotonic() + END_TIMEOUT_S
    while any(alive(name) for name in left):
        if time.monotonic() > deadline:
            for name in filter(alive, left):
                os.kill(records[name]["pid"], signal.SIGKILL)
            deadline = time.monotonic() + KILL_TIMEOUT_S
        time.sleep(0.05)


def forget() -> None:
    RECORD.unlink(missing_ok=True)


def tail(name: str, lines: int = 15) -> str:
    log = WORK / "logs" / f"{name}.log"
    if not log.exists():
        return ""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def wait_for(what: str, condition, timeout_s: float, watched: tuple[str, ...] = ()) -> None:
    """Waits until the condition holds; fails early where a process that it needs has ended."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        for name in watched:
            if not alive(name):
                raise ClusterError(f"{name} has ended while waiting for {what}", tail(name))
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: not within {timeout_s:.0f} s", "\n".join(map(tail, watched)))
        time.sleep(0.2)
