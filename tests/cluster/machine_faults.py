# SPDX-License-Identifier: Apache-2.0
"""Faults of the machine below a node: no descriptors, no room on the disk, no power. A part of Faults (faults.py), which
has the cluster, its disks and the choice of whom to hit."""

import contextlib
import signal
import time

from descriptors import NoDescriptors

DOWN_S = 2  # how long what was ended stays away, so that it misses something
# Longer than a replica may lag behind what it vouches for (5 s), so that a node must notice.
NO_DESCRIPTORS_S = 8
FULL_S = 10


class MachineFaults:
    def _fds(self, hit):
        with contextlib.ExitStack() as while_none:
            for id_ in hit:
                entry = self.cluster.entry(id_)
                while_none.enter_context(NoDescriptors(entry["pid"], [entry["grpc"], entry["metrics"]]))
            time.sleep(NO_DESCRIPTORS_S)
        self._say(f"{' '.join(hit)} has descriptors again")

    def _full(self, hit):
        try:
            for id_ in hit:
                self.disks.fill(id_)
            time.sleep(FULL_S)
        finally:
            self.disks.heal()
        self._say(f"the disk of {' '.join(hit)} has room again")

    def _power(self, hit):
        self._cut_power(hit)
        time.sleep(DOWN_S)
        self._give_power(hit)

    def _blackout(self, hit):
        self._cut_power(hit)
        self._give_power(hit)

    def _cut_power(self, hit):
        for id_ in hit:
            self.disks.cut_power(id_)
        self._end(hit, signal.SIGKILL)

    def _give_power(self, hit):
        for id_ in hit:
            self.disks.give_power(id_)
        self._start(hit)
