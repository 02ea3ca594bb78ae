# SPDX-License-Identifier: Apache-2.0
"""A cluster of separate processes on this machine: the gateways, the nodes of both services and, where
it is asked for, nginx before the gateways (nginx.py).

Everything about one cluster lives in one folder:

    cluster.json     what runs: ids, addresses, pids, and the argv and cwd that start each process again
    settings.json    what was chosen when the folder was made: numbers of nodes, shards, rf, write
                     quorum, ports
    data/<id>/       the data of a node
    log/<id>.log     what a process printed, appended to over restarts
    nginx/           the configuration of nginx and what else it writes, made anew by each start
    lock             held while somebody supervises the cluster; holds that process's pid

Ports are chosen once and kept, so that a second start on the same folder finds its data at the same
addresses. A node that somebody else starts again, by its argv in its cwd, is still part of the
cluster: a process belongs to it when its command line and working folder are those of an entry.

Class Cluster is for one thread at a time.
"""

from __future__ import annotations

import dataclasses
import fcntl
import http.client
import json
import os
import pathlib
import signal
import subprocess
import time
from typing import Callable, Optional, Sequence

import nginx
from entries import describe_exit, find, load_entries, runs
from ports import can_bind, free_ports, split_address
from settings import LISTS, SERVICES, ClusterError, Settings

PROGRAMS = {
    "gateways": "allezon-gateway",
    "profile": "allezon-profile",
    "aggregate": "allezon-aggregate",
}
LOG_LINES_SHOWN = 20
LOG_BYTES_READ_MAX = 64 * 1024
POLL_S = 0.05
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


class Cluster:
    """The processes of one folder.

    folder      where everything lives; made if it is not there
    bin_dir     the folder with the three programs
    settings    from settings.make_settings
    port        of the first gateway, the others follow; 0: kept, or any free ones
    nginx_port  of nginx, where the settings have one; 0: kept, or any free one
    extra_args  more flags: by service ("gateways", "profile", "aggregate") or by id ("p1")
    env         more environment variables for every process
    envs        and for one process, by its id, from its next start on
    hosts       the address of a process by its id, where it is not `host`
    fronts      the host:port by which the others reach a node, by its id, where that is not the
                one that it listens on: of a proxy
    prefixes    what is put before the argv of a process, by its id: a command that becomes the
                process, such as nsenter, so that pid and command line are the process's own
    note        called with a line of text when there is something to tell
    """

    def __init__(self, folder, bin_dir, settings: Settings, *, port: int = 0, nginx_port: int = 0,
                 host: str = "127.0.0.1", extra_args: Optional[dict[str, Sequence[str]]] = None,
                 env: Optional[dict[str, str]] = None, log_level: str = "info",
                 envs: Optional[dict[str, dict[str, str]]] = None,
                 hosts: Optional[dict[str, str]] = None,
                 fronts: Optional[dict[str, str]] = None,
                 prefixes: Optional[dict[str, Sequence[str]]] = None,
                 note: Callable[[str], None] = lambda line: None):
        self.folder = pathlib.Path(folder).resolve()
        self.bin_dir = pathlib.Path(bin_dir).resolve()
        self.settings = settings
        self.host = host
        self.extra_args = extra_args or {}
        self.env = env or {}
        self.envs = envs or {}
        self.hosts = hosts or {}
        self.fronts = fronts or {}
        self.prefixes = prefixes or {}
        self.log_level = log_level
        self.note = note
        self.entries: dict[str, list[dict]] = {}
        self._port = port
        self._nginx_port = nginx_port
        self._children: dict[str, subprocess.Popen] = {}
        self._log_starts: dict[str, int] = {}  # bytes that earlier runs have left in a log
        self._lock: Optional[int] = None

    # --- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts every process. ClusterError, with nothing left running, where one cannot be."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.take_lock()
        try:
            self._refuse_leftovers()
            for program in PROGRAMS.values():
                if not os.access(self.bin_dir / program, os.X_OK):
                    raise ClusterError(f"{self.bin_dir / program} is not there: ./dev build")
            self._choose_ports()
            self.entries = self._make_entries()
            self._refuse_taken_ports()
            _write(self.folder / "settings.json", dataclasses.asdict(self.settings))
            (self.folder / "log").mkdir(exist_ok=True)
            if "nginx" in self.entries:
                self._configure_nginx()
            for service in ("profile", "aggregate", "gateways", "nginx"):
                for entry in self.entries.get(service, []):
                    self._spawn(entry)
            self._save()
        except BaseException:
            self.stop(timeout_s=5)
            raise

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Waits until every gateway says on /readyz that it reaches a replica of every shard, and
        nginx passes that on. ClusterError where a process ends first (with its last log lines) or
        time runs out."""
        deadline = time.monotonic() + timeout_s
        waiting = [entry["id"] for name in ("gateways", "nginx") for entry in self.entries.get(name, [])]
        answer = "nothing was asked yet"
        while True:
            self._refuse_dead()
            still = []
            for id_ in waiting:
                answer = self._readyz(id_)
                if answer != "200":
                    still.append(id_)
            waiting = still
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"not ready after {timeout_s:.0f} s: {', '.join(waiting)} answers /readyz with "
                    f"{answer}\n" + "\n".join(self.log_tail(id_) for id_ in waiting))
            time.sleep(POLL_S)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> dict[str, int]:
        """Ends every process of the folder: nginx first, then the gateways, then the nodes, by
        SIGTERM, and by SIGKILL what is still there after `timeout_s`. Returns the exit codes of
        those that this object started and that still ran (as subprocess has them: negative is a
        signal)."""
        codes: dict[str, int] = {}
        for services in (("nginx",), ("gateways",), ("profile", "aggregate")):
            entries = [e for service in services for e in self.entries.get(service, [])]
            self._stop_entries(entries, timeout_s, codes)
        for entry in self.all_entries():
            entry["pid"] = None
        if self.entries:
            self._save()
        self.release_lock()
        return codes

    # --- one process ------------------------------------------------------------------------

    def all_entries(self) -> list[dict]:
        return [entry for name in LISTS for entry in self.entries.get(name, [])]

    def entry(self, id_: str) -> dict:
        for entry in self.all_entries():
            if entry["id"] == id_:
                return entry
        raise KeyError(id_)

    def kill(self, id_: str, sig: int = signal.SIGKILL, wait_s: Optional[float] = None) -> None:
        """Sends a signal to a process. After SIGKILL and SIGTERM, waits until it is gone (at most
        `wait_s`, by default STOP_TIMEOUT_S; ClusterError past that); other signals do not wait
        unless `wait_s` is given."""
        entry = self.entry(id_)
        pid = self._pid_of(entry)
        if pid is None:
            raise ClusterError(f"{id_} does not run")
        os.kill(pid, sig)
        if wait_s is None and sig in (signal.SIGKILL, signal.SIGTERM):
            wait_s = STOP_TIMEOUT_S
        if wait_s is not None and not self._wait_gone(entry, pid, wait_s):
            raise ClusterError(f"{id_} (pid {pid}) still runs {wait_s:.0f} s after signal {sig}")

    def restart(self, id_: str) -> None:
        """Starts a process that has ended again, by its argv in its cwd. Does not wait for it to
        be ready."""
        entry = self.entry(id_)
        if self._pid_of(entry) is not None:
            raise ClusterError(f"{id_} still runs")
        self._spawn(entry)
        self._save()

    def running(self, id_: str) -> bool:
        return self._pid_of(self.entry(id_)) is not None

    def exit_code(self, id_: str) -> Optional[int]:
        """Of the process that this object started last as `id_`; None while it runs."""
        return self._children[id_].poll()

    def died(self) -> list[tuple[str, int, int]]:
        """The processes, of those that this object started, that ended by themselves since the
        last call: (id, pid, exit code), the code as subprocess has it."""
        gone = []
        for entry in self.all_entries():
            child = self._children.get(entry["id"])
            if child is not None and child.poll() is not None:
                del self._children[entry["id"]]
                gone.append((entry["id"], child.pid, child.returncode))
        return gone

    def adopt(self) -> list[tuple[str, int]]:
        """The processes that somebody else started again since the last call: (id, pid). Their
        pids are in cluster.json from now on."""
        found = []
        for entry in self.all_entries():
            if not runs(entry, entry["pid"]):
                pid = find(entry)
                if pid is not None and pid != entry["pid"]:
                    entry["pid"] = pid
                    found.append((entry["id"], pid))
        if found:
            self._save()
        return found

    def log_path(self, id_: str) -> pathlib.Path:
        return self.folder / "log" / f"{id_}.log"

    def log_tail(self, id_: str, lines: int = LOG_LINES_SHOWN) -> str:
        """The last lines of a process's log since it was started, under a line that names it."""
        path = self.log_path(id_)
        try:
            with path.open("rb") as log:
                log.seek(max(self._log_starts.get(id_, 0),
                             path.stat().st_size - LOG_BYTES_READ_MAX))
                last = log.read().decode(errors="replace").splitlines()[-lines:]
        except FileNotFoundError:
            last = []
        return "\n".join([f"--- last lines of {path}", *(last or ["(empty)"])])

    # --- inside -----------------------------------------------------------------------------

    def take_lock(self) -> None:
        """Makes this object the one that supervises the folder."""
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(lock, 32).decode(errors="replace").strip()
            os.close(lock)
            raise ClusterError(
                f"a cluster already runs in {self.folder} (supervised by pid {holder}): stop it "
                f"with ./dev stop --dir {self.folder}, or use another --dir") from None
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        self._lock = lock

    def holds_lock(self) -> bool:
        return self._lock is not None

    def release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _refuse_leftovers(self) -> None:
        """A supervisor that was killed leaves its processes behind."""
        left = [(entry["id"], pid) for entry in load_entries(self.folder)
                if (pid := find(entry)) is not None]
        if left:
            names = ", ".join(f"{id_} (pid {pid})" for id_, pid in left)
            raise ClusterError(f"processes of this cluster still run: {names}; stop them with "
                               f"./dev stop --dir {self.folder}")

    def _choose_ports(self) -> None:
        ports = self.settings.ports
        if self._port + self.settings.gateways - 1 > 65535:
            raise ClusterError(f"--port {self._port} is too high")
        first = self._port or ports.get("g0")
        for i, name in enumerate(self.settings.ids("gateways")):
            if self._port or (first and name not in ports and first + i not in ports.values()):
                ports[name] = first + i
        names = list(self.settings.ids("gateways"))
        for service in ("profile", "aggregate"):
            for id_ in self.settings.ids(service):
                names += [id_, f"{id_}/metrics"]
        if self.settings.nginx:
            if self._nginx_port:
                ports["n0"] = self._nginx_port
            names += ["n0", "n0/profile", "n0/aggregate"]
        missing = [name for name in names if name not in ports]
        ports.update(zip(missing, free_ports(self.host, len(missing), set(ports.values()))))
        for name in names:
            if same := [other for other in names if other != name and ports[other] == ports[name]]:
                raise ClusterError(f"port {ports[name]} would be that of {name} and {', '.join(same)}: "
                                   "choose another --port")

    def _make_entries(self) -> dict[str, list[dict]]:
        ports, settings = self.settings.ports, self.settings
        lists = {service: ",".join(f"{id_}={self.fronts.get(id_) or self.address(id_)}"
                                   for id_ in settings.ids(service))
                 for service in ("profile", "aggregate")}
        shape = [f"--shards={settings.shards}", f"--rf={settings.rf}",
                 f"--write_quorum={settings.write_quorum}", f"--log_level={self.log_level}"]
        entries: dict[str, list[dict]] = {service: [] for service in SERVICES}
        for id_ in settings.ids("gateways"):
            http_address = self.address(id_)
            entries["gateways"].append({
                "id": id_, "http": http_address, "pid": None,
                "argv": [str(self.bin_dir / PROGRAMS["gateways"]), f"--id={id_}",
                         f"--listen={http_address}", f"--profiles={lists['profile']}",
                         f"--aggregates={lists['aggregate']}", *shape,
                         *self.extra_args.get("gateways", ()), *self.extra_args.get(id_, ())],
                "cwd": str(self.folder)})
        for service in ("profile", "aggregate"):
            for id_ in settings.ids(service):
                grpc = self.address(id_)
                metrics = self.address(f"{id_}/metrics")
                data = self.folder / "data" / id_
                entries[service].append({
                    "id": id_, "grpc": grpc, "metrics": metrics, "pid": None,
                    "argv": [str(self.bin_dir / PROGRAMS[service]), f"--id={id_}",
                             f"--listen={grpc}", f"--metrics={metrics}", f"--data={data}",
                             f"--instances={lists[service]}", *shape,
                             *self.extra_args.get(service, ()), *self.extra_args.get(id_, ())],
                    "cwd": str(self.folder), "data": str(data)})
        if settings.nginx:
            entries["nginx"] = [{"id": id_, "http": self.address(id_), "pid": None,
                                 "argv": nginx.argv(self._nginx_folder()), "cwd": str(self.folder)}
                                for id_ in settings.ids("nginx")]
        for entry in (entry for of in entries.values() for entry in of):
            if entry["id"] in self.prefixes:
                entry["prefix"] = list(self.prefixes[entry["id"]])
        return entries

    def _nginx_folder(self) -> pathlib.Path:
        return self.folder / "nginx"

    def _configure_nginx(self) -> None:
        nginx.write(self._nginx_folder(), http=self.address("n0"), grpc_profile=self.address("n0/profile"),
                    grpc_aggregate=self.address("n0/aggregate"),
                    gateways=[entry["http"] for entry in self.entries["gateways"]],
                    profiles=[entry["grpc"] for entry in self.entries["profile"]],
                    aggregates=[entry["grpc"] for entry in self.entries["aggregate"]])

    def address(self, name: str) -> str:
        """Of a name of settings.ports: "p0", "p0/metrics"."""
        host = self.hosts.get(name.partition("/")[0], self.host)
        return f"{host}:{self.settings.ports[name]}"

    def _refuse_taken_ports(self) -> None:
        for entry in self.all_entries():
            if entry["id"] in self.hosts:
                continue  # maybe of another network: only the process itself can tell
            for key in ("http", "grpc", "metrics"):
                if key in entry and not can_bind(*split_address(entry[key])):
                    option = "--nginx" if entry["id"][0] == "n" else "--port"
                    hint = f"use another {option}" if key == "http" else "stop it, or use another --dir"
                    raise ClusterError(f"{entry[key]} ({entry['id']}, {key}) is taken by another "
                                       f"process: {hint}")

    def _spawn(self, entry: dict) -> None:
        if "data" in entry:
            pathlib.Path(entry["data"]).mkdir(parents=True, exist_ok=True)
        with self.log_path(entry["id"]).open("ab") as log:
            self._log_starts[entry["id"]] = log.tell()
            # A session of its own: a Ctrl-C in the terminal reaches the supervisor only, which then
            # stops the processes in their order.
            child = subprocess.Popen([*entry.get("prefix", ()), *entry["argv"]], cwd=entry["cwd"],
                                     env={**os.environ, **self.env,
                                          **self.envs.get(entry["id"], {})},
                                     stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                     start_new_session=True)
        self._children[entry["id"]] = child
        entry["pid"] = child.pid

    def _refuse_dead(self) -> None:
        for entry in self.all_entries():
            child = self._children.get(entry["id"])
            if child is not None and child.poll() is not None:
                raise ClusterError(f"{entry['id']} ended while it started: "
                                   f"{describe_exit(child.returncode)}\n{self.log_tail(entry['id'])}")

    def _readyz(self, id_: str) -> str:
        host, port = split_address(self.entry(id_)["http"])
        connection = http.client.HTTPConnection(host, port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            return str(connection.getresponse().status)
        except (OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            connection.close()

    def _stop_entries(self, entries: list[dict], timeout_s: float, codes: dict[str, int]) -> None:
        pids = {entry["id"]: pid for entry in entries if (pid := self._pid_of(entry))}
        for pid in pids.values():
            _signal(pid, signal.SIGTERM)
            _signal(pid, signal.SIGCONT)  # one that a test has paused could not end
        deadline = time.monotonic() + timeout_s
        for entry in entries:
            id_ = entry["id"]
            if id_ not in pids:
                continue
            if not self._wait_gone(entry, pids[id_], max(0.0, deadline - time.monotonic())):
                self.note(f"{id_} (pid {pids[id_]}) did not stop within {timeout_s:.0f} s of SIGTERM "
                          "and was killed")
                _signal(pids[id_], signal.SIGKILL)
                self._wait_gone(entry, pids[id_], STOP_TIMEOUT_S)
            child = self._children.get(id_)
            if child is not None and child.pid == pids[id_] and child.poll() is not None:
                codes[id_] = child.returncode

    def _pid_of(self, entry: dict) -> Optional[int]:
        child = self._children.get(entry["id"])
        if child is not None and child.poll() is None:
            return child.pid
        return find(entry)

    def _wait_gone(self, entry: dict, pid: int, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        child = self._children.get(entry["id"])
        while True:
            if child is not None and child.pid == pid:
                if child.poll() is not None:
                    return True
            elif not runs(entry, pid):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)

    def _save(self) -> None:
        _write(self.folder / "cluster.json", self.entries)


def attach(folder: pathlib.Path) -> Cluster:
    """A Cluster of what cluster.json lists, to stop it or to look at it."""
    cluster = Cluster(folder, folder, Settings())
    for entry in load_entries(cluster.folder):
        service = next(name for name in LISTS if name[0] == entry["id"][0])
        cluster.entries.setdefault(service, []).append(entry)
    return cluster


def _signal(pid: int, sig: int) -> None:
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        pass


def _write(path: pathlib.Path, value) -> None:
    """At once or not at all: others read these files while the cluster runs."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.rename(path)
