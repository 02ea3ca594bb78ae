# SPDX-License-Identifier: Apache-2.0
"""Small, steady traffic in the background of a fault: every request is sent once, and every failure is kept."""

import http.client
import random
import threading
import time

from api import MINUTE_MS, Gateway, bucket_text, make_tag, time_text, unique, unique_minute
from running import SHORT, TIME_SCALE, wait_until

MINUTES = 10
# A tag is visible on every replica that answers by then, whatever one node does.
VISIBLE_AFTER_S = 10


class Traffic:
    """Threads that store tags and ask for profiles of tags stored long enough ago, over the gateways in turn.

    with Traffic(cluster.http) as traffic:
        traffic.go_on(100)   # waits until so many more requests are answered
    traffic.assert_no_failure()
    """

    def __init__(self, addresses, threads=2 if SHORT else 4, timeout_s=2 * TIME_SCALE, pause_s=0.005):
        self.addresses = addresses
        self.timeout_s = timeout_s
        self.pause_s = pause_s
        self.start_ms = unique_minute()
        self.origin = unique("o")
        self.failures = []
        self.uncertain = 0  # tags that failed: they may be stored all the same
        self.stored = []  # (when, minute, tag), in order
        self.answered = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, requests=100):
        with self._lock:
            goal = self.answered + len(self.failures) + requests
        wait_until(lambda: self.answered + len(self.failures) >= goal, 60 * TIME_SCALE,
                   lambda: f"traffic stands still: {self.failures[-3:]}", every_s=0.01)

    def assert_no_failure(self):
        assert not self.failures, (f"{len(self.failures)} of {self.answered + len(self.failures)} requests failed; "
                                   + "; ".join(self.failures[:10]))

    def expected(self):
        """[(count, sum of prices)] by minute, of views, once the threads have ended."""
        assert not self.uncertain
        totals = [[0, 0] for _ in range(MINUTES)]
        for _, minute, tag in self.stored:
            totals[minute][0] += 1
            totals[minute][1] += tag["product_info"]["price"]
        return [tuple(total) for total in totals]

    def check(self, address):
        """Every tag is in the aggregates once and, by a sample, in its profile once."""
        gateway = Gateway(address)
        answer = gateway.aggregates(
            f"time_range={bucket_text(self.start_ms)}_{bucket_text(self.start_ms + MINUTES * MINUTE_MS)}"
            f"&action=VIEW&origin={self.origin}&aggregates=COUNT&aggregates=SUM_PRICE")
        assert [(int(count), int(total)) for *_, count, total in answer["rows"]] == self.expected()
        for _, _, tag in self.stored[:: max(1, len(self.stored) // 200)]:
            assert gateway.profile(tag["cookie"])["views"] == [tag]

    def _run(self, seed):
        rng = random.Random(seed)
        gateways = [Gateway(address, timeout_s=self.timeout_s) for address in self.addresses]
        turn = seed
        while not self._stopping.is_set():
            turn += 1
            gateway = gateways[turn % len(gateways)]
            if turn % 2 or not self._ask(gateway, rng):
                self._store(gateway, rng)
            self._stopping.wait(self.pause_s)

    def _store(self, gateway, rng):
        minute = rng.randrange(MINUTES)
        tag = make_tag(unique(), self.start_ms + minute * MINUTE_MS + rng.randrange(MINUTE_MS), origin=self.origin,
                       price=rng.randrange(1000))
        if self._note("tag", gateway, lambda: gateway.post_tag(tag), 204):
            with self._lock:
                self.stored.append((time.monotonic(), minute, tag))
        else:
            with self._lock:
                self.uncertain += 1

    def _ask(self, gateway, rng):
        """False where nothing was stored long enough ago."""
        with self._lock:
            old = [tag for at, _, tag in self.stored[:200] if at + VISIBLE_AFTER_S < time.monotonic()]
        if not old:
            return False
        tag = rng.choice(old)
        range_ = f"{time_text(0, '')}_{time_text(2**41, '')}"
        target = f"/user_profiles/{tag['cookie']}?time_range={range_}"
        self._note("profile", gateway, lambda: gateway.request("POST", target), 200,
                   lambda response: response.json()["views"] == [tag])
        return True

    def _note(self, what, gateway, send, status, right=lambda response: True):
        began = time.monotonic()
        try:
            response = send()
            problem = None
            if response.status != status:
                problem = f"{response.status} {response.body[:200]!r}"
            elif not right(response):
                problem = f"a wrong answer: {response.body[:300]!r}"
        except (OSError, http.client.HTTPException) as error:
            problem = f"{type(error).__name__}: {error}"
        with self._lock:
            if problem is None:
                self.answered += 1
            else:
                self.failures.append(f"{what} at {gateway.port} after {time.monotonic() - began:.2f} s: {problem}")
        return problem is None
