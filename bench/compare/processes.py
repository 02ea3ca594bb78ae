# SPDX-License-Identifier: Apache-2.0
"""Processes that a case starts, what CPU time they take, and that none of them is left."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "local"))
import cluster as local_cluster  # noqa: E402
import ports  # noqa: E402
from entries import describe_exit  # noqa: E402

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 30
LINE_MAX = 300  # characters of a line of somebody's complaint
# Put before an argv: the process dies with this one, however that ends.
DIE_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL"]


class BenchError(Exception):
    """A case that could not be measured, in words for who ran it."""


def shorten(text, lines=20):
    """The first and last lines of what a program printed."""
    all_lines = [line if len(line) <= LINE_MAX else line[:LINE_MAX] + "…" for line in text.splitlines()]
    if len(all_lines) <= lines:
        return "\n".join(all_lines)
    return "\n".join([*all_lines[:lines // 2], "…", *all_lines[-lines // 2:]])


def complaint(argv, code, text):
    return BenchError(f"{argv[0]}: {describe_exit(code)}\n{shorten(text)}")


class Process:
    """One that runs until stop(); what it prints goes to a file, whose end explains a failure."""

    def __init__(self, argv, log, *, cwd=None, user=None):
        self.log = pathlib.Path(log)
        self._argv = argv
        as_user = ["--reuid", user, "--regid", user, "--clear-groups"] if user else []
        with self.log.open("ab") as out:
            self.child = subprocess.Popen([*DIE_WITH_PARENT, *as_user, *map(str, argv)], cwd=cwd,
                                          stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        self.pid = self.child.pid

    def wait_until(self, ready, timeout_s=START_TIMEOUT_S):
        """Waits until ready() is true."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self.child.poll() is not None:
                raise complaint(self._argv, self.child.returncode, self.log_tail())
            if time.monotonic() > deadline:
                raise BenchError(f"{self._argv[0]} is not ready after {timeout_s} s\n" + self.log_tail())
            time.sleep(0.02)

    def wait_port(self, port, timeout_s=START_TIMEOUT_S):
        """Waits until it takes connections."""
        self.wait_until(lambda: accepts(port), timeout_s)

    def stop(self):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()

    def log_tail(self):
        return shorten(self.log.read_text(errors="replace"))


@contextlib.contextmanager
def running(argv, log, **options):
    process = Process(argv, log, **options)
    try:
        yield process
    finally:
        process.stop()


def run(argv, *, timeout_s, user=None, cwd=None):
    """Runs a program to its end; returns what it printed on stdout. BenchError where it fails or takes too long."""
    as_user = ["--reuid", user, "--regid", user, "--clear-groups"] if user else []
    try:
        done = subprocess.run([*DIE_WITH_PARENT, *as_user, *map(str, argv)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, cwd=cwd, timeout=timeout_s, start_new_session=True)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{argv[0]} took more than {timeout_s:.0f} s") from error
    if done.returncode != 0:
        raise complaint(argv, done.returncode, done.stdout + done.stderr)
    return done.stdout


def run_client(argv, *, timeout_s, env=None):
    """Runs a load generator to its end; returns what it printed on stdout, and its (user, system) CPU seconds."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen([*DIE_WITH_PARENT, *map(str, argv)], stdin=subprocess.DEVNULL, stdout=out,
                                 stderr=err, start_new_session=True, env={**os.environ, **(env or {})})
        deadline = time.monotonic() + timeout_s
        ended, status = 0, 0
        try:
            while not ended and time.monotonic() < deadline:
                time.sleep(0.02)
                ended, status, usage = os.wait4(child.pid, os.WNOHANG)
        finally:
            if not ended:
                child.kill()
                child.wait()
        out.seek(0)
        err.seek(0)
        text = out.read()
        if not ended:
            raise BenchError(f"{argv[0]} took more than {timeout_s:.0f} s\n{shorten(text + err.read())}")
        child.returncode = os.waitstatus_to_exitcode(status)  # Popen must not wait for it again
        if child.returncode != 0:
            raise complaint(argv, child.returncode, text + err.read())
        return text, (usage.ru_utime, usage.ru_stime)


def free_ports(count):
    return ports.free_ports("127.0.0.1", count, set())


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def program(name):
    """A program of the release build."""
    path = pathlib.Path(os.environ.get("ALLEZON_BIN_DIR", ROOT / "build" / "release" / "bin")) / name
    if not os.access(path, os.X_OK):
        raise BenchError(f"{path} is not there: ./dev bench builds it")
    return path


# --- CPU time -----------------------------------------------------------------------------------


class CpuMeter:
    """CPU time of processes by role, with all their descendants: {"gateway": [pid], …}."""

    def __init__(self, roles):
        self._roles = roles
        self._machine = machine_cpu_s()
        self._start = self._read()
        self._began = time.monotonic()

    def stop(self):
        """({role: (user s, system s)}, CPU seconds of the whole machine, CPU seconds that it had) since it was made."""
        wall = time.monotonic() - self._began
        end = self._read()
        taken = {role: tuple(now - was for now, was in zip(end[role], self._start[role])) for role in end}
        return taken, machine_cpu_s() - self._machine, wall * os.cpu_count()

    def _read(self):
        processes = read_processes()
        return {role: tree_cpu_s(pids, processes) for role, pids in self._roles.items()}


def read_processes():
    """{pid: (parent, user ticks, system ticks)}, reaped children included."""
    processes = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = pathlib.Path(f"/proc/{name}/stat").read_text()
            except OSError:
                continue  # it has ended
            fields = stat[stat.rindex(")") + 2:].split()
            user, system, children_user, children_system = map(int, fields[11:15])
            processes[int(name)] = (int(fields[1]), user + children_user, system + children_system)
    return processes


def tree_cpu_s(pids, processes):
    children = {}
    for pid, (parent, *_) in processes.items():
        children.setdefault(parent, []).append(pid)
    waiting, user, system = list(pids), 0, 0
    while waiting:
        pid = waiting.pop()
        _, own_user, own_system = processes.get(pid, (0, 0, 0))
        user, system = user + own_user, system + own_system
        waiting += children.get(pid, [])
    return user / TICKS_PER_S, system / TICKS_PER_S


def machine_cpu_s():
    """CPU time that all cores spent on anything."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(
        int, pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:])
    return (user + nice + system + irq + softirq) / TICKS_PER_S


def memory_mib(pid):
    """Resident memory of a process."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0
