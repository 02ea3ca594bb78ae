# SPDX-License-Identifier: Apache-2.0
"""The input that makes the most of what the platform keeps for each minute: one cookie whose every tag is in a minute, or an
hour, of its own. What nodes compare grows with each of them, on all replicas of one shard."""

import concurrent.futures
import datetime
import http.client
import itertools
import threading
import time

import cgroups
from api import Gateway
from background import Background

SENDERS = 4  # batches on their way at once
PERIOD_S = 0.1  # from one batch to the next
TIMEOUT_S = 40  # a batch has 30 s
SAMPLE_S = 1.0
INTO = {"minute": 1, "hour": 60, "one": 0}  # minutes from one tag to the next
# Years before 1 are beyond datetime; the calendar is the same 400 years later.
CALENDAR_YEARS = 400


def time_text(minute):
    """Of a minute since the year 0000."""
    at = datetime.datetime(CALENDAR_YEARS, 1, 1) + datetime.timedelta(minutes=minute)
    return f"{at.year - CALENDAR_YEARS:04}-{at:%m-%d}T{at:%H:%M}:00.000Z"


class Flood:
    """Sends `per_s` tags a second for as long as run() is told, and goes on where it was when it is called again. Batches, so
    that the sender takes little of the machine."""

    def __init__(self, addresses, per_s, into="minute", cookie="flood"):
        self.into = into
        self.acknowledged, self.refused, self.uncertain = 0, 0, 0  # tags; a batch that is refused may be stored in part
        self.slowest_s = 0.0
        self._gateways = itertools.cycle([Gateway(address, timeout_s=TIMEOUT_S) for address in addresses])
        self._batch = max(1, round(per_s * PERIOD_S))
        self._cookie = cookie
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def run(self, until):
        """Until `until()` says so."""
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(SENDERS) as senders:
            running = set()
            for turn in itertools.count(1):
                if until():
                    break
                # No more than so many wait: a cluster that is slower is sent less.
                if len(running) == SENDERS:
                    done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                    for batch in done:
                        batch.result()
                running.add(senders.submit(self._send, next(self._gateways), self._lines()))
                time.sleep(max(0.0, began + turn * PERIOD_S - time.monotonic()))
            for batch in running:
                batch.result()

    def text(self):
        where = "one minute" if self.into == "one" else f"{self.into}s of their own"
        return (f"flood into {where}: {self.acknowledged} tags acknowledged, {self.refused} refused, {self.uncertain} uncertain; "
                f"the slowest batch of {self._batch} took {self.slowest_s:.2f} s")

    def _lines(self):
        step = INTO[self.into]
        return [
            f'{{"time":"{time_text(number * step)}","cookie":"{self._cookie}","country":"PL","device":"PC","action":"VIEW",'
            f'"origin":"flood","product_info":{{"product_id":{number},"brand_id":"b","category_id":"c","price":1}}}}'
            for number in itertools.islice(self._numbers, self._batch)]

    def _send(self, gateway, lines):
        began = time.monotonic()
        try:
            response = gateway.post_batch("\n".join(lines))
            accepted = response.json()["accepted"] if response.status == 200 else 0
            refused = response.status in (429, 503)
        except (OSError, http.client.HTTPException):
            accepted, refused = 0, False
        with self._lock:
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            self.acknowledged += accepted
            self.uncertain += len(lines) - accepted
            self.refused += len(lines) if refused else 0


class MemoryWatch(Background):
    """What the processes of a cluster take, files' pages aside, looked at once a second. Those that are away are left out."""

    def __init__(self, cluster):
        super().__init__()
        self._cluster = cluster
        self.first, self.most = self._taken(), {}

    def text(self):
        return "MiB at first, and at most: " + ", ".join(
            f"{id_} {self.first.get(id_, 0) >> 20} {most >> 20}" for id_, most in sorted(self.most.items()))

    def _taken(self):
        taken = {}
        for id_ in self._cluster.process_ids():
            try:
                taken[id_] = cgroups.anonymous_bytes(self._cluster.entry(id_)["pid"])
            except (OSError, KeyError, ValueError):
                pass  # it has just ended
        return taken

    def _run(self):
        while not self._stopping.wait(SAMPLE_S):
            for id_, taken in self._taken().items():
                self.most[id_] = max(self.most.get(id_, 0), taken)
