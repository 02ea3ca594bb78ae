# SPDX-License-Identifier: Apache-2.0
"""Nothing acknowledged is lost and nothing counts twice, however processes end: with a single copy of everything, so
that no other replica can make up for what a node forgets. test_faults.py does the same to replicas."""

import json
import random
import signal
import threading

from api import MINUTE_MS, Gateway, bucket_text, make_tag, unique, unique_minute


class Writers:
    """Threads that store tags with idempotency keys, each retried until it is acknowledged or the writers stop."""

    def __init__(self, address, threads=4):
        self.address = address
        self.start_ms = unique_minute()
        self.origin = unique("o")
        self.acknowledged = []  # (minute, cookie, price)
        self.uncertain = []
        self.retries = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self, seed):
        gateway = Gateway(self.address, timeout_s=5)
        rng = random.Random(seed)
        while not self._stopping.is_set():
            minute, cookie, price = rng.randrange(10), unique(), rng.randrange(1000)
            tag = make_tag(cookie, self.start_ms + minute * MINUTE_MS + rng.randrange(MINUTE_MS),
                           origin=self.origin, price=price)
            key = unique("key")
            stored = False
            while not stored and not self._stopping.is_set():
                try:
                    stored = gateway.post_tag(tag, Idempotency_Key=key).status == 204
                except OSError:
                    stored = False
                if not stored:
                    with self._lock:
                        self.retries += 1
                    self._stopping.wait(0.02)
            with self._lock:
                (self.acknowledged if stored else self.uncertain).append((minute, tag, price, key))

    def stop(self):
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        # What is left open is stored now, so that every tag has one right answer.
        gateway = Gateway(self.address)
        for entry in self.uncertain:
            gateway.store(entry[1], Idempotency_Key=entry[3])
        self.acknowledged += self.uncertain
        self.uncertain = []

    def progress(self):
        with self._lock:
            return len(self.acknowledged)

    def check(self, gateway):
        expected = [[0, 0] for _ in range(10)]
        for minute, _, price, _ in self.acknowledged:
            expected[minute][0] += 1
            expected[minute][1] += price
        answer = gateway.aggregates(
            f"time_range={bucket_text(self.start_ms)}_{bucket_text(self.start_ms + 10 * MINUTE_MS)}"
            f"&action=VIEW&origin={self.origin}&aggregates=COUNT&aggregates=SUM_PRICE")
        assert [[int(c), int(s)] for *_, c, s in answer["rows"]] == expected
        for _, tag, _, _ in self.acknowledged[:: max(1, len(self.acknowledged) // 500)]:
            assert gateway.profile(tag["cookie"])["views"] == [tag]


def wait_for_progress(writers, tags):
    goal = writers.progress() + tags
    for _ in range(6000):
        if writers.progress() >= goal:
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"the writers stand still at {writers.progress()} tags")


def test_kill_9_of_one_node_after_another_under_load(fresh_cluster):
    cluster = fresh_cluster(rf=1)
    gateway = Gateway(cluster.http[0])
    rng = random.Random(5)
    writers = Writers(cluster.http[0])
    try:
        for _ in range(8):
            wait_for_progress(writers, 100)
            node = rng.choice(cluster.node_ids())
            cluster.kill(node, signal.SIGKILL)
            cluster.restart(node)
            cluster.wait_ready()
    finally:
        writers.stop()
    writers.check(gateway)
    print(json.dumps({"acknowledged": len(writers.acknowledged), "retries": writers.retries}))


def test_kill_9_of_every_process_at_once_loses_and_repeats_nothing(fresh_cluster):
    cluster = fresh_cluster(rf=1)
    gateway = Gateway(cluster.http[0])
    writers = Writers(cluster.http[0])
    try:
        for _ in range(3):
            wait_for_progress(writers, 200)
            for process in cluster.process_ids():
                cluster.kill(process, signal.SIGKILL)
            for process in cluster.process_ids():
                cluster.restart(process)
            cluster.wait_ready()
    finally:
        writers.stop()
    writers.check(gateway)


def test_sigterm_ends_every_process_cleanly_and_the_data_is_there_afterwards(fresh_cluster):
    cluster = fresh_cluster(rf=1)
    gateway = Gateway(cluster.http[0])
    tags = [make_tag() for _ in range(50)]
    gateway.store_batch(tags)
    for process in cluster.process_ids():
        assert cluster.kill(process, signal.SIGTERM) == 0, f"{process} ended with an error"
    for process in cluster.process_ids():
        cluster.restart(process)
    cluster.wait_ready()
    for tag in tags:
        assert gateway.profile(tag["cookie"])["views"] == [tag]
