# SPDX-License-Identifier: Apache-2.0
"""Whose folder, whose vote, whose answer: an address is no identity, and a folder is one node's, of one cluster."""

import concurrent.futures
import json
import shutil
import signal
import subprocess

import grpc
import pytest

import grpc_api
from api import Gateway, make_tag, unique
from ports import free_ports
from proxies import Proxies
from running import BIN_DIR, READY_TIMEOUT_S, SHORT, STOP_TIMEOUT_S, TIME_SCALE, wait_until

TAGS = 20 if SHORT else 100
STALE_MAX_S = 10 * TIME_SCALE  # what was acknowledged before is read from every replica that answers
INSTANCES = "p0=127.0.0.1:7001,p1=127.0.0.1:7002,p2=127.0.0.1:7003"


@pytest.fixture
def proxies():
    with Proxies(["p0"]) as made:
        yield made


class Process:
    """A program beside a cluster, or without one; ended with its test."""

    def __init__(self, argv, log):
        self.log = log
        with log.open("wb") as output:
            self.child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def says(self, text):
        return text in self.log.read_text(errors="replace")

    def wait_says(self, text):
        wait_until(lambda: self.says(text) or self.child.poll() is not None, READY_TIMEOUT_S,
                   lambda: f"it does not say {text}:\n{self.log.read_text()}")
        assert self.says(text), self.log.read_text()

    def end(self, sig=signal.SIGTERM):
        if self.child.poll() is None:
            self.child.send_signal(sig)
        return self.child.wait(timeout=STOP_TIMEOUT_S)


@pytest.fixture
def start(tmp_path):
    started = []

    def run(argv):
        started.append(Process(argv, tmp_path / f"{len(started)}.log"))
        return started[-1]

    yield run
    for process in started:
        process.end(signal.SIGKILL)


def changed(argv, **flags):
    """A command line with some flags replaced."""
    kept = [word for word in argv if word.partition("=")[0].lstrip("-") not in flags]
    return kept + [f"--{name}={value}" for name, value in flags.items()]


# --- addresses ---


def test_a_tag_that_stands_on_one_disk_is_not_acknowledged_wherever_an_address_leads(fresh_cluster, proxies):
    cluster = fresh_cluster(rf=3, write_quorum=2, proxies=proxies,
                            extra_args={"gateways": ["--tag_deadline_ms=500", "--batch_deadline_ms=2000"]})
    gateway = Gateway(cluster.http[0])
    gateway.store(make_tag())
    for id_ in ("p0", "p2"):
        cluster.kill(id_)
    # The address of p0 is p1's now: one process, under two names.
    proxies.turn("p0", cluster.entry("p1")["grpc"])
    keys = [unique("key") for _ in range(TAGS)]
    tags = [make_tag() for _ in keys]
    body = "\n".join(json.dumps(tag) for tag in tags)
    statuses = [gateway.post_tag(tag, Idempotency_Key=key).status for tag, key in zip(tags[:10], keys[:10])]
    assert 204 not in statuses, statuses
    batch = gateway.post_batch(body, Idempotency_Key=unique("batch"))
    assert batch.status in (503, 504), batch
    # Its polls lead there too: it hears of nobody, and says so.
    wait_until(lambda: not cluster.serving("p1"), READY_TIMEOUT_S, "p1 knows that it hears of no other")
    ready = gateway.request("GET", "/readyz")
    assert ready.status == 503
    assert "this is profile/p1 of cluster allezon, the call is for profile/p0" in ready.problem()["detail"], ready

    proxies.put_right("p0")
    for id_ in ("p0", "p2"):
        cluster.restart(id_)
    cluster.wait_ready()
    cluster.wait_serving()
    for tag, key in zip(tags[:10], keys[:10]):
        gateway.store(tag, Idempotency_Key=key)

        # Gateway and nodes may not agree yet on whether p0 is back, so another one may be read than writes wait for.
        def is_read(tag=tag):
            views = gateway.profile(tag["cookie"])["views"]
            assert views in ([], [tag])
            return views == [tag]

        wait_until(is_read, STALE_MAX_S, "the tag is read")


def test_with_two_nodes_up_one_address_that_leads_to_another_node_costs_nothing(fresh_cluster, proxies):
    cluster = fresh_cluster(rf=3, write_quorum=2, proxies=proxies)
    gateway = Gateway(cluster.http[0])
    cluster.kill("p0")
    proxies.turn("p0", cluster.entry("p1")["grpc"])
    tags = [make_tag() for _ in range(TAGS)]
    for tag in tags:
        gateway.store(tag)
        assert gateway.profile(tag["cookie"])["views"] == [tag]
    # Each is on p1 and on p2: either is enough.
    proxies.put_right("p0")
    cluster.restart("p0")
    cluster.wait_serving("p0")
    cluster.restart_wiped("p1")
    cluster.wait_serving("p1")
    for tag in tags:
        assert gateway.profile(tag["cookie"], consistency="quorum")["views"] == [tag]


@pytest.mark.parametrize("change, why", [
    ("addresses", "this is profile/p1 of cluster allezon, the call is for profile/p0"),
    ("services", "this is aggregate/a0 of cluster allezon, the call is for profile/p0"),
    ("cluster", "this is profile/p0 of cluster allezon, the call is for profile/p0 of cluster other"),
    ("write_quorum", "the caller's placement is"),
])
def test_a_gateway_that_does_not_belong_there_is_not_ready_and_says_why(cluster, start, change, why):
    entry = cluster.entry("g0")
    p0, p1, p2 = cluster.profiles
    flags = {
        "addresses": {"profiles": f"p0={p1},p1={p0},p2={p2}"},
        "services": {"profiles": ",".join(f"p{i}={address}" for i, address in enumerate(cluster.aggregates))},
        "cluster": {"cluster": "other"},
        "write_quorum": {"write_quorum": 3},
    }[change]
    process = start(changed(entry["argv"], listen="127.0.0.1:0", tag_deadline_ms=500, **flags))
    process.wait_says('"serving"')
    port = process.log.read_text().partition('"port":')[2].partition("}")[0].partition(",")[0]
    gateway = Gateway(f"127.0.0.1:{int(port)}")
    ready = gateway.request("GET", "/readyz")
    assert ready.status == 503
    assert why in ready.problem()["detail"], ready
    tag = make_tag()
    assert gateway.post_tag(tag).status in (503, 504)
    assert Gateway(cluster.http[0]).profile(tag["cookie"])["views"] == []


# --- versions ---


@pytest.mark.parametrize("version, named", [("9.9.9", "version 9.9.9"), ("", "an unknown version")])
@pytest.mark.parametrize("id_, service, module, method", [
    ("p0", "profile", "replica", "ReplicaService/SyncNow"),
    ("p0", "profile", "replica", "ReplicaService/Poll"),
    ("p0", "profile", "replica", "ReplicaService/ReadDigests"),
    ("p0", "profile", "profile_replica", "ProfileReplicaService/ReadProfile"),
    ("a0", "aggregate", "aggregate_replica", "AggregateReplicaService/ScanMinutes"),
])
def test_a_caller_of_another_version_is_refused_with_both_versions(cluster, id_, service, module, method, version, named):
    messages, name = grpc_api.messages(module), method.partition("/")[2]
    request = getattr(messages, f"{name}Request")(to=grpc_api.identity(service, id_, version_=version))
    with pytest.raises(grpc.RpcError) as raised:
        grpc_api.call(cluster.entry(id_)["grpc"], f"allezon.v1.{method}", request, getattr(messages, f"{name}Response"))
    assert raised.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert raised.value.details() == (
        f"this is {service}/{id_} of cluster allezon in version {grpc_api.version()}, the call is for {named}; "
        "a cluster runs one version: stop all its programs before another version starts")


class OtherVersion:
    """A node that is who it is taken for, serves, and runs another version: it refuses, or answers as itself."""

    def __init__(self, service, id_, refuses):
        self.identity = grpc_api.identity(service, id_, version_="9.9.9")
        self.refuses = refuses
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        self.server.add_generic_rpc_handlers([self])
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def service(self, details):
        if details.method == "/grpc.health.v1.Health/Check":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"\x08\x01")  # SERVING
        messages, name = grpc_api.messages("replica"), details.method.rpartition("/")[2]
        if name not in ("Poll", "SyncNow"):
            return None

        def answer(request, context):
            if self.refuses:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION,
                              f"this is version 9.9.9, the call is for version {request.to.version}")
            return getattr(messages, f"{name}Response")(by=self.identity)

        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=getattr(messages, f"{name}Request").FromString,
            response_serializer=lambda message: message.SerializeToString())


@pytest.fixture
def other_version():
    started = []

    def start_one(service, id_, refuses):
        started.append(OtherVersion(service, id_, refuses))
        return f"127.0.0.1:{started[-1].port}"

    yield start_one
    for each in started:
        each.server.stop(grace=None).wait()


@pytest.mark.parametrize("refuses, why", [
    (True, "this is version 9.9.9, the call is for version {own}"),
    (False, "the answer is by profile/p0 of cluster allezon in version 9.9.9, the call is for version {own}"),
])
def test_a_gateway_before_nodes_of_another_version_is_not_ready_and_names_both(cluster, start, other_version, refuses, why):
    nodes = ",".join(f"p{i}={other_version('profile', f'p{i}', refuses)}" for i in range(3))
    process = start(changed(cluster.entry("g0")["argv"], listen="127.0.0.1:0", profiles=nodes))
    process.wait_says('"serving"')
    port = process.log.read_text().partition('"port":')[2].partition("}")[0].partition(",")[0]
    ready = Gateway(f"127.0.0.1:{int(port)}").request("GET", "/readyz")
    assert ready.status == 503
    assert why.format(own=grpc_api.version()) in ready.problem()["detail"], ready


@pytest.mark.parametrize("refuses, why", [
    (True, "this is version 9.9.9, the call is for version {own}"),
    (False, "the answer is by profile/p1 of cluster allezon in version 9.9.9, the call is for version {own}"),
])
def test_a_node_whose_peers_run_another_version_does_not_serve_and_says_why(start, tmp_path, other_version, refuses, why):
    (port,) = free_ports("127.0.0.1", 1, set())
    peers = ",".join(f"p{i}={other_version('profile', f'p{i}', refuses)}" for i in (1, 2))
    process = start(node_argv(tmp_path / "data", listen=f"127.0.0.1:{port}", instances=f"p0=127.0.0.1:{port},{peers}"))
    process.wait_says('"a peer does not count"')
    assert process.says(why.format(own=grpc_api.version())), process.log.read_text()
    health = grpc_api.health_messages()

    def status(name):
        return grpc_api.call(f"127.0.0.1:{port}", "grpc.health.v1.Health/Check", health.HealthCheckRequest(service=name),
                             health.HealthCheckResponse).status

    assert (status(""), status("live")) == (2, 1)  # it serves nobody, and lives


# --- folders ---


def node_argv(folder, service="profile", **flags):
    flags = {"id": "p0", "listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "data": folder, "instances": INSTANCES,
             "rf": 3, "write_quorum": 2, **flags}
    return [str(BIN_DIR / f"allezon-{service}"), *(f"--{name}={value}" for name, value in flags.items())]


@pytest.mark.parametrize("flags, message", [
    ({"id": "p1"}, "belongs to instance p0, not p1: name the right folder with --data, or an empty one"),
    ({"service": "aggregate"}, "belongs to service profile, not aggregate: name the right folder"),
    ({"cluster": "other"}, "belongs to cluster allezon, not other: name the right folder"),
    ({"rf": 2, "write_quorum": 1}, "was written with --rf=3 --write_quorum=2, not --rf=2 --write_quorum=1: "),
    ({"write_quorum": 3}, "was written with --write_quorum=2, not --write_quorum=3: "),
    ({"shards": 64}, "was written with --shards=128, not --shards=64: "),
])
def test_a_folder_of_somebody_else_or_of_other_settings_is_refused(start, tmp_path, flags, message):
    first = start(node_argv(tmp_path / "data"))
    first.wait_says('"listening"')
    assert first.end() == 0
    refused = start(node_argv(tmp_path / "data", **flags))
    assert refused.child.wait(timeout=STOP_TIMEOUT_S) == 1
    assert refused.says(f"error: data folder {tmp_path / 'data'} {message}"), refused.log.read_text()
    # 0 stands for the majority, which is what it was written with.
    again = start(node_argv(tmp_path / "data", write_quorum=0))
    again.wait_says('"listening"')
    assert again.end() == 0


@pytest.mark.parametrize("name", ["", "a b", "x" * 65])
@pytest.mark.parametrize("program", ["allezon-gateway", "allezon-profile", "allezon-aggregate"])
def test_a_cluster_needs_a_short_name(start, tmp_path, program, name):
    argv = node_argv(tmp_path / "data", cluster=name)
    if program == "allezon-gateway":
        argv = ["", f"--profiles={INSTANCES}", f"--aggregates={INSTANCES}", f"--cluster={name}"]
    process = start([str(BIN_DIR / program), *argv[1:]])
    assert process.child.wait(timeout=STOP_TIMEOUT_S) == 1
    assert process.says(f"--cluster: '{name}' is not 1 to 64 letters, digits"), process.log.read_text()


def test_a_cluster_has_a_name_of_its_own(fresh_cluster):
    cluster = fresh_cluster(rf=3, env={"ALLEZON_CLUSTER": "shop-2"})
    gateway = Gateway(cluster.http[0])
    tag = make_tag()
    gateway.store(tag)
    assert gateway.profile(tag["cookie"])["views"] == [tag]


# --- processes ---


def wait_refused(cluster, id_, message):
    """A node that ends by itself, and says why."""
    wait_until(lambda: cluster.exit_code(id_) is not None, 60 * TIME_SCALE, lambda: cluster.log_tail(id_))
    assert cluster.exit_code(id_) == 1, cluster.log_tail(id_)
    assert message in cluster.log_tail(id_), cluster.log_tail(id_)


def restart_empty(cluster, id_):
    cluster.wipe(id_)
    cluster.restart(id_)
    cluster.wait_serving(id_)


def test_of_two_processes_under_one_id_the_older_one_ends_and_its_disk_does_not_come_back(fresh_cluster, start, tmp_path):
    cluster = fresh_cluster(rf=3)
    gateway = Gateway(cluster.http[0])
    later = start(changed(cluster.entry("p0")["argv"], data=tmp_path / "data", listen="127.0.0.1:0",
                          metrics="127.0.0.1:0"))
    wait_refused(cluster, "p0", "this process is profile/p0 of cluster allezon no longer: a later one under that id")
    assert later.child.poll() is None
    # What is acknowledged now, the disk of the first one does not have.
    tags = [make_tag() for _ in range(TAGS)]
    for tag in tags:
        gateway.store(tag)
    assert later.end() == 0
    cluster.restart("p0")
    wait_refused(cluster, "p0", "the data folder is an old copy")
    restart_empty(cluster, "p0")
    cluster.wait_equal()
    for tag in tags:
        assert gateway.profile(tag["cookie"], consistency="quorum")["views"] == [tag]


def test_an_old_copy_of_a_nodes_own_folder_is_refused(fresh_cluster, tmp_path):
    cluster = fresh_cluster(rf=3)
    gateway = Gateway(cluster.http[0])
    data = cluster.entry("p0")["data"]
    cluster.kill("p0", signal.SIGTERM)
    shutil.copytree(data, tmp_path / "copy")
    cluster.restart("p0")
    cluster.wait_serving("p0")
    tags = [make_tag() for _ in range(TAGS)]
    for tag in tags:
        gateway.store(tag)
    cluster.kill("p0")
    cluster.wipe("p0")
    shutil.copytree(tmp_path / "copy", data)
    cluster.restart("p0")
    wait_refused(cluster, "p0", "the data folder is an old copy: ")
    assert "Empty the folder" in cluster.log_tail("p0")
    restart_empty(cluster, "p0")
    cluster.wait_equal()
    for tag in tags:
        assert gateway.profile(tag["cookie"], consistency="quorum")["views"] == [tag]
