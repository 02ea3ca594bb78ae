# SPDX-License-Identifier: Apache-2.0
"""On which replicas acknowledged tags stand."""

import collections
import dataclasses
import datetime
import json
import re
import time

import grpc
import grpc_api
from inner import WrongNode
from placement import keyed_event_id, shard_of
from verify_service import MINUTE_MS, ROUND_S, TIMEOUT_S, UsageError, read_ids, time_text

TAGS_SHOWN = 10
PROFILE_LIMIT = 200
TIME_MAX_MS = 2**52
# A stamp of a gateway may be so much earlier than when a tag was sent, as a part of the retention, and at least so much.
STAMP_SLACK_PART = 24
STAMP_SLACK_MIN_S = 2


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


class Search:
    """For tags at all their replicas in a verify_service.Service. For one thread."""

    def __init__(self, service):
        self.service = service

    def run(self, tags):
        """Where each of the tags stands; those that are not on all replicas are looked for again for `patience_s`."""
        groups = collections.defaultdict(list)  # what is read at once: of a cookie, or of a (shard, minute)
        for tag in tags:
            shard = shard_of(tag.cookie, self.service.shards)
            groups[(shard, tag.cookie if self.service.name == "profile" else tag.minute)].append(tag)
        look = self._look_in_profile if self.service.name == "profile" else self._look_in_bucket
        pending, since = dict(groups), {}
        standing, lines = Standing(), []
        while pending:
            began = time.monotonic()
            looks = self._look(look, pending)
            short = []  # (tag, its replicas, those where it stands) of what has not become whole in time
            for group, of in list(pending.items()):
                ids = self.service.placement.replicas[group[0]]
                found = {id_: looks[id_][group] for id_ in ids if group in looks.get(id_, {})}
                on = [[id_ for id_ in found if i in found[id_].here] for i in range(len(of))]
                beyond = [any(i in look_.beyond for look_ in found.values()) for i in range(len(of))]
                asked = all(id_ in found or id_ in self.service.lost for id_ in ids)
                whole = all(len(on[i]) == len(found) or beyond[i] for i in range(len(of)))
                if not asked or not whole and began - since.setdefault(group, began) < self.service.patience_s:
                    continue
                del pending[group]
                for i, tag in enumerate(of):
                    if len(on[i]) == len(ids):
                        standing.on[len(ids)] += 1
                    elif beyond[i]:
                        standing.beyond += 1
                    else:
                        short.append((tag, group, ids, on[i]))
            expired = self._expired_ranges() if short and self.service.name == "aggregate" else {}
            for tag, group, ids, on in short:
                if expired and self._may_be_expired(tag, group, ids, on, expired):
                    standing.expired += 1
                    continue
                standing.on[len(on)] += 1
                lines.append(f"  {tag.text()}: on {', '.join(on) or 'no replica'}, "
                             f"not on {', '.join(id_ for id_ in ids if id_ not in on)}")
            if pending:
                time.sleep(max(0.0, began + ROUND_S - time.monotonic()))
        self.service.report.standing[self.service.name] = standing
        self.service.report.lines.append(f"{self.service.name}: {standing.text(self.service.placement.rf)}")
        if lines:
            self.service.problem(f"{len(lines)} acknowledged tags are not on all their replicas")
            self.service.report.problems += lines[:TAGS_SHOWN]
            if len(lines) > TAGS_SHOWN:
                self.service.report.problems.append(f"  and {len(lines) - TAGS_SHOWN} more")

    def _look(self, look, groups):
        """{id: {group: Look}} of the groups at each of their replicas, without what failed."""
        held = collections.defaultdict(dict)
        for group, tags in groups.items():
            for id_ in self.service.replicas(group[0]):
                held[id_][group] = tags
        results = {}

        def all_of(node):
            found, error = look(node, held[node.id])
            results[node.id] = found
            if error is not None:
                raise error

        self.service.ask({id_: all_of for id_ in held})
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
                    answer = node.call("ReadExpired", TIMEOUT_S, shards=self.service.placement.shards_of(node.id), after=after)
                except grpc.RpcError as error:
                    if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                        return ranges
                    raise
                for range_ in answer.ranges:
                    ranges[range_.shard].append(range_)
                if not answer.has_more or not answer.ranges:
                    return ranges
                after = answer.ranges[-1]

        return self.service.ask({id_: read for id_ in self.service.nodes})

    def _may_be_expired(self, tag, group, ids, on, expired):
        """Whether each replica that lacks the tag says that retention removed what may be it."""
        slack_s = max(STAMP_SLACK_MIN_S, self.service.retention_s / STAMP_SLACK_PART)
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
