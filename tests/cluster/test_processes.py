# SPDX-License-Identifier: Apache-2.0
"""Each program by itself: its flags and environment, and clear errors where it cannot start."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess

import pytest

from api import Gateway, make_tag
from running import BIN_DIR, TIME_SCALE, wait_until

NODES = ["allezon-profile", "allezon-aggregate"]
PROGRAMS = ["allezon-gateway", *NODES]
TIMEOUT_S = 30 * TIME_SCALE


def run(program, *arguments, env=None):
    """A program that is expected to end by itself."""
    return subprocess.run([str(BIN_DIR / program), *arguments], capture_output=True, text=True, timeout=TIMEOUT_S,
                          stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})}, check=False)


def node_arguments(folder, **overrides):
    flags = {"id": "n0", "listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "data": str(folder / "data"),
             "instances": "n0=127.0.0.1:7001", "rf": 1, **overrides}
    return [f"--{name}={value}" for name, value in flags.items()]


def gateway_arguments(**overrides):
    flags = {"listen": "127.0.0.1:0", "profiles": "p0=127.0.0.1:7001", "aggregates": "a0=127.0.0.1:7002", "rf": 1,
             **overrides}
    return [f"--{name}={value}" for name, value in flags.items()]


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_names_every_flag_and_ends_well(program):
    done = run(program, "--help")
    assert done.returncode == 0
    for flag in ("--id", "--listen", "--log_level", "--shards", "--rf"):
        assert flag in done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("argument", ["--no_such_flag", "--shards=many", "stray"])
def test_a_bad_command_line_is_refused(program, argument):
    done = run(program, argument)
    assert done.returncode == 2
    assert argument.split("=", 1)[0].lstrip("-") in done.stderr


@pytest.mark.parametrize("program, least", [("allezon-gateway", 96), ("allezon-profile", 128), ("allezon-aggregate", 128)])
def test_too_little_memory_is_refused_with_the_least(program, least, tmp_path):
    arguments = gateway_arguments() if program == "allezon-gateway" else node_arguments(tmp_path, id="n0")
    done = run(program, *arguments, f"--memory_mib={least - 1}")
    assert done.returncode == 1
    assert f"--memory_mib: {least - 1} MiB" in done.stderr
    assert f"the least are {least} MiB" in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_bad_environment_is_refused_by_name(program):
    done = run(program, env={"ALLEZON_SHARDS": "many"})
    assert done.returncode == 2
    assert "ALLEZON_SHARDS" in done.stderr


@pytest.mark.parametrize("program", NODES)
@pytest.mark.parametrize("overrides, named", [
    ({"instances": ""}, "--instances"),
    ({"instances": "n0"}, "id=host:port"),
    ({"instances": "n0=h:1,n0=h:2"}, "n0"),
    ({"id": "other"}, "--id"),
    ({"data": ""}, "--data"),
    ({"wal": "perhaps"}, "--wal"),
    ({"shards": "0"}, "shards"),
    ({"shards": "5000"}, "shards"),
    ({"rf": "2"}, "rf|replication factor"),
    ({"log_level": "loud"}, "--log_level"),
])
def test_a_node_names_the_flag_at_fault(program, overrides, named, tmp_path):
    done = run(program, *node_arguments(tmp_path, **overrides))
    assert done.returncode not in (0, -6, -11), done
    assert re.search(named, done.stderr), done.stderr


@pytest.mark.parametrize("overrides, named", [
    ({"profiles": ""}, "--profiles"),
    ({"aggregates": "a0=nowhere"}, "--aggregates"),
    ({"rf": "3"}, "rf|replication factor"),
    ({"log_level": "loud"}, "--log_level"),
    ({"listen": "nowhere"}, "listen|nowhere"),
])
def test_a_gateway_names_the_flag_at_fault(overrides, named):
    done = run("allezon-gateway", *gateway_arguments(**overrides))
    assert done.returncode not in (0, -6, -11), done
    assert re.search(named, done.stderr), done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_taken_port_is_an_error_that_names_it(program, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = (gateway_arguments(listen=address) if program == "allezon-gateway"
                     else node_arguments(tmp_path, listen=address))
        done = run(program, *arguments)
    assert done.returncode not in (0, -6, -11)
    assert address in done.stderr


@pytest.mark.parametrize("program", NODES)
def test_a_taken_metrics_port_is_an_error_that_names_it(program, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run(program, *node_arguments(tmp_path, metrics=address))
    assert done.returncode not in (0, -6, -11)
    assert address in done.stderr


@pytest.mark.parametrize("program", NODES)
def test_a_foreign_folder_is_refused_and_left_alone(program, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "letter.txt").write_text("dear")
    done = run(program, *node_arguments(tmp_path))
    assert done.returncode == 1
    assert str(tmp_path / "data") in done.stderr
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["letter.txt"]


def wait_until_serving(process):
    for line in process.stderr:
        if json.loads(line)["message"] == "serving":
            return
    raise AssertionError(f"ended with {process.wait()}")


def start_node(program, folder, **overrides):
    process = subprocess.Popen([str(BIN_DIR / program), *node_arguments(folder, **overrides)], text=True,
                               stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    wait_until_serving(process)
    return process


def end(process, by=signal.SIGTERM):
    process.send_signal(by)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    return errors


@pytest.mark.parametrize("program, other", [NODES, NODES[::-1]])
def test_a_folder_of_the_other_service_or_of_other_shards_is_refused(program, other, tmp_path):
    end(start_node(program, tmp_path))
    for who, overrides, message in [(other, {}, "belongs to service"),
                                    (program, {"shards": "64"}, "was written with --shards=128, not --shards=64")]:
        done = run(who, *node_arguments(tmp_path, **overrides))
        assert done.returncode == 1
        assert message in done.stderr


@pytest.mark.parametrize("program", NODES)
def test_a_folder_in_use_is_refused(program, tmp_path):
    process = start_node(program, tmp_path)
    try:
        done = run(program, *node_arguments(tmp_path))
        assert done.returncode == 1
        assert "LOCK" in done.stderr or "lock" in done.stderr
    finally:
        end(process)


@pytest.mark.parametrize("program", NODES)
def test_a_corrupt_folder_is_refused(program, tmp_path):
    end(start_node(program, tmp_path))
    for manifest in (tmp_path / "data").glob("MANIFEST-*"):
        manifest.write_text("no manifest")
    done = run(program, *node_arguments(tmp_path))
    assert done.returncode == 1
    assert str(tmp_path / "data") in done.stderr


@pytest.mark.parametrize("program", NODES)
def test_every_line_of_the_log_is_json_with_its_fields(program, tmp_path):
    process = start_node(program, tmp_path, log_level="debug")
    for line in end(process).splitlines():
        entry = json.loads(line)
        assert {"time", "level", "process", "message"} <= entry.keys()
        assert entry["process"].endswith("/n0")


@pytest.mark.parametrize("program", NODES)
def test_a_terminal_that_goes_away_ends_a_node_in_order(program, tmp_path):
    errors = end(start_node(program, tmp_path), by=signal.SIGHUP)
    assert '"message":"stopped"' in errors


def test_who_was_started_by_nohup_stays_when_the_terminal_goes_away(tmp_path):
    process = subprocess.Popen(["nohup", str(BIN_DIR / "allezon-profile"), *node_arguments(tmp_path)], text=True,
                               stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_until_serving(process)
    process.send_signal(signal.SIGHUP)
    errors = end(process)
    assert f'"signal":{signal.SIGTERM.value}' in errors


@pytest.mark.parametrize("program", NODES)
def test_no_file_gets_the_number_of_a_standard_descriptor_that_was_closed(program, tmp_path):
    """A log line would be written into it."""
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", str(BIN_DIR / program), *node_arguments(tmp_path)]
    process = subprocess.Popen(command)
    try:
        wait_until(lambda: (tmp_path / "data" / "CURRENT").exists(), TIMEOUT_S, "it does not start")
        for number in range(3):
            assert os.readlink(f"/proc/{process.pid}/fd/{number}") == "/dev/null"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0


def test_a_proxy_in_the_environment_is_not_for_calls_between_processes(fresh_cluster):
    nowhere = "http://127.0.0.1:1"
    cluster = fresh_cluster(profiles=2, aggregates=2, rf=2, env={"http_proxy": nowhere, "grpc_proxy": nowhere})
    gateway = Gateway(cluster.http[0])
    gateway.store(make_tag("c"))
    profile = gateway.profile("c")
    assert len(profile["views"]) + len(profile["buys"]) == 1


def test_metrics_of_every_process_are_there_and_hold_no_cookie(cluster):
    gateway = Gateway(cluster.http[0])
    cookies = [f"secret-{i}" for i in range(30)]
    for cookie in cookies:
        gateway.store(make_tag(cookie))
        gateway.profile(cookie)
    expected = {
        "profile": ["allezon_committer_batch_events_count", "allezon_committer_commit_seconds_count",
                    "allezon_committer_queue_events", "allezon_store_events", "allezon_rocksdb_sst_bytes"],
        "gateways": ["allezon_lane_batch_events_count", "allezon_lane_queue_events"],
    }
    expected["aggregate"] = [*expected["profile"], "allezon_segments_resident_bytes"]
    for service, names in expected.items():
        for entry in cluster.entries[service]:
            samples = cluster.metrics(entry["id"])
            for name in names:
                assert any(s.split("{")[0] == name for s in samples), f"{entry['id']} has no {name}"
            assert not any(cookie in sample for sample in samples for cookie in cookies)


def test_a_relative_data_folder_is_relative_to_where_the_process_was_started(tmp_path):
    process = subprocess.Popen([str(BIN_DIR / "allezon-profile"), *node_arguments(tmp_path, data="here")], text=True,
                               stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=tmp_path)
    wait_until_serving(process)
    end(process)
    assert (pathlib.Path(tmp_path) / "here" / "CURRENT").exists()
