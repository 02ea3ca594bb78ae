# SPDX-License-Identifier: Apache-2.0
"""How the rehearsals of ./dev kubernetes test choose and judge; no cluster is asked."""

import json
import stat
import sys

import pytest

from chart import ROOT

sys.path[:0] = [str(ROOT / "k8s/rehearsal"), str(ROOT / "k8s/local")]
import apiserver  # noqa: E402
import definitions  # noqa: E402
import memory  # noqa: E402
import record  # noqa: E402
import run  # noqa: E402
import traffic  # noqa: E402
from settings import ClusterError  # noqa: E402
from stage import WAYS  # noqa: E402

ALL = frozenset({"nodes", "control plane", "another tag", "nginx", "metrics"})


def report(**changes):
    kind = {"failed": 0, "failures": {}, "right": 1, "within_bounds": 0, "latency_us": {"p99.9": 5000}}
    made = {"tags": dict(kind), "profiles": dict(kind), "aggregates": dict(kind), "tags_sent": 10, "failed": 0,
            "wrong": 0, "wrong_samples": [], "tags_not_sent": 0, "interrupted": False}
    return {**made, **changes}


# --- which, and which way ---


def test_all_nine_are_there():
    assert {key.partition("-")[0] for key in run.REHEARSALS} == {"dry", "install", *"123456789"}
    assert list(run.chosen("8")) == ["8-small", "8-production"]
    assert list(run.chosen("3,1")) == ["1", "3"]
    assert run.chosen("") == run.REHEARSALS


def test_one_that_there_is_not_is_refused_by_name():
    with pytest.raises(ClusterError, match="'10'"):
        run.chosen("1,10")


def test_each_goes_both_ways_where_it_has_traffic_beside_it():
    for key in "12345679":
        assert run.ways_of(run.REHEARSALS[key], WAYS, ALL) == list(WAYS), key
    assert run.ways_of(run.REHEARSALS["1"], ("nginx",), ALL) == ["nginx"]


def test_a_foreign_cluster_is_spared_what_needs_its_nodes():
    spared = [key for key, rehearsal in run.REHEARSALS.items() if not run.ways_of(rehearsal, WAYS, frozenset())]
    assert spared == ["3", "4", "5", "6", "7"]
    assert run.ways_of(run.REHEARSALS["1"], WAYS, frozenset()) == ["service"]


# --- what is said of the traffic ---


def test_traffic_without_a_fault_has_no_problem():
    assert traffic.problems(report()) == []


@pytest.mark.parametrize(("changes", "said"), [
    ({"tags": {**report()["tags"], "failed": 2, "failures": {"timeout": 2}}}, "2 tags failed (2 timeout)"),
    ({"wrong": 1, "wrong_samples": ["profile c1"]}, "1 answers were wrong, the first: profile c1"),
    ({"aggregates": {**report()["aggregates"], "right": 0}}, "no answer of aggregates was compared"),
    ({"tags_not_sent": 3}, "3 tags of the schedule"),
    ({"interrupted": True}, "cut short"),
])
def test_each_fault_of_the_traffic_is_a_problem(changes, said):
    (problem,) = traffic.problems(report(**changes))
    assert said in problem


FAKE = """#!/usr/bin/env python3
import json, signal, sys
flags = dict(word[2:].split("=", 1) for word in sys.argv[1:])
assert flags["finish_on_signal"] == "true" and flags["rate"] == "7", flags
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("    1 s:  500 tags/s", flush=True)
if flags["targets"] != "ends":
    signal.sigwait([signal.SIGTERM])
open(flags["json"], "w").write(json.dumps({"settings": flags}) if flags["targets"] != "silent" else "")
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    path = tmp_path / "load"
    path.write_text(FAKE)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(traffic, "PROGRAM", path)


def test_a_load_ends_when_it_is_told_to(program):
    load = traffic.ClientLoad([], ["a:1", "b:2"], rate=7)
    load.check_running()
    assert load.finish()["settings"]["targets"] == "a:1,b:2"


def test_a_load_that_ends_by_itself_or_says_nothing_is_an_error(program):
    load = traffic.ClientLoad([], ["silent"], rate=7)
    with pytest.raises(ClusterError, match="no report"):
        load.finish()
    with pytest.raises(ClusterError, match="ended by itself|has not started"):
        ending = traffic.ClientLoad([], ["ends"], rate=7)
        ending._process.wait(10)
        ending.finish()


# --- the apiserver ---

PROXY = """#!/usr/bin/env python3
import http.server, socketserver, sys
path = [word.partition("=")[2] for word in sys.argv if word.startswith("--unix-socket=")][0]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/there?a=b" else 404)
        self.end_headers()
        self.wfile.write(b'{"found": true}')
    def address_string(self):
        return ""
socketserver.UnixStreamServer(path, Handler).serve_forever()
"""


@pytest.fixture
def proxy(tmp_path):
    path = tmp_path / "kubectl"
    path.write_text(PROXY)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    server = apiserver.OwnProxy([str(path)])
    yield server
    server.close()


def test_what_the_apiserver_says_is_read_over_a_proxy(proxy):
    assert proxy.get("/there?a=b") == {"found": True}
    with pytest.raises(ClusterError, match="/away with 404"):
        proxy.get("/away")


def test_an_apiserver_that_cannot_be_asked_is_an_error(proxy):
    proxy.get("/there?a=b")
    proxy._process.kill()
    proxy._process.wait()
    with pytest.raises(ClusterError, match="does not answer"):
        proxy.get("/there?a=b")
    with pytest.raises(ClusterError, match="does not start"):
        apiserver.OwnProxy(["false"])


# --- memory ---


def test_memory_is_judged_by_the_limit_and_by_its_growth():
    assert memory.judge("p", [10, 60, 70, 71, 72, 72], 100) == []
    (problem,) = memory.judge("p", [10, 60, 95, 94, 93, 92], 100)
    assert "95% of its limit" in problem
    (problem,) = memory.judge("p", [10, 20, 30, 40, 50, 60], 100)
    assert "still grew, by 20%" in problem


# --- the record ---


def test_the_table_has_a_row_each_and_says_what_did_not_hold():
    good, bad = record.Result("1", "service", "pods deleted"), record.Result("9", "", "values")
    good.add(report(tags_sent=1234))
    bad.problems.append("first\nsecond")
    text = record.table([good, bad], 200, ["head"])
    assert "| 1. pods deleted | service | 1,234 | 0 | 0 | 5 ms | 0 s | yes |" in text
    assert "| 9. values |  |  |  |  |  | 0 s | **no** |" in text
    assert "- 9: DID NOT HOLD: first\n" in text and "second" not in text


def test_definitions_are_of_pinned_modules():
    text = (definitions.MODULE / "go.mod").read_text(encoding="utf-8")
    assert set(definitions.versions(text)) == set(definitions.FILES)
    sums = (definitions.MODULE / "go.sum").read_text(encoding="utf-8")
    for name, version in definitions.versions(text).items():
        assert f"{name} {version} h1:" in sums
    assert json.dumps(definitions.versions("")) == "{}"


def test_two_at_once_are_refused(tmp_path):
    path = tmp_path / "lock"
    with path.open("w") as first, path.open("w") as second:
        run.take(first)
        with pytest.raises(ClusterError, match="another"):
            run.take(second)
