# SPDX-License-Identifier: Apache-2.0
"""What the gateway says to requests that are no proper request, and that it outlives all of them."""

import contextlib
import json
import re
import socket
import time

import pytest

from api import make_tag, unique
from running import BEHIND_NGINX

ALL = "time_range=1970-01-01T00:00:00_2100-01-01T00:00:00"


def connect(gateway, timeout_s=20):
    return socket.create_connection((gateway.host, gateway.port), timeout=timeout_s)


def send_raw(gateway, data, timeout_s=20):
    """Sends bytes, half closes, and reads until the gateway closes."""
    with connect(gateway, timeout_s) as raw:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := raw.recv(65536):
                answer += chunk
        return answer


@pytest.fixture(autouse=True)
def still_alive(gateway, cluster):
    yield
    gateway.store(make_tag())
    cluster.assert_all_running()


@pytest.mark.parametrize("target", ["/", "/user_tag", "/user_tags/", "/user_tags/x", "/user_profiles",
                                    "/user_profiles/", "/user_profiles/a/b", "/aggregates/", "/nothing?x=1",
                                    "//user_tags", "/USER_TAGS", pytest.param("/%2e%2e/etc/passwd", marks=pytest.mark.skipif(
                                        BEHIND_NGINX, reason="400 of nginx: above the root"))])
def test_an_unknown_path_is_404(gateway, target):
    response = gateway.request("POST", target, json.dumps(make_tag()))
    assert response.status == 404, response
    response.problem()


@pytest.mark.parametrize("method, target, allowed", [
    ("GET", "/user_tags", {"POST"}),
    ("PUT", "/user_tags", {"POST"}),
    ("DELETE", "/user_tags", {"POST"}),
    ("PATCH", "/user_tags", {"POST"}),
    ("PUT", f"/user_profiles/a?{ALL}", {"GET", "POST"}),
    ("DELETE", f"/user_profiles/a?{ALL}", {"GET", "POST"}),
    ("PATCH", "/aggregates", {"GET", "POST"}),
    ("POST", "/healthz", {"GET"}),
    ("POST", "/metrics", {"GET"}),
])
def test_a_wrong_method_is_405_and_says_which_are_right(gateway, method, target, allowed):
    response = gateway.request(method, target, "")
    assert response.status == 405, response
    response.problem()
    assert allowed <= {m.strip() for m in response.headers["allow"].split(",")}


def test_a_tag_of_64_kib_is_taken_and_one_more_byte_is_413(gateway):
    body = json.dumps(make_tag()).encode()
    gateway.store(body + b" " * (65536 - len(body)))
    response = gateway.post_tag(body + b" " * (65537 - len(body)))
    assert response.status == 413, response
    response.problem()


def test_a_batch_over_8_mib_is_413(gateway):
    response = gateway.post_batch(b"\n" * (8 * 2**20 + 1))
    assert response.status == 413, response
    response.problem()


def test_a_debug_body_may_have_8_mib_and_one_over_is_413(gateway):
    target = f"/user_profiles/{unique()}?{ALL}"
    assert gateway.request("POST", target, b" " * (8 * 2**20)).status == 200
    assert gateway.request("POST", target, b" " * (8 * 2**20 + 1)).status == 413


def test_a_chunked_body_is_read_and_bounded(gateway):
    tag = make_tag()
    body = json.dumps(tag).encode()
    head = (b"POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (body[:10], body[10:])) + b"0\r\n\r\n"
    assert send_raw(gateway, head + chunks).startswith(b"HTTP/1.1 204")
    assert gateway.profile(tag["cookie"])["views"] == [tag]
    too_much = (b"%x\r\n%s\r\n" % (65536, b" " * 65536)) * 3 + b"0\r\n\r\n"
    assert b" 413 " in send_raw(gateway, head + too_much).split(b"\r\n", 1)[0]


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded",
                                          "application/json; charset=utf-8", None])
def test_the_content_type_of_a_tag_does_not_matter(gateway, content_type):
    tag = make_tag()
    headers = {"Content-Type": content_type} if content_type else {}
    body = json.dumps(tag).encode()
    response = gateway.request("POST", "/user_tags", body + b" " * (20_000 - len(body)), headers)
    assert response.status == 204, response


RAW = [
    b"", b"\r\n\r\n", b"\x00" * 1000, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 200,
    b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /  HTTP/1.1\r\nHost: x\r\n\r\n", b"get / http/1.1\r\n\r\n",
    b"POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n{}",
    b"POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{}",
    b"POST /user_tags HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /user_tags HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"POST /user_tags HTTP/1.1\r\nHost: x\r\nNo-Colon\r\n\r\n",
    b"POST /user_tags HTTP/1.1\r\nHost: x\r\n: empty\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /user_tags HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 5\r\n\r\n--x\r\n",
    b"POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /user_profiles/a?" + ALL.encode() + b" HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1,5-\r\n\r\n",
    b"GET /user_profiles/a?" + ALL.encode() + b" HTTP/1.1\r\nHost: x\r\nRange: bytes=zz\r\n\r\n",
]


@pytest.mark.parametrize("data", RAW, ids=range(len(RAW)))
def test_what_is_no_request_is_never_a_success_that_stores(gateway, data):
    answer = send_raw(gateway, data)
    assert not re.match(rb"HTTP/1.1 (204|50[0-4])", answer), answer[:200]


def test_a_request_in_small_pieces_is_understood(gateway):
    tag = make_tag()
    body = json.dumps(tag).encode()
    data = (b"POST /user_tags HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)) + body
    with connect(gateway) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(0, len(data), 16):
            raw.sendall(data[i:i + 16])
        assert raw.recv(100).startswith(b"HTTP/1.1 204")


def test_requests_on_one_connection_one_after_the_other(gateway):
    tag = json.dumps(make_tag()).encode()
    one = b"POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(tag) + tag
    with connect(gateway) as raw:
        for _ in range(50):
            raw.sendall(one)
            assert raw.recv(4096).startswith(b"HTTP/1.1 204")


def test_hundreds_of_idle_and_slow_clients_shut_nobody_out(gateway):
    with contextlib.ExitStack() as stack:
        for i in range(400):
            raw = stack.enter_context(connect(gateway))
            if i % 2:
                raw.sendall(b"POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        started = time.monotonic()
        for _ in range(20):
            gateway.store(make_tag())
        assert time.monotonic() - started < 5


def test_health_readiness_and_metrics(gateway):
    assert gateway.request("GET", "/healthz").status == 200
    assert gateway.request("GET", "/readyz").status == 200
    response = gateway.request("GET", "/metrics")
    assert response.status == 200
    assert response.headers["content-type"].startswith("text/plain")
    text = response.body.decode()
    assert "# HELP allezon_" in text and "# TYPE allezon_" in text


def test_errors_say_what_they_are_in_json(gateway):
    problem = gateway.post_tag(make_tag(device="X")).problem()
    assert problem["status"] == 400
    assert problem["field"] == "device"
    assert "device" in problem["detail"]
