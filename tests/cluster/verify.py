# SPDX-License-Identifier: Apache-2.0
"""Whether all replicas of all shards of a cluster are equal, and on which of them acknowledged tags stand. ./dev verify runs
this file as a program; tests call verify().

It works beside a load. What differs is compared again, all its replicas as close together in time as can be, until it is
equal or has differed for `patience_s`: only that is reported. What differs is followed from the shard to the hour, the minute
and the event, so that a minute that is written to all the time is no difference as long as each of its events arrives."""

import argparse
import collections
import concurrent.futures
import dataclasses
import datetime
import json
import pathlib
import re
import sys
import time

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "local"))
import grpc_api  # noqa: E402
from entries import load_entries  # noqa: E402
from inner import Node, WrongNode, describe  # noqa: E402
from placement import keyed_event_id, shard_of  # noqa: E402
from settings import ClusterError  # noqa: E402

PATIENCE_S = 10.0
TIMEOUT_S = 5.0  # of a call
ROUND_S = 0.4  # from one comparison to the next
# A shard that was different so many times is looked at more closely.
CLOSER_AFTER = 3
# What is looked at more closely at a time, and shown; the rest is only counted.
SHARDS_CLOSER_MAX = 16
HOURS_CLOSER_MAX = 24
MINUTES_BY_ID_MAX = 8  # of a shard
ID_PAGES_MAX = 40
SHARDS_SHOWN = 20
MINUTES_SHOWN = 5
IDS_SHOWN = 3
TAGS_SHOWN = 10
PROFILE_LIMIT = 200
# What is different in a shard, beside its minutes and events.
SHARD, EXPIRED = "shard", "expired"
MINUTE_MS = 60_000
TIME_MAX_MS = 2**52
# A stamp of a gateway may be so much earlier than when a tag was sent, as a part of the retention, and at least so much.
STAMP_SLACK_PART = 24
STAMP_SLACK_MIN_S = 2


class UsageError(Exception):
    """What the caller must change: exit code 2."""


@dataclasses.dataclass
class Report:
    lines: list = dataclasses.field(default_factory=list)  # one a service, and one a service for tags
    problems: list = dataclasses.field(default_factory=list)
    events: dict = dataclasses.field(default_factory=dict)  # service -> how many, each counted once
    standing: dict = dataclasses.field(default_factory=dict)  # service -> Standing

    def text(self):
        return "\n".join([*self.lines, *self.problems])


@dataclasses.dataclass
class Standing:
    """Of the tags of a list: how many stand on so many replicas."""

    on: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    expired: int = 0  # not there, and retention may have removed them
    beyond: int = 0  # not there, and behind the newest 200 of their action

    def text(self, rf):
        replicas = " / ".join(str(n) for n in range(rf, -1, -1))
        text = f"tags on {replicas} replicas: {' / '.join(str(self.on[n]) for n in range(rf, -1, -1))}"
        if self.expired:
            text += f"; expired: {self.expired}"
        if self.beyond:
            text += f"; older than the newest {PROFILE_LIMIT}: {self.beyond}"
        return text


class TagLine:
    """An acknowledged tag: {"time", "cookie", "action"} as they were sent; more fields of the tag are compared too. "key":
    its Idempotency-Key, by which it is found surely. "sent_s": the wall clock when it was sent first, by which it is known
    whether retention may have removed it."""

    __slots__ = ("cookie", "time_ms", "action", "key", "sent_s", "more")

    def __init__(self, fields):
        self.cookie = fields["cookie"]
        self.time_ms = parse_time(fields["time"])
        self.action = {"VIEW": "views", "BUY": "buys"}[fields["action"]]
        self.key = fields.get("key")
        self.sent_s = fields.get("sent_s")
        self.more = {name: fields[name] for name in ("country", "device", "origin", "product_info") if name in fields}

    @property
    def minute(self):
        return self.time_ms // MINUTE_MS

    def event_id(self):
        return keyed_event_id(self.key, self.cookie)

    def is_tag(self, tag):
        """Whether this could be what an allezon.v1.Tag says."""
        if (tag.cookie, tag.time_ms, ("", "views", "buys")[tag.action]) != (self.cookie, self.time_ms, self.action):
            return False
        if not self.more:
            return True
        product = tag.product_info
        kept = {"country": tag.country, "device": ("", "PC", "MOBILE", "TV")[tag.device], "origin": tag.origin,
                "product_info": {"product_id": getattr(product.product_id, product.product_id.WhichOneof("value") or "text"),
                                 "brand_id": product.brand_id, "category_id": product.category_id, "price": product.price}}
        return all(kept[name] == value for name, value in self.more.items())

    def text(self):
        return f"{self.cookie} {time_text(self.time_ms)} {self.action}" + (f" key {self.key}" if self.key else "")


def read_tags(path):
    tags = []
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    tags.append(TagLine(json.loads(line)))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise UsageError(f"{path}:{number} is no tag ({type(error).__name__}: {error})") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    return tags


def verify(folder, tags=(), patience_s=PATIENCE_S):
    """Report of the cluster of a folder; `tags`: TagLines, or what makes them. UsageError where there is no cluster."""
    tags = [tag if isinstance(tag, TagLine) else TagLine(tag) for tag in tags]
    report = Report()
    for name, entries in services_of(folder).items():
        with Service(name, entries, report, patience_s) as service:
            service.compare()
            if tags:
                service.find(tags)
    return report


def services_of(folder):
    """{service: its entries of cluster.json}"""
    try:
        entries = load_entries(pathlib.Path(folder))
    except ClusterError as error:
        raise UsageError(str(error)) from error
    services = {name: [entry for entry in entries if entry["id"][0] == name[0]] for name in ("profile", "aggregate")}
    if not all(services.values()):
        raise UsageError(f"there is no cluster in {folder}: it has no cluster.json with nodes")
    return services


class Service:
    """The nodes of one service. For one thread."""

    def __init__(self, name, entries, report, patience_s):
        self.name = name
        self.report = report
        self.patience_s = patience_s
        try:
            self.nodes = {entry["id"]: Node(name, entry) for entry in entries}
        except (KeyError, ValueError) as error:
            raise UsageError(f"cluster.json: the argv of a {name} node is not one of ./dev run: {error}") from error
        first = next(iter(self.nodes.values()))
        self.placement, self.shards, self.retention_s = first.placement, first.shards, first.retention_s
        self.failing = {}  # since when a node could not be asked, and its last error
        self.lost = set()  # nodes that could not be asked for `patience_s`
        self.events = 0  # of all shards, once
        self._threads = concurrent.futures.ThreadPoolExecutor(len(self.nodes))

    def __enter__(self):
        for node in self.nodes.values():
            if node.placement != self.placement:
                self.problem(f"{node.id} has another placement than the others: --instances, --shards, --rf or --write_quorum")
        return self

    def __exit__(self, *_):
        self._threads.shutdown()
        for node in self.nodes.values():
            node.close()

    def problem(self, line):
        self.report.problems.append(f"{self.name}: {line}")

    def replicas(self, shard):
        """Those that can be asked."""
        return [id_ for id_ in self.placement.replicas[shard] if id_ not in self.lost]

    # --- asking ---

    def ask(self, jobs):
        """Runs the jobs, {id: function of its Node}, at the same time: {id: what it returned}, without those that failed. A
        node that fails for `patience_s` is lost, which is a problem."""
        futures = {id_: self._threads.submit(job, self.nodes[id_]) for id_, job in jobs.items() if id_ not in self.lost}
        answers = {}
        for id_, future in futures.items():
            try:
                answers[id_] = future.result()
                self.failing.pop(id_, None)
            except (grpc.RpcError, WrongNode) as error:
                self._failed(id_, error)
        return answers

    def _failed(self, id_, error):
        since, _ = self.failing.get(id_, (time.monotonic(), None))
        self.failing[id_] = since, error
        if time.monotonic() - since >= self.patience_s:
            self.lost.add(id_)
            self.problem(f"{id_} ({self.nodes[id_].address}) cannot be asked: {describe(error)}")

    def digests(self, shards, level, hour=0):
        """{id: {(shard, start): (count, sum)}}, and {id: {shard: hash of what retention expired}} where nodes tell."""
        held = {id_: [shard for shard in shards if id_ in self.placement.replicas[shard]] for id_ in self.nodes}
        level_ = grpc_api.messages("replica").DigestLevel.Value(f"DIGEST_LEVEL_{level}")
        answers = self.ask({
            id_: lambda node, of=of: node.call("ReadDigests", TIMEOUT_S, level=level_, shards=of, hour=hour)
            for id_, of in held.items() if of})
        digests = {id_: {(d.shard, d.start): (d.count, d.sum_low | d.sum_high << 64) for d in answer.digests}
                   for id_, answer in answers.items()}
        expired = {id_: dict(zip(held[id_], answer.expired_hashes)) for id_, answer in answers.items()}
        return digests, expired

    # --- comparing ---

    def compare(self):
        """Until every shard is equal on all its replicas, or was different for `patience_s`."""
        pending = set(range(self.shards))
        times = collections.Counter()  # how often a shard was different
        suspects = {}  # by shard
        differing = 0
        while pending:
            began = time.monotonic()
            digests, expired = self.digests(sorted(pending), "SHARD")
            for shard in sorted(pending):
                ids = self.replicas(shard)
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
                    if not done and time.monotonic() - suspect.since < self.patience_s:
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
        self.report.events[self.name] = self.events
        if differing > SHARDS_SHOWN:
            self.problem(f"and {differing - SHARDS_SHOWN} more shards")
        if not differing and not self.lost:
            self.report.lines.append(f"{self.name}: {len(self.nodes)} nodes, {self.shards} shards, {self.placement.rf} equal "
                                     f"replicas of each, {self.events} events")

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
            digests, _ = self.digests([shard], level, hour)
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
                listed = self.ask({id_: lambda node, minute=minute: read_ids(node, shard, minute) for id_ in ids})
                if len(listed) < len(ids):
                    return None
                held = {} if None in listed.values() else {
                    event: {id_: listed[id_].get(event) for id_ in ids} for event in sorted(set().union(*listed.values()))}
                events = {(minute, event): by_id for event, by_id in held.items() if not equal(by_id)}
                items.update(events or {(minute, None): of})
        return items

    def _report(self, shard, found, suspect):
        self.problem(f"shard {shard} has been different for {self.patience_s:.0f} s: "
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
        self.report.problems += lines[:MINUTES_SHOWN]
        if len(lines) > MINUTES_SHOWN:
            self.report.problems.append(f"  and {len(lines) - MINUTES_SHOWN} more minutes")

    # --- finding tags ---

    def find(self, tags):
        """Where each of the tags stands; those that are not on all replicas are looked for again for `patience_s`."""
        groups = collections.defaultdict(list)  # what is read at once: of a cookie, or of a (shard, minute)
        for tag in tags:
            shard = shard_of(tag.cookie, self.shards)
            groups[(shard, tag.cookie if self.name == "profile" else tag.minute)].append(tag)
        look = self._look_in_profile if self.name == "profile" else self._look_in_bucket
        pending, since = dict(groups), {}
        standing, lines = Standing(), []
        while pending:
            began = time.monotonic()
            looks = self._look(look, pending)
            short = []  # (tag, its replicas, those where it stands) of what has not become whole in time
            for group, of in list(pending.items()):
                ids = self.placement.replicas[group[0]]
                found = {id_: looks[id_][group] for id_ in ids if group in looks.get(id_, {})}
                on = [[id_ for id_ in found if i in found[id_].here] for i in range(len(of))]
                beyond = [any(i in look_.beyond for look_ in found.values()) for i in range(len(of))]
                asked = all(id_ in found or id_ in self.lost for id_ in ids)
                whole = all(len(on[i]) == len(found) or beyond[i] for i in range(len(of)))
                if not asked or not whole and began - since.setdefault(group, began) < self.patience_s:
                    continue
                del pending[group]
                for i, tag in enumerate(of):
                    if len(on[i]) == len(ids):
                        standing.on[len(ids)] += 1
                    elif beyond[i]:
                        standing.beyond += 1
                    else:
                        short.append((tag, group, ids, on[i]))
            expired = self._expired_ranges() if short and self.name == "aggregate" else {}
            for tag, group, ids, on in short:
                if expired and self._may_be_expired(tag, group, ids, on, expired):
                    standing.expired += 1
                    continue
                standing.on[len(on)] += 1
                lines.append(f"  {tag.text()}: on {', '.join(on) or 'no replica'}, "
                             f"not on {', '.join(id_ for id_ in ids if id_ not in on)}")
            if pending:
                time.sleep(max(0.0, began + ROUND_S - time.monotonic()))
        self.report.standing[self.name] = standing
        self.report.lines.append(f"{self.name}: {standing.text(self.placement.rf)}")
        if lines:
            self.problem(f"{len(lines)} acknowledged tags are not on all their replicas")
            self.report.problems += lines[:TAGS_SHOWN]
            if len(lines) > TAGS_SHOWN:
                self.report.problems.append(f"  and {len(lines) - TAGS_SHOWN} more")

    def _look(self, look, groups):
        """{id: {group: Look}} of the groups at each of their replicas, without what failed."""
        held = collections.defaultdict(dict)
        for group, tags in groups.items():
            for id_ in self.replicas(group[0]):
                held[id_][group] = tags
        results = {}

        def all_of(node):
            found, error = look(node, held[node.id])
            results[node.id] = found
            if error is not None:
                raise error

        self.ask({id_: all_of for id_ in held})
        return results

    def _look_in_profile(self, node, groups):
        """({group: Look}, an error if there was one)"""
        tag_pb2 = grpc_api.messages("tag")
        looks, failed = {}, None
        requests = ({"shard": shard, "cookie": cookie, "from_ms": -TIME_MAX_MS, "to_ms": TIME_MAX_MS, "limit": PROFILE_LIMIT,
                     "for_quorum": True} for shard, cookie in groups)
        for (group, tags), answer in zip(groups.items(), node.call_many("ReadProfile", TIMEOUT_S, requests)):
            if isinstance(answer, Exception):
                failed = answer
                continue
            rows, oldest_ms = {}, {}
            for action in ("views", "buys"):
                stored, begin = getattr(answer, action), 0
                for i, size in enumerate(stored.tag_bytes):
                    rows[stored.event_ids[16 * i:16 * i + 16]] = tag_pb2.Tag.FromString(stored.tags[begin:begin + size])
                    begin += size
                if len(stored.time_ms) == PROFILE_LIMIT:
                    oldest_ms[action] = stored.time_ms[-1]
            here = match(tags, rows)
            beyond = {i for i, tag in enumerate(tags)
                      if i not in here and tag.time_ms <= oldest_ms.get(tag.action, -TIME_MAX_MS)}
            looks[group] = Look(here, beyond)
        return looks, failed

    def _look_in_bucket(self, node, groups):
        looks, failed = {}, None
        for (shard, minute), tags in groups.items():
            try:
                if all(tag.key for tag in tags):
                    listed = read_ids(node, shard, minute)
                    here = set() if listed is None else {i for i, tag in enumerate(tags) if tag.event_id() in listed}
                else:
                    here = match(tags, read_events(node, shard, minute))
                looks[(shard, minute)] = Look(here, set())
            except (grpc.RpcError, WrongNode) as error:
                failed = error
                break
        return looks, failed

    def _expired_ranges(self):
        """{id: {shard: [ExpiredRange]}}; nothing of a node that does not tell."""
        def read(node):
            ranges, after = collections.defaultdict(list), None
            while True:
                try:
                    answer = node.call("ReadExpired", TIMEOUT_S, shards=self.placement.shards_of(node.id), after=after)
                except grpc.RpcError as error:
                    if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                        return ranges
                    raise
                for range_ in answer.ranges:
                    ranges[range_.shard].append(range_)
                if not answer.has_more or not answer.ranges:
                    return ranges
                after = answer.ranges[-1]

        return self.ask({id_: read for id_ in self.nodes})

    def _may_be_expired(self, tag, group, ids, on, expired):
        """Whether each replica that lacks the tag says that retention removed what may be it."""
        slack_s = max(STAMP_SLACK_MIN_S, self.retention_s / STAMP_SLACK_PART)
        for id_ in ids:
            if id_ in on:
                continue
            if not any(range_.from_minute <= group[1] < range_.to_minute
                       and (tag.sent_s is None or not range_.through_s or tag.sent_s - slack_s <= range_.through_s)
                       for range_ in expired.get(id_, {}).get(group[0], ())):
                return False
        return True


@dataclasses.dataclass
class Look:
    here: set  # indexes of the tags of a group that were found
    beyond: set  # of those that need not be there


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


def match(tags, rows):
    """The indexes of the tags that are among the rows, {event id: Tag}; each row stands for one tag."""
    here, left = set(), dict(rows)
    for i, tag in enumerate(tags):
        if tag.key and left.pop(tag.event_id(), None) is not None:
            here.add(i)
    by_time = collections.defaultdict(list)
    for event, row in left.items():
        by_time[row.time_ms].append((event, row))
    # Those that say most first: what fits them may fit others too.
    for i, tag in sorted(((i, tag) for i, tag in enumerate(tags) if not tag.key), key=lambda pair: -len(pair[1].more)):
        for position, (_, row) in enumerate(by_time[tag.time_ms]):
            if tag.is_tag(row):
                del by_time[tag.time_ms][position]
                here.add(i)
                break
    return here


def read_ids(node, shard, minute):
    """{event id: content hash of those with an idempotency key, else 0}; None where there are too many."""
    ids, after = {}, b""
    for _ in range(ID_PAGES_MAX):
        answer = node.call("ReadIds", TIMEOUT_S, shard=shard, minute=minute, after_id=after)
        keyed = iter(answer.keyed_hashes)
        page = [answer.ids[i:i + 16] for i in range(0, len(answer.ids), 16)]
        ids.update((id_, next(keyed, 0) if id_[0] & 0x80 else 0) for id_ in page)
        if not answer.has_more or not page:
            return ids
        after = page[-1]
    return None


def read_events(node, shard, minute):
    """{event id: Tag}"""
    tag_pb2 = grpc_api.messages("tag")
    events, after = {}, b""
    while True:
        answer = node.call("ReadEvents", TIMEOUT_S, shard=shard, minute=minute, after_id=after)
        events.update((event.id, tag_pb2.Tag.FromString(event.tag)) for event in answer.events)
        if not answer.has_more or not answer.events:
            return events
        after = answer.events[-1].id


def parse_time(text):
    """Milliseconds of "2022-03-22T12:15:00.000Z"; ValueError."""
    found = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,3}))?Z", text)
    if not found:
        raise ValueError(f"'{text}' is no time like 2022-03-22T12:15:00.000Z")
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    days = (datetime.date(year, month, day) - datetime.date(1970, 1, 1)).days
    return (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + int((found.group(7) or "0").ljust(3, "0"))


def time_text(ms):
    seconds, millis = divmod(ms, 1000)
    at = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
    return f"{at.isoformat()}.{millis:03}Z"


# --- the program ----------------------------------------------------------------------------------


def main(argv):
    parser = argparse.ArgumentParser(
        prog="./dev verify", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compares all replicas of all shards of a running cluster, also beside a load: what differs is compared "
                    f"again until it is equal or has differed for {PATIENCE_S:.0f} s, and only that is reported. A replica "
                    "that cannot be asked is a failure.",
        epilog="exit code: 0 all is well, 1 something is wrong, 2 there is no such cluster or file")
    parser.add_argument("--dir", type=pathlib.Path, default=ROOT / "run", metavar="DIR",
                        help="folder of the cluster, as of ./dev run (default: run)")
    parser.add_argument("--tags", type=pathlib.Path, metavar="FILE",
                        help="also find these acknowledged tags on every replica. A JSON object a line: time, cookie, action as "
                             "they were sent; key: the Idempotency-Key; sent_s: the wall clock when it was sent; other fields "
                             "of the tag are compared")
    options = parser.parse_args(argv)
    try:
        report = verify(options.dir, read_tags(options.tags) if options.tags else ())
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.text())
    return 1 if report.problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
