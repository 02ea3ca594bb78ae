# SPDX-License-Identifier: Apache-2.0
"""Whether all replicas of all shards of a service are equal. What differs is followed from the shard to the hour, the minute and
the event, so that a minute that is written to all the time is no difference as long as each of its events arrives."""

import collections
import time

from verify_service import MINUTE_MS, ROUND_S, read_ids, time_text

# A shard that was different so many times is looked at more closely.
CLOSER_AFTER = 3
# What is looked at more closely at a time, and shown; the rest is only counted.
SHARDS_CLOSER_MAX = 16
HOURS_CLOSER_MAX = 24
MINUTES_BY_ID_MAX = 8  # of a shard
SHARDS_SHOWN = 20
MINUTES_SHOWN = 5
IDS_SHOWN = 3
# What is different in a shard, beside its minutes and events.
SHARD, EXPIRED = "shard", "expired"


class Comparison:
    """Of all replicas of a verify_service.Service. For one thread."""

    def __init__(self, service):
        self.service = service
        self.events = 0  # of all shards, once

    def run(self):
        """Until every shard is equal on all its replicas, or was different for `patience_s`."""
        pending = set(range(self.service.shards))
        times = collections.Counter()  # how often a shard was different
        suspects = {}  # by shard
        differing = 0
        while pending:
            began = time.monotonic()
            digests, expired = self.service.digests(sorted(pending), "SHARD")
            for shard in sorted(pending):
                ids = self.service.replicas(shard)
                if any(id_ not in digests for id_ in ids):
                    continue  # again, until it answers or is lost
                found = {id_: digests[id_].get((shard, 0), (0, 0)) for id_ in ids}
                records = {id_: expired[id_].get(shard) for id_ in ids}
                done = equal(found) and equal(records)
                times[shard] += 1
                if not done and times[shard] < CLOSER_AFTER:
                    continue
                if not done:
                    suspect = suspects.get(shard)
                    if suspect is None:
                        close = sum(other.is_close for other in suspects.values()) < SHARDS_CLOSER_MAX
                        suspect = suspects[shard] = Suspect(close)
                    if not self._look_again(shard, suspect, found, records):
                        continue  # a replica did not answer
                    # Where all that was different at first has become equal, what is different now is younger.
                    done = not suspect.items
                    if not done and time.monotonic() - suspect.since < self.service.patience_s:
                        continue
                if done:
                    self.events += max((count for count, _ in found.values()), default=0)
                else:
                    differing += 1
                    if differing <= SHARDS_SHOWN:
                        self._report(shard, found, suspect)
                pending.discard(shard)
                suspects.pop(shard, None)
            if pending:
                time.sleep(max(0.0, began + ROUND_S - time.monotonic()))
        self.service.report.events[self.service.name] = self.events
        if differing > SHARDS_SHOWN:
            self.service.problem(f"and {differing - SHARDS_SHOWN} more shards")
        if not differing and not self.service.lost:
            self.service.report.lines.append(
                f"{self.service.name}: {len(self.service.nodes)} nodes, {self.service.shards} shards, "
                f"{self.service.placement.rf} equal replicas of each, {self.events} events")

    def _look_again(self, shard, suspect, found, records):
        """Notes what is still different in the shard; False where a replica did not answer."""
        items = {}
        if not equal(found):
            if not suspect.is_close:
                items[SHARD] = found
            else:
                items = self._look_closer(shard, suspect, found)
                if items is None:
                    return False
        if not equal(records):
            items[EXPIRED] = records
        suspect.still(items)
        return True

    def _look_closer(self, shard, suspect, found):
        """{item: {id: what it holds}} of what is different in the shard. An item is SHARD, where there is too much to be
        followed; (minute, event id); or (minute, None) where its events are too many, or the same. At the first time that is
        chosen for the suspect, later the same is looked at. None where a replica did not answer."""
        ids = list(found)

        def different(level, hour=0):
            digests, _ = self.service.digests([shard], level, hour)
            if any(id_ not in digests for id_ in ids):
                return None
            starts = sorted({start for id_ in ids for _, start in digests[id_]})
            by_start = {start: {id_: digests[id_].get((shard, start), (0, 0)) for id_ in ids} for start in starts}
            return {start: of for start, of in by_start.items() if not equal(of)}

        first = suspect.items is None
        hours = different("HOUR") if first else sorted({minute // 60 for minute in suspect.by_ids})
        if hours is None:
            return None
        items = {SHARD: found} if len(hours) > HOURS_CLOSER_MAX or not first and SHARD in suspect.items else {}
        for hour in list(hours)[:HOURS_CLOSER_MAX]:
            minutes = different("MINUTE", hour)
            if minutes is None:
                return None
            for minute, of in minutes.items():
                if first:
                    suspect.by_ids[minute] = len(suspect.by_ids) < MINUTES_BY_ID_MAX
                if not suspect.by_ids.get(minute):
                    items[(minute, None)] = of
                    continue
                listed = self.service.ask({id_: lambda node, minute=minute: read_ids(node, shard, minute) for id_ in ids})
                if len(listed) < len(ids):
                    return None
                held = {} if None in listed.values() else {
                    event: {id_: listed[id_].get(event) for id_ in ids} for event in sorted(set().union(*listed.values()))}
                events = {(minute, event): by_id for event, by_id in held.items() if not equal(by_id)}
                items.update(events or {(minute, None): of})
        return items

    def _report(self, shard, found, suspect):
        self.service.problem(f"shard {shard} has been different for {self.service.patience_s:.0f} s: "
                     + ", ".join(f"{id_} {count} events" for id_, (count, _) in found.items()))
        lines = []
        by_minute = collections.defaultdict(dict)
        for item, holders in suspect.items.items():
            if item == EXPIRED:
                lines.append("  they have different records of what retention expired of it")
            elif item != SHARD:
                by_minute[item[0]][item[1]] = holders
        for minute, events in sorted(by_minute.items()):
            name = f"  {time_text(minute * MINUTE_MS)[:16]} (minute {minute})"
            if None in events:
                lines.append(f"{name}: " + ", ".join(f"{id_} {count} events" for id_, (count, _) in events[None].items()))
                continue
            groups = collections.defaultdict(list)
            for event, holders in events.items():
                here = [id_ for id_, held in holders.items() if held is not None]
                groups[tuple(here)].append(event)
            for here, of in groups.items():
                where = "with different bodies on " + ", ".join(here) if len(here) == len(found) else \
                    f"only on {', '.join(here)}, not on {', '.join(id_ for id_ in found if id_ not in here)}"
                lines.append(f"{name}: {len(of)} {where}: {', '.join(event.hex() for event in of[:IDS_SHOWN])}"
                             + (", …" if len(of) > IDS_SHOWN else ""))
        self.service.report.problems += lines[:MINUTES_SHOWN]
        if len(lines) > MINUTES_SHOWN:
            self.service.report.problems.append(f"  and {len(lines) - MINUTES_SHOWN} more minutes")


class Suspect:
    """A shard that is different, and what of it has been all the time."""

    def __init__(self, is_close):
        self.since = time.monotonic()
        self.is_close = is_close  # followed down to minutes and events
        self.by_ids = {}  # of the minutes that are followed: whether their events are
        self.items = None

    def still(self, items):
        if self.items is None:
            self.items = items
            return
        minutes = {item[0]: of for item, of in items.items() if isinstance(item, tuple)}
        was, self.items = self.items, {}
        for item in was:
            if item in items:
                self.items[item] = items[item]
            elif isinstance(item, tuple) and item[1] is None and item[0] in minutes:
                self.items[item] = was[item]


def equal(by_id):
    return len(set(by_id.values())) <= 1
