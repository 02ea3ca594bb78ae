# SPDX-License-Identifier: Apache-2.0
"""`./dev run` and `./dev stop`: a local cluster in the foreground or behind, and its end."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pathlib
import signal
import sys
import time

from cluster import POLL_S, STOP_TIMEOUT_S, Cluster, attach
from entries import describe_exit, find
from settings import LISTS, RF_DEFAULT, SERVICES, ClusterError, Settings, make_settings

ROOT = pathlib.Path(__file__).resolve().parents[1]
GATEWAY_PORT_DEFAULT = 8080
SUPERVISE_EVERY_S = 0.5
# A supervisor stops nginx, the gateways, then the nodes, each within STOP_TIMEOUT_S, and kills what is left.
SUPERVISOR_TIMEOUT_S = 4 * STOP_TIMEOUT_S


def say(line: str = "") -> None:
    """A cluster goes on, and is stopped, also where nobody is left to read it: a closed pipe or terminal, a full disk."""
    try:
        print(line, flush=True)
    except OSError:
        pass


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev", add_help=True)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument("--dir", type=pathlib.Path, default=ROOT / "run", metavar="DIR",
                             help="folder of the cluster: data, logs, cluster.json (default: run)")
        return command

    run = add("run", "Starts a local cluster of separate processes and waits until it is ready. "
                     "A second start on the same DIR finds its data.")
    run.add_argument("--detach", action="store_true",
                     help="return once it is ready; end it by ./dev stop")
    run.add_argument("--port", type=int,
                     help="of the first gateway, the others follow; 0: any free ones (default: as "
                          f"the last time, at first {GATEWAY_PORT_DEFAULT})")
    run.add_argument("--gateways", type=int, help="number of gateways (default 1)")
    run.add_argument("--nginx", type=int, nargs="?", const=0, metavar="PORT",
                     help="start nginx before the gateways, on PORT (default: as the last time, at "
                          "first any free one)")
    run.add_argument("--profiles", type=int, help="number of profile nodes (default 3)")
    run.add_argument("--aggregates", type=int, help="number of aggregate nodes (default 3)")
    run.add_argument("--rf", type=int,
                     help=f"replicas of every shard (default {RF_DEFAULT}, or as many as the "
                          "smaller service has nodes)")
    run.add_argument("--write_quorum", type=int,
                     help="replicas that must have stored a tag before it is answered (default 0: "
                          "the majority of --rf)")
    run.add_argument("--log_level", default="info", help="of every process (default info)")
    run.add_argument("--arg", action="append", default=[], metavar="WHO=FLAG",
                     help="one more flag for the processes of a service (gateways, profile, "
                          "aggregate) or for one process: --arg profile=--wal=async")
    run.add_argument("--bin-dir", type=pathlib.Path, default=ROOT / "build/release/bin",
                     help=argparse.SUPPRESS)
    add("stop", "Stops the local cluster of DIR, its data stays.")
    return parser.parse_args(argv)


def extra_args(pairs: list[str]) -> dict[str, list[str]]:
    extra: dict[str, list[str]] = {}
    for pair in pairs:
        who, equals, flag = pair.partition("=")
        if not equals or not flag.startswith("-"):
            raise ClusterError(f"--arg {pair}: it has the form WHO=--flag=value")
        extra.setdefault(who, []).append(flag)
    return extra


def make_cluster(options: argparse.Namespace, note) -> Cluster:
    folder = options.dir.resolve()
    settings = make_settings(folder, gateways=options.gateways, nginx=int(options.nginx is not None),
                             profiles=options.profiles,
                             aggregates=options.aggregates, rf=options.rf,
                             write_quorum=options.write_quorum)
    extra = extra_args(options.arg)
    # nginx has no flags of this kind.
    known = {*SERVICES, *(id_ for s in SERVICES for id_ in settings.ids(s))}
    if options.nginx is not None and not 0 <= options.nginx <= 65535:
        raise ClusterError(f"--nginx {options.nginx}: its port is 0 to 65535")
    if unknown := set(extra) - known:
        raise ClusterError(f"--arg {unknown.pop()}=…: it is one of {', '.join(sorted(known))}")
    port = options.port
    if port is None:
        # Gateways that had ports keep them.
        port = 0 if "g0" in settings.ports else GATEWAY_PORT_DEFAULT
    elif not 0 <= port <= 65535:
        raise ClusterError(f"--port {port}: it is 0 to 65535")
    elif port == 0:
        settings.ports = {name: value for name, value in settings.ports.items() if name[0] != "g"}
    return Cluster(folder, options.bin_dir, settings, port=port, nginx_port=options.nginx or 0,
                   extra_args=extra, log_level=options.log_level, note=note)


def replication(settings: Settings) -> str:
    quorum = settings.write_quorum or settings.rf // 2 + 1
    return f"rf {settings.rf}, write quorum {quorum}"


def describe(running: Cluster, detached: bool) -> str:
    first = running.entries.get("nginx") or running.entries["gateways"]
    base = f"http://{first[0]['http']}"
    lines = ["", f"The cluster is ready ({replication(running.settings)}):"]
    for service in LISTS:
        for entry in running.entries.get(service, []):
            where = f"http://{entry['http']}" if "http" in entry else f"grpc {entry['grpc']}"
            if service == "nginx":
                where += "".join(f", grpc {running.address(entry['id'] + '/' + of)} ({of})"
                                 for of in ("profile", "aggregate"))
            lines.append(f"  {service.removesuffix('s'):<10} {entry['id']:<4} {where}")
    tag = ('{"time":"2022-03-22T12:15:00.000Z","cookie":"alice","country":"PL","device":"PC",'
           '"action":"BUY","origin":"campaign","product_info":{"product_id":7,"brand_id":"Nike",'
           '"category_id":"shoes","price":1299}}')
    lines += [
        f"Data and logs are in {running.folder}.",
        "",
        "Store a tag, ask for the profile, ask for the aggregates:",
        "",
        f"curl -sS -w '%{{http_code}}\\n' {base}/user_tags -H 'Content-Type: application/json' -d '{tag}'",
        f"curl -sS -w '\\n' -X POST '{base}/user_profiles/alice?time_range=2022-03-22T12:00:00.000_"
        "2022-03-22T13:00:00.000&limit=200'",
        f"curl -sS -w '\\n' -X POST '{base}/aggregates?time_range=2022-03-22T12:15:00_2022-03-22T12:20:00"
        "&action=BUY&brand_id=Nike&aggregates=COUNT&aggregates=SUM_PRICE'",
        "",
        f"It goes on behind; end it with ./dev stop --dir {running.folder}" if detached
        else "Ctrl-C stops it.",
    ]
    return "\n".join(lines)


def supervise(running: Cluster) -> None:
    """Notes what happens to the processes, until a signal raises KeyboardInterrupt."""
    dead: set[str] = set()
    while True:
        time.sleep(SUPERVISE_EVERY_S)
        for id_, pid, code in running.died():
            dead.add(id_)
            say(f"{timestamp()} {id_} (pid {pid}) has ended: {describe_exit(code)}\n"
                f"{running.log_tail(id_)}\n"
                f"--- its argv in cluster.json, started in its cwd, brings it back")
        if dead:
            for id_, pid in adopt(running):
                dead.discard(id_)
                say(f"{timestamp()} {id_} is back as pid {pid}")


def adopt(running: Cluster) -> list[tuple[str, int]]:
    try:
        return running.adopt()
    except OSError as error:  # of writing cluster.json; what runs must not end for it
        say(f"{timestamp()} cannot note what runs: {error}")
        return []


def timestamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")


def run_cluster(options: argparse.Namespace, announce) -> None:
    """From start to end. announce(text) is called once it is ready. ClusterError where it does not
    become ready; all has been stopped then."""
    running = make_cluster(options, say)
    say(f"starting {running.settings.gateways} gateway(s), {running.settings.profiles} profile and "
        f"{running.settings.aggregates} aggregate nodes, "
        f"{replication(running.settings)}, in {running.folder}")
    try:
        running.start()
        running.wait_ready()
        announce(describe(running, options.detach))
        supervise(running)
    except KeyboardInterrupt:
        say("\nstopping")
        stop_running(running)
    except BaseException:
        stop_running(running)
        raise


def stop_running(running: Cluster) -> None:
    if not running.holds_lock():
        return
    try:
        codes = running.stop()
    except KeyboardInterrupt:
        say("killing what is left")
        codes = running.stop(timeout_s=0)
    for id_, code in codes.items():
        if code != 0:
            say(f"{id_} did not stop well: {describe_exit(code)}\n{running.log_tail(id_)}")
    say("stopped")


def run_detached(options: argparse.Namespace) -> int:
    """Runs the cluster in a process of its own, and tells how its start went."""
    (options.dir / "log").mkdir(parents=True, exist_ok=True)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        os.setsid()
        log = os.open(options.dir / "log" / "supervisor.log",
                      os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)

        def tell(ok: bool, text: str) -> None:
            os.write(write_end, json.dumps({"ok": ok, "text": text}).encode())
            os.close(write_end)

        code = 1
        try:
            run_cluster(options, lambda text: tell(True, text))
            code = 0
        except (ClusterError, OSError) as error:
            say(f"error: {error}")
            tell(False, str(error))
        finally:
            os._exit(code)
    os.close(write_end)
    try:
        with os.fdopen(read_end, "rb") as pipe:
            told = pipe.read()
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        raise
    if not told:
        raise ClusterError(f"the supervisor ended: see {options.dir}/log/supervisor.log")
    result = json.loads(told)
    if not result["ok"]:
        raise ClusterError(result["text"])
    say(result["text"])
    return 0


def stop(folder: pathlib.Path) -> None:
    """Ends the supervisor of a folder, which ends its processes, and whatever a supervisor that was
    killed has left."""
    folder = folder.resolve()
    if not (folder / "cluster.json").exists():
        say(f"nothing runs in {folder}")
        return
    left = attach(folder)
    deadline = time.monotonic() + SUPERVISOR_TIMEOUT_S
    with (folder / "lock").open("a+") as lock:
        told = False
        while not try_lock(lock):
            if not told:
                lock.seek(0)
                pid = int(lock.read() or 0)
                say(f"stopping the cluster in {folder} (supervisor {pid})")
                if pid:
                    os.kill(pid, signal.SIGTERM)
                told = True
            if time.monotonic() > deadline:
                raise ClusterError(f"the supervisor of {folder} does not end")
            time.sleep(POLL_S)
        running = [e["id"] for e in left.all_entries() if find(e) is not None]
        if running:
            say(f"stopping {', '.join(running)}")
            left.note = say
            left.stop()
    say("stopped" if told or running else f"nothing runs in {folder}")


def try_lock(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False


def interrupt(signum, frame):
    raise KeyboardInterrupt


def main(argv: list[str]) -> int:
    options = parse_arguments(argv)
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, interrupt)
    try:
        if options.command == "stop":
            stop(options.dir)
        elif options.detach:
            return run_detached(options)
        else:
            run_cluster(options, say)
        return 0
    except (ClusterError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
