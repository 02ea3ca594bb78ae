# SPDX-License-Identifier: Apache-2.0
"""Retention in clusters with more nodes than replicas: what was acknowledged outlives it in the profiles, whatever happens to
disks and clocks meanwhile, and a minute is answered in full or not at all."""

import contextlib
import threading
import time

import grpc_api
from api import MINUTE_MS, Gateway, bucket_text, make_tag, unique, unique_minute
from background import Background
from inner import Node
from placement import shard_of
from running import READY_TIMEOUT_S, TIME_SCALE, wait_until
from stragglers import Stragglers
from verify import verify

NODES = 5
RETENTION_S = 30
STRAGGLER_S = 27  # after the rest of its minute
SERVES_S = 1  # how long a node that was wiped serves before the next one is
# In which retention would expire what it may, several times over.
ROUNDS_S = 5
USERS = 1000
DAY_S = 86_400


class Minute:
    """A minute of `USERS` users with a tag each, and one straggler."""

    def __init__(self, gateway):
        self.start_ms, self.origin = unique_minute(), unique("o")
        self.gateway = gateway
        self.tags = [make_tag(ms=self.start_ms + i % MINUTE_MS, origin=self.origin, price=i) for i in range(USERS)]
        self.stored_s = time.time()
        gateway.store_batch(self.tags)
        self.total = (USERS, sum(range(USERS)))

    def store_straggler(self, cookie):
        self.tags.append(make_tag(cookie, self.start_ms + 1, origin=self.origin, price=USERS))
        self.gateway.store(self.tags[-1])

    def totals(self):
        """What answers may say: without the straggler, and with it."""
        return self.total, (USERS + 1, sum(range(USERS + 1)))

    def query(self):
        return (f"/aggregates?time_range={bucket_text(self.start_ms)}_{bucket_text(self.start_ms + MINUTE_MS)}&action=VIEW"
                f"&origin={self.origin}&aggregates=COUNT&aggregates=SUM_PRICE")

    def move_time_on(self, retention_s=RETENTION_S):
        """A tag that is so much newer that the minute may go."""
        self.gateway.store(make_tag(ms=self.start_ms + 10 * MINUTE_MS + 2 * retention_s * 1000))


class Polls:
    """Asks every gateway and every aggregate node for a minute, all the time, and keeps what was wrong."""

    def __init__(self, cluster, minute):
        self.cluster = cluster
        self.minute = minute
        self.wrong = []
        self.in_full, self.gone = 0, 0
        self.by_node = {}  # answers
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(ask, name)) for ask, name in
                         [*((self._ask_gateway, address) for address in cluster.http),
                          *((self._ask_node, id_) for id_ in cluster.ids("aggregate"))]]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, ask, name):
        while not self._stopping.wait(0.2):
            answer = ask(name)
            if answer is None:
                continue  # a node that is down, or does not serve
            self.by_node[name] = self.by_node.get(name, 0) + 1
            if answer == "gone":
                self.gone += 1
                if time.time() < self.minute.stored_s + RETENTION_S:
                    self.wrong.append(f"{name}: gone early")
            elif answer in self.minute.totals():
                self.in_full += 1
            elif answer != (1, USERS):  # the straggler alone is what was accepted since the rest was expired
                self.wrong.append(f"{name}: {answer} in place of {self.minute.totals()}")
            elif time.time() < self.minute.stored_s + RETENTION_S:
                self.wrong.append(f"{name}: {answer} early")

    def _ask_gateway(self, address):
        try:
            response = Gateway(address, timeout_s=5 * TIME_SCALE).request("POST", self.minute.query())
        except OSError:
            return None
        if response.status == 400:
            return "gone"
        if response.status != 200:
            return None
        row, = response.json()["rows"]
        return int(row[-2]), int(row[-1])

    def _ask_node(self, id_):
        aggregate, tag = grpc_api.messages("aggregate"), grpc_api.messages("tag")
        request = aggregate.QueryAggregatesRequest(from_ms=self.minute.start_ms, to_ms=self.minute.start_ms + MINUTE_MS,
                                                   action=tag.ACTION_VIEW, origin=self.minute.origin)
        try:
            answer = grpc_api.call(self.cluster.entry(id_)["grpc"], "allezon.v1.AggregateService/QueryAggregates", request,
                                   aggregate.QueryAggregatesResponse, timeout_s=5 * TIME_SCALE)
        except grpc_api.grpc.RpcError as error:
            return "gone" if error.code() == grpc_api.grpc.StatusCode.FAILED_PRECONDITION else None
        return answer.rows[0].count, answer.rows[0].sum_price


class ProfilePolls(Background):
    """Asks gateways for the profile of one user after the other; none is ever empty."""

    def __init__(self, cluster, tags):
        super().__init__()
        self.wrong, self.right = [], 0
        self._tags = tags
        self._gateways = [Gateway(address, timeout_s=5 * TIME_SCALE) for address in cluster.http]

    def _run(self):
        turn = 0
        while not self._stopping.wait(0.01):
            tag = self._tags[turn % len(self._tags)]
            turn += 1
            try:
                views = self._gateways[turn % len(self._gateways)].profile(tag["cookie"])["views"]
            except (OSError, AssertionError):  # not answered
                continue
            if views == [tag]:
                self.right += 1
            else:
                self.wrong.append(f"{tag['cookie']}: {views}")


def cookie_on(cluster, ids):
    """A cookie whose profile is on these nodes: those that lose their disks last, while what they have kept of the minute is
    expired on the others."""
    node = Node("profile", cluster.entry(ids[0]))
    node.close()
    return next(cookie for cookie in iter(unique, None)
                if set(node.placement.replicas[shard_of(cookie, node.shards)]) == set(ids))


def lines(tags):
    return [{key: tag[key] for key in ("cookie", "time", "action", "origin", "product_info")} for tag in tags]


def wait_expired(cluster, minute):
    """Until no gateway answers the minute any more, and no aggregate node holds its old tags."""
    def gone():
        return all(Gateway(address).request("POST", minute.query()).status == 400 for address in cluster.http)
    wait_until(gone, (RETENTION_S + READY_TIMEOUT_S) * TIME_SCALE, "retention comes to the minute", every_s=0.5)


def test_stragglers_and_a_rolling_loss_of_disks_lose_nothing(fresh_cluster):
    """Retention expires most of a minute and leaves the shard of a straggler; then each node in turn loses its disk, and serves
    again before the next one."""
    flag = f"--retention_s={RETENTION_S}"
    cluster = fresh_cluster(gateways=2, profiles=NODES, aggregates=NODES, rf=3,
                            extra_args={"profile": [flag], "aggregate": [flag]})
    gateway = Gateway(cluster.http[0])
    minute = Minute(gateway)
    assert not (report := verify(cluster.folder, lines(minute.tags))).problems, report.text()
    with contextlib.ExitStack() as stack:
        polls = stack.enter_context(Polls(cluster, minute))
        profiles = stack.enter_context(ProfilePolls(cluster, list(minute.tags)))
        # So late that the disks are lost while retention has come to all of the minute but its shard.
        wait_until(lambda: time.time() > minute.stored_s + STRAGGLER_S, RETENTION_S, "the straggler's time", every_s=0.1)
        minute.store_straggler(cookie_on(cluster, cluster.ids("profile")[-3:]))
        minute.move_time_on()
        late = stack.enter_context(Stragglers(cluster.http, minute.start_ms - 60 * MINUTE_MS, retention_s=RETENTION_S,
                                              per_s=5, every_s=5))
        wait_expired(cluster, minute)
        late.stop()
        for profile, aggregate in zip(cluster.ids("profile"), cluster.ids("aggregate")):
            for id_ in (profile, aggregate):
                cluster.restart_wiped(id_)
            cluster.wait_serving(profile, aggregate)
            cluster.wait_ready()
            time.sleep(SERVES_S)
        report = verify(cluster.folder, [*lines(minute.tags), *late.lines()])
    print(report.text(), late.text(), f"{polls.in_full} in full, {polls.gone} gone, {profiles.right} profiles", sep="\n")
    count = len(minute.tags) + len(late.tags())
    assert report.standing["profile"].on == {3: count}, report.text()
    assert not report.problems, report.text()
    assert not profiles.wrong and profiles.right > 0, profiles.wrong[:5]
    assert not polls.wrong and polls.in_full > 0 and polls.gone > 0, polls.wrong[:5]
    assert set(polls.by_node) == {*cluster.http, *cluster.ids("aggregate")}
    late.assert_right()


def test_one_wrong_clock_of_a_service_makes_nothing_go_early(fresh_cluster):
    """Nor after it was put right. By the tags' own times all is old enough to go, so that only clocks protect it."""
    retention_s = 2 * DAY_S
    flag = f"--retention_s={retention_s}"
    cluster = fresh_cluster(profiles=NODES, aggregates=NODES, rf=3, extra_args={"profile": [flag], "aggregate": [flag]})
    gateway = Gateway(cluster.http[0])
    minutes = [Minute(gateway)]
    for days in (3, -3, 0):
        for id_ in ("p1", "a1"):
            cluster.kill(id_)
            cluster.restart_by_clock(id_, days * DAY_S)
        cluster.wait_serving("p1", "a1")
        minutes.append(Minute(gateway))
        for minute in minutes:
            minute.move_time_on(retention_s)
        time.sleep(ROUNDS_S)
        tags = lines(tag for minute in minutes for tag in minute.tags)
        report = verify(cluster.folder, tags)
        assert not report.problems, f"{days} days: {report.text()}"
        for service in ("profile", "aggregate"):
            assert report.standing[service].on == {3: len(tags)}, f"{days} days: {report.text()}"
        for minute in minutes:
            row, = gateway.aggregates(minute.query().partition("?")[2])["rows"]
            assert (int(row[-2]), int(row[-1])) == minute.total


def test_no_node_stops_serving_for_what_its_peers_expire(fresh_cluster):
    """Peers tell each other all the time what they have expired; only what is new has anything compared again."""
    retention_s = 8
    flag = f"--retention_s={retention_s}"
    cluster = fresh_cluster(extra_args={"profile": [flag], "aggregate": [flag]})
    gateway = Gateway(cluster.http[0])
    start_ms, stored = unique_minute(), 0
    end = time.monotonic() + 3 * retention_s * TIME_SCALE
    while time.monotonic() < end:
        # A minute of tag time in each round.
        tags = [make_tag(ms=start_ms + stored * MINUTE_MS // 50 + i) for i in range(50)]
        gateway.store_batch(tags, Idempotency_Key=unique("batch"))
        stored += len(tags)
        time.sleep(0.3)
    for id_ in cluster.node_ids():
        assert 0 < cluster.events(id_) < stored, f"{id_} has expired nothing"
        said = cluster.log_path(id_).read_text().count("not serving until")
        assert said == 1, f"{id_} said {said} times that it does not serve"
