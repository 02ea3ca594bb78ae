# SPDX-License-Identifier: Apache-2.0
"""Late tags into old minutes, in the background of a fault or of nothing: what retention must not lose, and must not answer
in part."""

import dataclasses
import http.client
import random
import time

from api import MINUTE_MS, Gateway, bucket_text, make_tag, unique
from background import Background
from running import TIME_SCALE

BURST = 20  # tags that a minute begins with
MINUTES_FIRST = 4
LATE_S = 5  # for so long late tags go into the same minute, so that the others can be asked for
VISIBLE_AFTER_S = 10  # what was stored so long ago is seen on every replica that answers
RETRY_FOR_S = 60 * TIME_SCALE
RETRY_PAUSE_S = 0.1
TIMEOUT_S = 5 * TIME_SCALE
WRONG_SHOWN = 10
PRICE_MAX = 1 << 30


@dataclasses.dataclass
class Straggler:
    tag: dict
    key: str
    sent_s: float  # the first attempt, by the wall clock
    answered: float  # time.monotonic()

    def line(self):
        """As verify.TagLine wants it."""
        return {"cookie": self.tag["cookie"], "time": self.tag["time"], "action": self.tag["action"], "key": self.key,
                "sent_s": self.sent_s}


@dataclasses.dataclass
class Minute:
    """In the order in which they were accepted, each one acknowledged before the next was sent."""

    start_ms: int
    origin: str
    tags: list = dataclasses.field(default_factory=list)
    uncertain: bool = False  # a tag of it was never acknowledged


class Stragglers(Background):
    """A thread that stores `per_s` tags a second in minutes of its own, one before the other from `before_ms` back. Each
    begins with a burst, a new one every `every_s`; then late tags go into one of them after the other. It asks for what it has stored: a
    minute is answered in full, or refused where retention may have expired some of it, or is what was accepted since.

    Every tag has a key, and is sent until it is acknowledged.

    with Stragglers(cluster.http, before_ms, retention_s=40) as stragglers:
        …
    stragglers.assert_right(); verify(cluster.folder, stragglers.lines())
    """

    def __init__(self, addresses, before_ms, *, retention_s, per_s=1.0, every_s=None, seed=1):
        super().__init__()
        self.retention_s = retention_s
        self.minutes = []
        self.wrong = []
        self.failed = 0  # queries that were not answered, and attempts to store
        self.full, self.anew, self.gone, self.profiles = 0, 0, 0, 0  # answers
        self._gateways = [Gateway(address, timeout_s=TIMEOUT_S) for address in addresses]
        self._next_ms = before_ms - before_ms % MINUTE_MS
        self._pause_s = 1 / per_s
        self._every_s = every_s or min(60.0, max(5.0, retention_s / 4))
        self._random = random.Random(seed)

    def tags(self):
        """All that were acknowledged."""
        return [tag for minute in self.minutes for tag in minute.tags]

    def lines(self):
        return [tag.line() for tag in self.tags()]

    def uncertain(self):
        return sum(minute.uncertain for minute in self.minutes)

    def text(self):
        return (f"stragglers: {len(self.tags())} acknowledged, {self.uncertain()} uncertain, in {len(self.minutes)} minutes; "
                f"asked for them: {self.full} in full, {self.anew} begun anew, {self.gone} gone; {self.profiles} profiles; "
                f"{len(self.wrong)} wrong, {self.failed} attempts failed")

    def assert_right(self):
        assert not self.wrong, f"{len(self.wrong)} answers about stragglers were wrong: " + "; ".join(self.wrong[:WRONG_SHOWN])

    # --- the thread: one request at a time, so that all before it was acknowledged or never will be ---

    def _run(self):
        for _ in range(MINUTES_FIRST):
            self._begin_minute()
        next_minute, next_late = time.monotonic() + self._every_s, 0.0
        while not self._stopping.is_set():
            now = time.monotonic()
            if now >= next_minute:
                next_minute = now + self._every_s
                self._begin_minute()
            if now >= next_late:
                next_late = now + LATE_S
                late = self._random.choice(self.minutes)
            self._store(late)
            self.ask(self._random.choice(self.minutes), self._random.choice(self._gateways))
            self.ask_profile(self._random.choice(self._gateways))
            self._stopping.wait(self._pause_s)

    def _begin_minute(self):
        self._next_ms -= MINUTE_MS
        self.minutes.append(Minute(self._next_ms, unique("late")))
        for _ in range(BURST):
            self._store(self.minutes[-1])

    def _store(self, minute):
        if minute.uncertain:
            return
        tag = make_tag(ms=minute.start_ms + self._random.randrange(MINUTE_MS), origin=minute.origin,
                       price=self._random.randrange(PRICE_MAX))
        key, sent_s, give_up = unique("key"), time.time(), time.monotonic() + RETRY_FOR_S
        while time.monotonic() < give_up:
            gateway = self._random.choice(self._gateways)
            response = self._try(lambda: gateway.post_tag(tag, Idempotency_Key=key))
            if response is not None and response.status == 204:
                minute.tags.append(Straggler(tag, key, sent_s, time.monotonic()))
                return
            if response is not None and response.status == 400:
                self.wrong.append(f"a tag was refused: {response.body[:200]!r}")
                break
            self.failed += 1
            time.sleep(RETRY_PAUSE_S)
        minute.uncertain = True

    def ask(self, minute, gateway):
        """Nothing where something of the minute is too young, or uncertain."""
        now = time.monotonic()
        tags = minute.tags
        if not tags or minute.uncertain or now - tags[-1].answered < VISIBLE_AFTER_S * TIME_SCALE:
            return
        target = (f"/aggregates?time_range={bucket_text(minute.start_ms)}_{bucket_text(minute.start_ms + MINUTE_MS)}"
                  f"&action=VIEW&origin={minute.origin}&aggregates=COUNT&aggregates=SUM_PRICE")
        response = self._try(lambda: gateway.request("POST", target))
        # What may have gone by the time of the answer: tags that were accepted so long ago.
        gone_max = sum(time.time() - tag.sent_s >= self.retention_s for tag in tags)
        if response is None or response.status not in (200, 400):
            self.failed += 1
        elif response.status == 400:
            self.gone += 1
            if gone_max == 0:
                self.wrong.append(f"minute {bucket_text(minute.start_ms)} is gone early: {response.body[:200]!r}")
        else:
            row, = response.json()["rows"]
            found = int(row[-2]), int(row[-1])
            prices = [tag.tag["product_info"]["price"] for tag in tags]
            rests = [(len(prices) - i, sum(prices[i:])) for i in range(gone_max + 1)]
            if found == rests[0]:
                self.full += 1
            elif found in rests:
                self.anew += 1
            else:
                self.wrong.append(f"minute {bucket_text(minute.start_ms)}: {found[0]} tags of {len(tags)}, sum {found[1]}, not "
                                  f"{rests[0][1]} nor what is left without the first {gone_max} at most")

    def ask_profile(self, gateway):
        minute = self._random.choice(self.minutes)
        if not minute.tags:
            return
        straggler = self._random.choice(minute.tags)
        if time.monotonic() - straggler.answered < VISIBLE_AFTER_S * TIME_SCALE:
            return
        target = f"/user_profiles/{straggler.tag['cookie']}?time_range=1970-01-01T00:00:00_2100-01-01T00:00:00"
        response = self._try(lambda: gateway.request("POST", target))
        if response is None or response.status != 200:
            self.failed += 1
            return
        self.profiles += 1
        if response.json()["views"] != [straggler.tag]:
            self.wrong.append(f"profile of {straggler.tag['cookie']}: {response.body[:300]!r}")

    @staticmethod
    def _try(send):
        try:
            return send()
        except (OSError, http.client.HTTPException):
            return None
