# SPDX-License-Identifier: Apache-2.0
"""nginx before several gateways: what it sends twice and what it never does, and that the loss of a gateway behind it
costs nothing. What nginx does to the outer surface is tested by the tests of that one, with ALLEZON_TEST_NGINX=1."""

import contextlib
import json
import pathlib
import re
import signal
import socket
import subprocess
import time

import grpc
import pytest

import grpc_api
import nginx
from api import Gateway, make_tag, unique
from faults import check_replicas
from fake_gateways import ANSWER, FakeGateway, nginx_alone, silent_address
from load import Load, short
from ports import free_ports
from running import READY_TIMEOUT_S, SHORT, TIME_SCALE, wait_until

ALL = "time_range=1970-01-01T00:00:00_2100-01-01T00:00:00"
NO_ANSWER = {"it ends the connection": None, "it ends half-way in the head": b"HTTP/1.1 200 OK\r\nContent-Le"}
NDJSON = {"Content-Type": "application/x-ndjson"}
KEY = {"Idempotency-Key": "k1"}


class Setup:
    """Two fake gateways, and the nginx before them."""

    def __init__(self, fakes, address):
        self.fakes = fakes
        self.gateway = Gateway(address)

    def act(self, *what):
        for fake, act in zip(self.fakes, what):
            fake.act = act

    def arrived(self):
        """All requests, of all gateways."""
        return [request for fake in self.fakes for request in fake.requests]


@pytest.fixture
def setup(tmp_path):
    with contextlib.ExitStack() as stack:
        fakes = [FakeGateway(port) for port in free_ports("127.0.0.1", 2, set())]
        for fake in fakes:
            fake.start()
            stack.callback(fake.stop)
        yield Setup(fakes, stack.enter_context(nginx_alone(tmp_path, [fake.address for fake in fakes])))


# --- the configuration ----------------------------------------------------------------------------


def assert_clean(arguments):
    """nginx -t finds nothing to say."""
    done = subprocess.run([*arguments, "-t"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                          timeout=30 * TIME_SCALE)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"nginx: .* syntax is ok\nnginx: .* test is successful\n", done.stderr), done.stderr


def addresses():
    ports = free_ports("127.0.0.1", 9, set())
    return [f"127.0.0.1:{port}" for port in ports]


def write(folder):
    http, grpc_profile, grpc_aggregate, *others = addresses()
    nginx.write(folder, http=http, grpc_profile=grpc_profile, grpc_aggregate=grpc_aggregate, gateways=others[:3],
                profiles=others[3:5], aggregates=others[5:])


def test_the_configuration_of_a_local_cluster_is_clean(tmp_path):
    write(tmp_path)
    assert_clean(nginx.argv(tmp_path))


def test_the_same_files_are_clean_in_debians_own_configuration(tmp_path):
    """As docs/deploy.md says: conf.d/allezon*.conf, and the small files in allezon/."""
    write(tmp_path)
    stock = pathlib.Path("/etc/nginx/nginx.conf").read_text()
    (tmp_path / "conf.d").mkdir()
    for name in ("allezon.conf", "allezon-grpc.conf"):
        (tmp_path / name).rename(tmp_path / "conf.d" / name)
    # As it is, but for what only root may, and what lies outside of the folder.
    for pattern, replacement in [(r"^user .*$", ""), (r"^(pid|error_log|\s*access_log) [^;]*", r"\1 written"),
                                 (r"^\s*include /etc/nginx/(modules-enabled|sites-enabled)/.*$", ""),
                                 (r"/etc/nginx/conf\.d", f"{tmp_path}/conf.d"),
                                 (r"^http \{$", "http {" + "".join(f"\n{kind}_temp_path {tmp_path}/temp/{kind};" for kind in (
                                     "client_body", "proxy", "fastcgi", "uwsgi", "scgi")))]:
        stock, count = re.subn(pattern, replacement, stock, flags=re.MULTILINE)
        assert count, f"Debian's nginx.conf has no {pattern}"
    (tmp_path / "nginx.conf").write_text(stock)
    assert_clean(nginx.argv(tmp_path))


# --- what is sent twice ---------------------------------------------------------------------------

NOT_TWICE = {
    "a tag": ("/user_tags", {}),
    "a tag with a query": ("/user_tags?a=b", {}),
    "a tag with an empty key": ("/user_tags", {"Idempotency-Key": ""}),
    "a batch": ("/user_tags", NDJSON),
    "what is nowhere": ("/elsewhere", KEY),
    "another spelling of the path": ("/user%5Ftags", KEY),
    "a path that only becomes a query's": ("/user_tags/../aggregates", {}),
}
TWICE = {
    "a tag with a key": ("POST", "/user_tags", KEY),
    "a batch with a key": ("POST", "/user_tags", {**NDJSON, **KEY}),
    "a profile by POST": ("POST", f"/user_profiles/c%2F1?{ALL}", {}),
    "a profile by GET": ("GET", f"/user_profiles/c1?{ALL}", {}),
    "aggregates by POST": ("POST", "/aggregates?action=VIEW", {}),
    "aggregates by GET": ("GET", "/aggregates?action=VIEW", {}),
    "another GET": ("GET", "/readyz", {}),
}


@pytest.mark.parametrize("act", NO_ANSWER.values(), ids=NO_ANSWER)
@pytest.mark.parametrize("target, headers", NOT_TWICE.values(), ids=NOT_TWICE)
def test_what_may_have_been_stored_is_never_sent_twice(setup, target, headers, act):
    setup.act(act, act)
    for sent in range(1, 5):
        response = setup.gateway.request("POST", target, b"{}", headers)
        assert response.status == 502 and "may or may not" in response.problem()["detail"], response
        assert len(setup.arrived()) == sent
    assert {(request.target, request.body) for request in setup.arrived()} == {(target, b"{}")}


@pytest.mark.parametrize("act", NO_ANSWER.values(), ids=NO_ANSWER)
@pytest.mark.parametrize("method, target, headers", TWICE.values(), ids=TWICE)
def test_what_is_safe_is_sent_to_the_next_gateway(setup, method, target, headers, act):
    setup.act(act, b"HTTP/1.1 204 No Content\r\n\r\n")
    body = b'{"a": 1}' if method == "POST" else None
    for _ in range(4):
        response = setup.gateway.request(method, target, body, headers)
        assert response.status == 204, response
    assert setup.fakes[0].requests, "the one that answers nothing was never asked"
    assert len(setup.fakes[1].requests) == 4
    for request in setup.arrived():
        assert (request.method, request.target, request.body) == (method, target, body or b"")
        for name, value in headers.items():
            assert request.headers[name.lower()] == value


@pytest.mark.parametrize("method, target, headers", [("POST", *each) for each in NOT_TWICE.values()] + [*TWICE.values()],
                         ids=[*NOT_TWICE, *TWICE])
def test_what_was_not_sent_goes_to_the_next_gateway(setup, method, target, headers):
    setup.fakes[0].stop()
    for sent in range(1, 5):
        response = setup.gateway.request(method, target, b"{}", headers)
        assert response.status == 200, response
        assert len(setup.arrived()) == sent


def test_an_answer_is_an_answer_whatever_it_says(setup):
    body = b'{"title": "from the gateway"}'
    for status in (b"400 Bad Request", b"404 Not Found", b"413 Payload Too Large", b"429 Too Many Requests",
                   b"500 Internal Server Error", b"503 Service Unavailable", b"504 Gateway Timeout"):
        answer = b"HTTP/1.1 %s\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
        setup.act(answer, answer)
        for method, target, headers in [*TWICE.values(), ("POST", "/user_tags", {})]:
            before = len(setup.arrived())
            response = setup.gateway.request(method, target, b"{}", headers)
            assert (response.status, response.body) == (int(status[:3]), body), response
            assert response.headers["retry-after"] == "7"
            assert len(setup.arrived()) == before + 1


def test_connections_are_kept_for_what_may_be_sent_again_and_for_nothing_else(setup):
    for _ in range(20):
        assert setup.gateway.request("POST", "/user_tags", b"{}", KEY).status == 200
        assert setup.gateway.request("GET", f"/user_profiles/c1?{ALL}").status == 200
        assert setup.gateway.request("POST", "/user_tags", b"{}").status == 200
    again = [request for request in setup.arrived() if request.method == "GET" or "idempotency-key" in request.headers]
    once = [request for request in setup.arrived() if request not in again]
    assert len(again) == 40 and len(once) == 20
    assert sum(request.turn == 0 for request in again) <= 4
    assert all(request.turn == 0 and request.headers["connection"] == "close" for request in once)


def test_a_kept_connection_that_ends_under_a_request_costs_nothing(setup):
    for _ in range(4):
        assert setup.gateway.request("POST", "/user_tags", b"{}", KEY).status == 200
    for fake in setup.fakes:  # all that is kept ends without nginx having a chance to hear of it first
        fake.act = None
    setup.fakes[1].act = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    for _ in range(4):
        assert setup.gateway.request("POST", "/user_tags", b"{}", KEY).status == 200
        assert setup.gateway.request("POST", "/aggregates", b"{}").status == 200


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target, headers", [("/user_tags", KEY), (f"/user_profiles/c1?{ALL}", {})])
def test_a_gateway_that_hangs_leaves_time_for_another_one(setup, target, headers):
    setup.act("hang", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    times = []
    for _ in range(5):
        began = len(setup.fakes[0].requests)
        # It is tried again once it has been left alone for a moment.
        while len(setup.fakes[0].requests) == began:
            start = time.monotonic()
            assert setup.gateway.request("POST", target, b"{}", headers).status == 200
            last = time.monotonic() - start
        times.append(last)
    assert min(times) < 0.2, times
    assert len(setup.fakes[0].requests) < 15


def test_a_tag_without_a_key_waits_for_a_gateway_that_hangs_and_goes_nowhere_else(setup):
    setup.act("hang", "hang")
    with pytest.raises(TimeoutError):
        Gateway(f"{setup.gateway.host}:{setup.gateway.port}", timeout_s=1).request("POST", "/user_tags", b"{}")
    assert len(setup.arrived()) == 1
    # It has all of the gateway's own deadline, 5 s.
    response = setup.gateway.request("POST", "/user_tags", b"{}")
    assert response.status == 504 and "may or may not" in response.problem()["detail"], response
    assert len(setup.arrived()) == 2


@pytest.mark.parametrize("target, headers", [("/user_tags", {}), ("/user_tags", KEY), ("/aggregates", {})])
def test_a_gateway_whose_machine_is_gone_leaves_time_for_another_one(setup, tmp_path, target, headers):
    with silent_address() as silent, nginx_alone(tmp_path / "silent", [silent, setup.fakes[0].address]) as address:
        tried = []

        def tried_thrice():
            start = time.monotonic()
            before = len(setup.arrived())
            assert Gateway(address).request("POST", target, b"{}", headers).status == 200
            assert len(setup.arrived()) == before + 1
            if (seconds := time.monotonic() - start) > 0.05:  # nginx has waited for the silent one
                tried.append(seconds)
            return len(tried) == 3

        # It is left alone for a moment after each time.
        wait_until(tried_thrice, 30 * TIME_SCALE, lambda: f"the one that is gone was hardly tried: {tried}")
    assert min(tried) < 0.2, tried


@pytest.mark.parametrize("target, headers", [("/user_tags", {}), ("/user_tags", KEY), ("/aggregates", {})])
def test_where_no_machine_can_be_reached_nothing_was_stored(tmp_path, target, headers):
    with silent_address() as silent, silent_address() as other, nginx_alone(tmp_path, [silent, other]) as address:
        response = Gateway(address).request("POST", target, b"{}", headers)
    assert response.status == 503 and "nothing was stored" in response.problem()["detail"], response
    assert response.headers["retry-after"] == "1"


def test_where_all_gateways_were_gone_the_first_one_that_is_back_is_used_at_once(setup):
    for fake in setup.fakes:
        fake.stop()
    for method, target, headers in [*TWICE.values(), ("POST", "/user_tags", {})]:
        response = setup.gateway.request(method, target, b"{}", headers)
        assert response.status == 503 and "nothing was stored" in response.problem()["detail"], response
        assert response.headers["retry-after"] == "1"
    setup.fakes[1].start()
    for method, target, headers in [*TWICE.values(), ("POST", "/user_tags", {})]:
        assert setup.gateway.request(method, target, b"{}", headers).status == 200
    assert not setup.fakes[0].requests


# --- what nginx says itself, and hands on ---------------------------------------------------------


def raw(setup, data):
    """(status, head in lower case, body). Does not wait for the end of the connection, which nginx may keep for a while."""
    with socket.create_connection((setup.gateway.host, setup.gateway.port), 20 * TIME_SCALE) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        with connection.makefile("rb") as reader:
            head = b""
            while (line := reader.readline().lower()) not in (b"\r\n", b""):
                head += line
            body = reader.read(int(re.search(rb"content-length: (\d+)", head)[1]))
    return int(head.split()[1]), head, body


@pytest.mark.parametrize("status, data", [
    (400, b"GET\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\n\r\n"),  # no Host
    (400, b"GET / HTTP/9.9\r\n\r\n"),
    (400, b"POST /user_tags HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n"),
    (400, b"POST /user_tags HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    (404, b"POST /.tag.again HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    (404, b"GET /.problem HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    (405, b"TRACE / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    (413, b"POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n"),
    (413, b"POST /user_tags HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Length: 65537\r\n\r\n"),
    (413, b"POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nContent-Length: 8388609\r\n\r\n"),
    (413, b"POST /aggregates HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"),
    (413, b"POST /user_tags HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
          b"10001\r\n" + b" " * 65537 + b"\r\n0\r\n\r\n"),
    (414, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
    (431, b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000 + b"\r\n\r\n"),
])
def test_errors_of_nginx_are_problems_as_the_gateways_are(setup, status, data):
    answered, head, body = raw(setup, data)
    assert answered == status, head
    assert b"content-type: application/problem+json" in head
    problem = json.loads(body)
    assert problem["status"] == status and problem["title"] and problem["detail"]
    assert problem["type"].startswith("urn:allezon:problem:")
    if status == 413:
        assert f"limit of {65536 if b'/user_tags' in data and b'ndjson' not in data else 8388608} bytes" in problem["detail"]
    assert not setup.arrived()


@pytest.mark.parametrize("target, headers, size, again", [
    ("/user_tags", {}, 65536, False),
    ("/user_tags", KEY, 65536, True),
    ("/user_tags", {"Content-Type": "Application/X-NDJSON ; charset=utf-8"}, 8 * 2**20, False),
    ("/user_tags", {**NDJSON, **KEY}, 8 * 2**20, True),
    (f"/user_profiles/c1?{ALL}", {}, 8 * 2**20, True),
    ("/aggregates", {}, 8 * 2**20, True)])
def test_a_body_at_the_limit_goes_through_and_whole_to_a_second_gateway(setup, target, headers, size, again):
    body = b"x" * size
    assert setup.gateway.request("POST", target, body, headers).status == 200
    assert [request.body for request in setup.arrived()] == [body]
    if again:
        setup.act(None, ANSWER)
        for fake in setup.fakes:
            fake.requests.clear()
        for _ in range(4):
            assert setup.gateway.request("POST", target, body, headers).status == 200
        assert setup.fakes[0].requests, "the one that answers nothing was never asked"
        assert len(setup.fakes[1].requests) == 4
        assert all(request.body == body for request in setup.arrived())


def test_the_gateway_hears_of_the_client_and_not_of_what_it_claims(setup):
    claims = {"X-Forwarded-For": "8.8.8.8", "X-Real-IP": "8.8.8.8", "X-Forwarded-Proto": "https"}
    for headers in (claims, {**claims, **KEY}):
        assert setup.gateway.request("POST", "/user_tags", b"{}", headers).status == 200
    for request in setup.arrived():
        assert request.headers["x-forwarded-for"] == request.headers["x-real-ip"] == "127.0.0.1"
        assert request.headers["x-forwarded-proto"] == "http"
        assert request.headers["host"] == "127.0.0.1"


def test_a_balancer_that_is_trusted_is_believed_about_the_client(setup, tmp_path):
    trusted = "set_real_ip_from 127.0.0.0/8;\nreal_ip_header X-Forwarded-For;\nreal_ip_recursive on;\n"
    with nginx_alone(tmp_path / "trusting", [fake.address for fake in setup.fakes], trusted=trusted) as address:
        headers = {"X-Forwarded-For": "9.9.9.9, 8.8.8.8, 127.0.0.2"}
        assert Gateway(address).request("POST", "/user_tags", b"{}", headers).status == 200
    assert [request.headers["x-forwarded-for"] for request in setup.arrived()] == ["8.8.8.8"]


# --- real gateways --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def behind_nginx(module_cluster_of):
    return module_cluster_of(gateways=3, nginx=True)


def lose(cluster, load, sig, rounds, pause_s=1.5):
    """Ends one gateway after the other, and starts it again."""
    for turn in range(rounds):
        id_ = cluster.ids("gateways")[turn % 3]
        time.sleep(pause_s)
        assert load.running(), "the load ended too early"
        code = cluster.kill(id_, sig)
        assert code == (0 if sig == signal.SIGTERM else -sig), f"{id_} ended with {code}\n{cluster.log_tail(id_)}"
        time.sleep(pause_s)
        cluster.restart(id_)
        cluster.wait_ready()


@pytest.mark.parametrize("sig, keys", [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGKILL, True)],
                         ids=["drained", "drained, with keys", "killed, with keys"])
def test_the_loss_of_a_gateway_costs_nothing(behind_nginx, sig, keys):
    rounds = 3
    # The client sends everything once: nginx is to save it.
    options = {"rate": 100 if SHORT else 300, "idempotency_keys": keys}
    with Load([behind_nginx.nginx], **short(25, **options)) as load:
        lose(behind_nginx, load, sig, rounds)
        load.wait()
        print(load.text)
        load.assert_right()
        load.assert_no_failure()
    behind_nginx.assert_all_running()


def test_a_gateway_that_hangs_costs_nothing_where_keys_are_sent(behind_nginx):
    with Load([behind_nginx.nginx], **short(15, rate=100 if SHORT else 300, idempotency_keys=True)) as load:
        for id_ in ("g0", "g1"):
            time.sleep(1.5)
            behind_nginx.pause(id_)
            time.sleep(3)
            behind_nginx.resume(id_)
        load.wait()
        print(load.text)
        load.assert_right()
        load.assert_no_failure()


def test_the_replicas_are_equal_after_all_that(fresh_cluster):
    cluster = fresh_cluster(gateways=3, nginx=True)
    with Load([cluster.nginx], **short(15, rate=100 if SHORT else 300, idempotency_keys=True)) as load:
        lose(cluster, load, signal.SIGKILL, 2)
        load.wait()
        load.assert_right()
        load.assert_no_failure()
        check_replicas(cluster, load)


# --- gRPC -----------------------------------------------------------------------------------------


def tag_message():
    tag_pb2 = grpc_api.messages("tag")
    tag = tag_pb2.Tag(time_ms=1_600_000_000_000, cookie=unique(), country="PL", device=tag_pb2.DEVICE_PC,
                      action=tag_pb2.ACTION_VIEW, origin=unique("o"))
    tag.product_info.product_id.number = 7
    return tag


def test_grpc_calls_of_other_teams_go_through_and_those_between_nodes_do_not(behind_nginx):
    profile, aggregate = behind_nginx.address("n0/profile"), behind_nginx.address("n0/aggregate")
    tag = tag_message()
    for address, name in ((profile, "profile"), (aggregate, "aggregate")):
        pb2 = grpc_api.messages(name)
        request = getattr(pb2, f"{name.title()}ServiceAddTagsRequest")()
        request.tags.add(tag=tag)
        service = f"allezon.v1.{name.title()}Service"
        answer = grpc_api.call(address, f"{service}/AddTags", request, getattr(pb2, f"{name.title()}ServiceAddTagsResponse"))
        assert answer.accepted == 1
        health = grpc_api.health_messages()
        check = health.HealthCheckRequest(service=service)
        assert grpc_api.call(address, "grpc.health.v1.Health/Check", check, health.HealthCheckResponse).status == 1
        with pytest.raises(grpc.RpcError) as raised:
            grpc_api.call(address, f"{service}/AddTags", getattr(pb2, f"{name.title()}ServiceAddTagsRequest")(tags=[
                {"tag": {"cookie": ""}}]), getattr(pb2, f"{name.title()}ServiceAddTagsResponse"))
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert grpc_api.violations(raised.value)
        for method in ("allezon.v1.ReplicaService/Poll", f"allezon.v1.{name.title()}ReplicaService/Sync"):
            with pytest.raises(grpc.RpcError) as raised:
                grpc_api.call(address, method, health.HealthCheckRequest(), health.HealthCheckResponse)
            assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED, raised.value
            assert raised.value.details() == "there is no such service"
    pb2 = grpc_api.messages("profile")
    query = pb2.GetProfileRequest(cookie=tag.cookie, from_ms=0, to_ms=2**52)
    assert list(grpc_api.call(profile, "allezon.v1.ProfileService/GetProfile", query, pb2.GetProfileResponse).views) == [tag]


def test_a_grpc_call_that_no_node_answers_is_unavailable(setup, tmp_path):
    port, other = free_ports("127.0.0.1", 2, set())
    parts = {"grpc-profile": f"listen 127.0.0.1:{port} http2;\n", "profiles": f"server 127.0.0.1:{other};\n"}
    with nginx_alone(tmp_path / "grpc", [fake.address for fake in setup.fakes], **parts):
        health = grpc_api.health_messages()
        with pytest.raises(grpc.RpcError) as raised:
            grpc_api.call(f"127.0.0.1:{port}", "grpc.health.v1.Health/Check", health.HealthCheckRequest(),
                          health.HealthCheckResponse)
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
        assert raised.value.details() == "no node has answered"
