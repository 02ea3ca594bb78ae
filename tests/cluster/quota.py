# SPDX-License-Identifier: Apache-2.0
"""A processor that is too slow for one process. Needs root and cgroup v1."""

import os
import pathlib

PERIOD_US = 100_000


class NoQuota(Exception):
    """Why there can be none here."""


class CpuQuota:
    """Of a running process, for as long as it is used:

        with CpuQuota(pid, 0.05):  # of one processor
    """

    def __init__(self, pid, share):
        self.pid = pid
        self.share = share
        self._parent = self._group = None

    def __enter__(self):
        self._parent = cpu_folder()
        self._group = self._parent / f"allezon-test-{os.getpid()}-{self.pid}"
        self._group.mkdir()
        (self._group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (self._group / "cpu.cfs_quota_us").write_text(str(max(1_000, round(self.share * PERIOD_US))))
        (self._group / "cgroup.procs").write_text(str(self.pid))
        return self

    def __exit__(self, *_):
        for pid in (self._group / "cgroup.procs").read_text().split():
            (self._parent / "cgroup.procs").write_text(pid)
        self._group.rmdir()


def cpu_folder():
    for line in pathlib.Path("/proc/mounts").read_text().splitlines():
        _, where, kind, options = line.split()[:4]
        if kind == "cgroup" and "cpu" in options.split(",") and os.access(where, os.W_OK):
            return pathlib.Path(where)
    raise NoQuota("no process can be given less of the processor here: there is no cpu of cgroup v1")
