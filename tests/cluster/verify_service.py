# SPDX-License-Identifier: Apache-2.0
"""The nodes of one service of a running cluster, as ./dev verify asks them: all at once, and each for as long as it takes until
it is known to be lost."""

import concurrent.futures
import dataclasses
import datetime
import time

import grpc
import grpc_api
from inner import Node, WrongNode, describe

TIMEOUT_S = 5.0  # of a call
ROUND_S = 0.4  # from one look to the next
MINUTE_MS = 60_000
ID_PAGES_MAX = 40


class UsageError(Exception):
    """What the caller must change: exit code 2."""


@dataclasses.dataclass
class Report:
    lines: list = dataclasses.field(default_factory=list)  # one a service, and one a service for tags
    problems: list = dataclasses.field(default_factory=list)
    events: dict = dataclasses.field(default_factory=dict)  # service -> how many, each counted once
    standing: dict = dataclasses.field(default_factory=dict)  # service -> verify_tags.Standing

    def text(self):
        return "\n".join([*self.lines, *self.problems])


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
            id_: lambda node, of=of: read_digests(node, level_, of, [hour])
            for id_, of in held.items() if of})
        digests = {id_: {(d.shard, d.start): (d.count, d.sum_low | d.sum_high << 64) for page in pages for d in page.digests}
                   for id_, pages in answers.items()}
        expired = {id_: dict(zip(held[id_], pages[0].expired_hashes)) for id_, pages in answers.items()}
        return digests, expired


def read_digests(node, level, shards, hours):
    """The answers, page after page."""
    pages = [node.call("ReadDigests", TIMEOUT_S, level=level, shards=shards, hours=hours)]
    while pages[-1].has_more:
        pages.append(node.call("ReadDigests", TIMEOUT_S, level=level, shards=shards, hours=hours, after=pages[-1].digests[-1]))
    return pages


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


def time_text(ms):
    seconds, millis = divmod(ms, 1000)
    at = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
    return f"{at.isoformat()}.{millis:03}Z"
