# SPDX-License-Identifier: Apache-2.0
"""./dev run and ./dev stop, as a person at a terminal uses them."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time

import pytest

from entries import find, runs
from ports import split_address
from running import BIN_DIR, READY_TIMEOUT_S, ROOT

ENVIRONMENT = {**os.environ, "ALLEZON_BIN_DIR": str(BIN_DIR)}
TIMEOUT_S = READY_TIMEOUT_S + 60


def dev(*arguments):
    """(exit code, what was printed) of ./dev."""
    done = subprocess.run([str(ROOT / "dev"), *map(str, arguments)], env=ENVIRONMENT, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=TIMEOUT_S, check=False)
    return done.returncode, done.stdout


def wait_until(condition, what):
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)


def entries(folder):
    listed = json.loads((folder / "cluster.json").read_text())
    return [entry for of in listed.values() for entry in of]


def nothing_runs(folder):
    return all(find(entry) is None for entry in entries(folder))


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="allezon-dev-run-") as temporary:
        yield pathlib.Path(temporary) / "cluster"
        dev("stop", "--dir", pathlib.Path(temporary) / "cluster")


def start(folder, *options):
    code, printed = dev("run", "--detach", "--dir", folder, "--port", 0, *options)
    assert code == 0, printed
    return printed


@contextlib.contextmanager
def foreground(folder, stderr):
    """./dev run in a session of its own, once it has said how to stop it."""
    with subprocess.Popen([str(ROOT / "dev"), "run", "--dir", str(folder), "--port", "0"],
                          env=ENVIRONMENT, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=stderr, start_new_session=True) as run:
        for line in run.stdout:
            if line.startswith("Ctrl-C stops it"):
                break
        yield run


def test_a_detached_cluster_lists_what_runs_and_is_stopped(folder):
    start(folder, "--gateways", 2, "--profiles", 2, "--aggregates", 4)
    listed = json.loads((folder / "cluster.json").read_text())
    assert {name: [e["id"] for e in of] for name, of in listed.items()} == {
        "gateways": ["g0", "g1"], "profile": ["p0", "p1"], "aggregate": ["a0", "a1", "a2", "a3"]}
    for entry in listed["gateways"]:
        assert set(entry) == {"id", "http", "pid", "argv", "cwd"}
    for entry in listed["profile"] + listed["aggregate"]:
        assert set(entry) == {"id", "grpc", "metrics", "pid", "argv", "cwd", "data"}
        assert pathlib.Path(entry["data"]).is_dir()
    for entry in entries(folder):
        assert runs(entry, entry["pid"]), entry
        for key in ("http", "grpc", "metrics"):
            if key in entry:
                socket.create_connection(split_address(entry[key]), 5).close()
    code, printed = dev("stop", "--dir", folder)
    assert code == 0 and "stopped" in printed, printed
    assert nothing_runs(folder)
    assert "did not stop well" not in (folder / "log" / "supervisor.log").read_text()


def test_the_curl_lines_work_when_pasted_and_a_second_start_finds_the_data(folder):
    lines = re.findall(r"^curl .*$", start(folder), re.MULTILINE)
    assert len(lines) == 3
    outputs = [subprocess.run(["bash", "-c", line], stdout=subprocess.PIPE, text=True, timeout=60,
                              check=True).stdout for line in lines]
    assert outputs[0].strip() == "204"
    assert json.loads(outputs[1])["buys"][0]["product_info"]["price"] == 1299
    assert ["2022-03-22T12:15:00", "BUY", "Nike", "1", "1299"] in json.loads(outputs[2])["rows"]
    before = {entry["id"]: entry["argv"] for entry in entries(folder)}
    assert dev("stop", "--dir", folder)[0] == 0
    code, printed = dev("run", "--detach", "--dir", folder)
    assert code == 0, printed
    assert {entry["id"]: entry["argv"] for entry in entries(folder)} == before
    for line, output in zip(lines[1:], outputs[1:]):
        again = subprocess.run(["bash", "-c", line], stdout=subprocess.PIPE, text=True, timeout=60,
                               check=True).stdout
        assert json.loads(again) == json.loads(output)


def test_nginx_is_one_more_process_of_the_folder_and_its_port_is_kept(folder):
    printed = start(folder, "--gateways", 2, "--nginx")
    [entry] = json.loads((folder / "cluster.json").read_text())["nginx"]
    assert set(entry) == {"id", "http", "pid", "argv", "cwd"} and runs(entry, entry["pid"])
    assert f"curl -sS -w '%{{http_code}}\\n' http://{entry['http']}/user_tags" in printed
    lines = re.findall(r"^curl .*$", printed, re.MULTILINE)
    outputs = [subprocess.run(["bash", "-c", line], stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout
               for line in lines]
    assert outputs[0].strip() == "204" and json.loads(outputs[1])["buys"], outputs
    # Nothing of it is elsewhere: what it has open to write is of the folder.
    for target in (os.readlink(link) for link in pathlib.Path(f"/proc/{entry['pid']}/fd").iterdir()):
        assert not target.startswith("/") or target.startswith((str(folder), "/dev/")), target
    # Its argv, started in its cwd, brings it back as it does any process.
    os.kill(entry["pid"], signal.SIGKILL)
    wait_until(lambda: find(entry) is None, "its end")
    with subprocess.Popen(entry["argv"], cwd=entry["cwd"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as child:
        try:
            log = folder / "log" / "supervisor.log"
            wait_until(lambda: f"n0 is back as pid {child.pid}" in log.read_text(), "its return")
            assert dev("stop", "--dir", folder)[0] == 0
            assert child.wait(TIMEOUT_S) == 0
        finally:
            child.kill()
    assert nothing_runs(folder)
    assert "did not stop well" not in log.read_text()
    assert dev("run", "--detach", "--dir", folder, "--nginx")[0] == 0
    assert json.loads((folder / "cluster.json").read_text())["nginx"][0]["argv"] == entry["argv"]
    assert entries(folder)[-1]["http"] == entry["http"]
    assert dev("stop", "--dir", folder)[0] == 0 and nothing_runs(folder)
    # Without the option there is none, though the folder once had one.
    assert dev("run", "--detach", "--dir", folder)[0] == 0
    assert "nginx" not in json.loads((folder / "cluster.json").read_text())


def test_a_second_cluster_on_the_same_folder_is_refused(folder):
    start(folder)
    code, printed = dev("run", "--dir", folder)
    assert code == 1 and "already runs" in printed and "./dev stop" in printed, printed
    assert not nothing_runs(folder)


def test_a_node_that_dies_is_noted_and_its_argv_brings_it_back(folder):
    start(folder)
    log = folder / "log" / "supervisor.log"
    entry = next(e for e in entries(folder) if e["id"] == "p1")
    os.kill(entry["pid"], signal.SIGKILL)
    wait_until(lambda: "p1 (pid" in log.read_text(), "the note that p1 has ended")
    assert "killed by SIGKILL" in log.read_text()
    with subprocess.Popen(entry["argv"], cwd=entry["cwd"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        try:
            wait_until(lambda: f"p1 is back as pid {child.pid}" in log.read_text(), "its return")
            assert next(e for e in entries(folder) if e["id"] == "p1")["pid"] == child.pid
            assert dev("stop", "--dir", folder)[0] == 0
            assert child.wait(TIMEOUT_S) == 0
        finally:
            child.kill()


def test_ctrl_c_stops_everything_cleanly(folder):
    with foreground(folder, stderr=subprocess.STDOUT) as run:
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        printed = run.stdout.read()
        assert run.wait(TIMEOUT_S) == 0, printed
    assert printed.rstrip().endswith("stopped") and "did not stop well" not in printed, printed
    assert nothing_runs(folder)


def test_ctrl_c_stops_everything_also_where_nobody_reads_on(folder):
    """As ./dev run | tee, which the same Ctrl-C ends."""
    with foreground(folder, stderr=subprocess.DEVNULL) as run:
        run.stdout.close()
        os.killpg(run.pid, signal.SIGINT)
        run.wait(TIMEOUT_S)
    assert nothing_runs(folder)


def test_a_node_that_cannot_start_is_shown_and_everything_stopped(folder):
    code, printed = dev("run", "--dir", folder, "--port", 0, "--arg", "p1=--no_such_flag=1")
    assert code == 1, printed
    assert "p1 ended while it started" in printed and "no_such_flag" in printed, printed
    assert nothing_runs(folder)


def test_a_taken_port_is_refused(folder):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        code, printed = dev("run", "--dir", folder, "--profiles", 4, "--port", other.getsockname()[1])
    assert code == 1 and "taken by another process" in printed and "--port" in printed, printed
    assert nothing_runs(folder)
    # Nothing was stored, so the next one may have another shape.
    start(folder, "--profiles", 3)


def test_a_taken_port_of_nginx_is_refused(folder):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        code, printed = dev("run", "--dir", folder, "--port", 0, "--nginx", other.getsockname()[1])
    assert code == 1 and "taken by another process" in printed and "use another --nginx" in printed, printed
    assert nothing_runs(folder)


def test_ports_are_kept_and_never_given_twice(folder):
    start(folder, "--gateways", 2)
    before = {entry["id"]: entry for entry in entries(folder)}
    assert dev("stop", "--dir", folder)[0] == 0
    assert dev("run", "--detach", "--dir", folder)[0] == 0
    assert all(entry["argv"] == before[entry["id"]]["argv"] for entry in entries(folder))
    assert dev("stop", "--dir", folder)[0] == 0
    node = split_address(before["p0"]["grpc"])[1]
    code, printed = dev("run", "--dir", folder, "--port", node)
    assert code == 1 and f"port {node} would be that of g0 and p0" in printed, printed


@pytest.mark.parametrize("options, hint", [
    (("--rf", 4), "raise --profiles"), (("--rf", 2, "--aggregates", 1), "raise --aggregates"),
    (("--rf", 0), "1 or more"), (("--profiles", -1), "1 or more"), (("--port", 70000), "--port"),
    (("--nginx", 70000), "--nginx"), (("--arg", "x9=--wal=async"), "x9"), (("--arg", "wal"), "WHO=")])
def test_options_that_make_no_sense_are_refused(folder, options, hint):
    code, printed = dev("run", "--dir", folder, *options)
    assert code == 1 and hint in printed, printed
    assert not (folder / "cluster.json").exists()


def test_a_folder_keeps_the_shape_that_its_data_has(folder):
    start(folder, "--profiles", 2)
    assert dev("stop", "--dir", folder)[0] == 0
    code, printed = dev("run", "--dir", folder, "--profiles", 3)
    assert code == 1 and "--profiles 2" in printed, printed
    start(folder)
    assert len([e for e in entries(folder) if e["id"][0] == "p"]) == 2


def test_stop_ends_what_a_killed_supervisor_left(folder):
    start(folder)
    supervisor = int((folder / "lock").read_text())
    os.kill(supervisor, signal.SIGKILL)
    with (folder / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # waits for its end
    assert not nothing_runs(folder)
    code, printed = dev("run", "--dir", folder)
    assert code == 1 and "still run" in printed, printed
    assert dev("stop", "--dir", folder)[0] == 0
    assert nothing_runs(folder)


def test_stop_where_nothing_runs_says_so(folder):
    code, printed = dev("stop", "--dir", folder)
    assert code == 0 and "nothing runs" in printed, printed
