# SPDX-License-Identifier: Apache-2.0
"""Cgroups for processes under test, where this machine lets us make them: of memory, of version 2 or 1; and where those of
version 1 are."""

import os
import pathlib
import time
import uuid

ROOT = pathlib.Path("/sys/fs/cgroup")
GONE_TIMEOUT_S = 10


class NoCgroups(Exception):
    """Why none can be made here."""


def v1_folder(controller):
    """Where the root group of a controller of version 1 is. NoCgroups: nowhere, or it may not be written to."""
    for line in pathlib.Path("/proc/mounts").read_text().splitlines():
        _, where, kind, options = line.split()[:4]
        if kind == "cgroup" and controller in options.split(",") and os.access(where, os.W_OK):
            return pathlib.Path(where)
    raise NoCgroups(f"there is no {controller} of cgroup v1 here")


class MemoryGroup:
    """A cgroup with a memory limit. `prefix` put before the argv of a command has it run in there, as the process
    that it would be anyway (local/cluster.py). A context manager; the processes must have ended before its end."""

    def __init__(self, limit_bytes):
        self._is_v2 = (ROOT / "cgroup.controllers").exists()
        parent = ROOT if self._is_v2 else ROOT / "memory"
        self.path = parent / f"allezon-test-{uuid.uuid4().hex[:8]}"
        try:
            if self._is_v2 and "memory" not in (ROOT / "cgroup.subtree_control").read_text().split():
                (ROOT / "cgroup.subtree_control").write_text("+memory")
            self.path.mkdir()
        except OSError as error:
            raise NoCgroups(f"no memory cgroup can be made here: {error}") from None
        try:
            self._file("memory.max", "memory.limit_in_bytes").write_text(str(limit_bytes))
        except OSError as error:
            self.path.rmdir()
            raise NoCgroups(f"the memory of a cgroup cannot be limited here: {error}") from None
        self.prefix = ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self.path / "cgroup.procs")]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        deadline = time.monotonic() + GONE_TIMEOUT_S
        while True:
            try:
                return self.path.rmdir()
            except OSError:
                # The kernel takes a moment to forget a process that has ended.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _file(self, v2, v1):
        return self.path / (v2 if self._is_v2 else v1)

    def oom_kills(self):
        """How many processes of it the kernel has killed for its limit."""
        lines = self._file("memory.events", "memory.oom_control").read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])


def anonymous_bytes(pid):
    """What a process takes, files' pages aside."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith("RssAnon:"))
    return int(kib) << 10
