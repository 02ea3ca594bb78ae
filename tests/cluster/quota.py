# SPDX-License-Identifier: Apache-2.0
"""A processor that is too slow for one process. Needs root and cgroup v1."""

import os

from cgroups import v1_folder

PERIOD_US = 100_000


class CpuQuota:
    """Of a running process, for as long as it is used; NoCgroups where there can be none:

        with CpuQuota(pid, 0.05):  # of one processor
    """

    def __init__(self, pid, share):
        self.pid = pid
        self.share = share
        self._parent = self._group = None

    def __enter__(self):
        self._parent = v1_folder("cpu")
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
