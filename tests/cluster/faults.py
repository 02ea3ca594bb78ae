# SPDX-License-Identifier: Apache-2.0
"""Faults on a cluster under load, every answer compared. ./dev faults runs this file as a program; test_faults.py and
test_network.py run short forms of it.

One cluster of 2 gateways and some nodes of each service. One round is one fault: of a node of one service, or of one node of
each; it ends when everything that was hit says SERVING again, and the next one begins no earlier than every_s after it began.
At the end all replicas must be equal (verify.py)."""

import argparse
import contextlib
import dataclasses
import math
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

from api import MINUTE_MS, time_text
from cgroups import NoCgroups, v1_folder
from disks import Disks, NoDisks
from flips import SCRUB_S, flip_bit, wait_read
from flood import INTO, Flood, MemoryWatch
from load import Load, short
from machine_faults import DOWN_S, MachineFaults
from network import HUB_ADDRESS, Network, NoNetwork
from proxies import Proxies
from quota import CpuQuota
from running import READY_TIMEOUT_S, SHORT, TIME_SCALE, RunningCluster, wait_until
from settings import SHARDS_DEFAULT, ClusterError, Settings
from stragglers import Stragglers
from verify import verify

PAUSE_S = 5
# Longer than a replica may lag behind what it vouches for (5 s), so that one that is cut off must notice.
CUT_S = 7
TURNED_S = 5
# What a slow node has left, step by step; or the last of it at once, for as long as all steps take.
SLOW_STEPS = {"disk": (400, 100, 20), "cpu": (0.2, 0.05, 0.02), "network": (10_000, 2_000, 500)}
SLOW_UNITS = {"disk": "writes a second", "cpu": "of a processor", "network": "kbit a second"}
SLOW_STEP_S = 4
# A clock is wrong for so long, by so much: minutes to days.
CLOCK_WRONG_S = 8
CLOCK_SHIFT_MIN_S, CLOCK_SHIFT_MAX_S = 120, 5 * 86_400


@dataclasses.dataclass(frozen=True)
class Fault:
    """`retry`: requests in flight on what is hit cannot be saved by the platform, only by the client's retry with
    an idempotency key. `needs`: what the cluster must have for it."""

    what: str
    retry: bool = False
    needs: str = ""


FAULTS = {
    "kill": Fault("kill -9 of one node, a start 2 s later"),
    "term": Fault("SIGTERM of one node, a start 2 s later"),
    "stop": Fault("SIGSTOP of one node for 5 s"),
    "wipe": Fault("kill -9 of one node, a start on an empty disk 2 s later"),
    "clock": Fault("SIGTERM of one node, a start with its clock minutes to days ahead or behind, the same 8 s later with the "
                   "right one"),
    "cut": Fault("one node cut off from all, or hears nothing, or is not heard, or is cut off from one other, for 7 s",
                 needs="network"),
    "address": Fault("the address of one node leads to another one of its service for 5 s", needs="proxies"),
    "slow": Fault("the disk, the processor or the network of one node gets slow, at once or in steps, for 12 s",
                  needs="disks"),
    "flip": Fault("kill -9 of one node, one bit of its data flips, a start; until it has found it, or read all of it"),
    "fds": Fault("one node has no descriptors left for 8 s, while connections to it wait"),
    "full": Fault("the disk of one node is full for 10 s", needs="disks"),
    "power": Fault("power is cut off from one node: what it has not synced is gone; a start 2 s later", needs="disks"),
    "blackout": Fault("power is cut off from all nodes of a service at once, and their start", retry=True, needs="disks"),
    "flood": Fault("one cookie sends --flood_rate tags a second, each in a minute of its own (--flood_into), for --flood_s; then "
                   "one node of each service is started anew, and wiped"),
    "gateway": Fault("kill -9 of one gateway, a start 2 s later", retry=True),
    "all": Fault("kill -9 of all nodes at once, and their start", retry=True),
    "soak": Fault("any of those of a node, each of one node of one service"),
    "mix": Fault("any of these", retry=True),
    "none": Fault("nothing at all, to compare with"),
}
OF_A_NODE = ("kill", "term", "stop", "wipe", "clock", "cut", "address", "slow", "flip", "fds", "full", "power")
MIXES = {"soak": OF_A_NODE, "mix": (*OF_A_NODE, "gateway", "all", "blackout")}


class Faults(MachineFaults):
    """Hits a RunningCluster. `network`: the one that it runs in, for cuts; `disks`: those of its nodes; the cluster's proxies
    are for addresses. `note` gets a line about each step."""

    def __init__(self, cluster, kind, seed=1, note=print, network=None, disks=None, flood=None, flood_s=0):
        self.cluster = cluster
        self.network = network
        self.disks = disks
        self.flood = flood
        self.flood_s = flood_s
        self.kind = kind
        self.note = note
        self.rounds = 0
        self._random = random.Random(seed)
        self._began = time.monotonic()

    def run(self, until, every_s):
        """Rounds until `until()` says so, and at least one."""
        while not until():
            began = time.monotonic()
            self.round()
            while not until() and time.monotonic() < began + every_s:
                time.sleep(0.05)

    def round(self):
        kind = self.kind
        if kind in MIXES:
            there = {"": True, "network": self.network is not None, "proxies": self.cluster.proxies is not None,
                     "disks": self.disks is not None}
            kind = self._random.choice([name for name in MIXES[kind] if there[FAULTS[name].needs]])
        if kind == "none":
            return
        self.rounds += 1
        hit = self._victims(kind)
        self._say(f"{kind} {' '.join(hit)}")
        getattr(self, f"_{kind}")(hit)
        nodes = [id_ for id_ in hit if id_[0] != "g"]
        if nodes:
            self._wait_well(nodes)
            self._say(f"{' '.join(nodes)} SERVING")
        self.cluster.wait_ready()
        if kind == "all":
            self._say("gateways ready")

    def _wait_well(self, nodes):
        """Until they serve. One whose disk refuses writes does, with what it has."""
        wait_until(lambda: all(self.cluster.stores(id_) for id_ in nodes), READY_TIMEOUT_S,
                   lambda: "\n".join([f"of {nodes} one does not store", *map(self.cluster.log_tail, nodes)]))
        self.cluster.wait_serving(*nodes)

    def _victims(self, kind):
        if kind == "all":
            return self.cluster.node_ids()
        if kind == "blackout":
            return self.cluster.ids(self._random.choice(["profile", "aggregate"]))
        if kind == "gateway":
            return [self._random.choice(self.cluster.ids("gateways"))]
        choices = [["profile"], ["aggregate"]] if kind != "flood" else []
        if self.kind != "soak":
            choices.append(["profile", "aggregate"])
        services = self._random.choice(choices)
        return [self._random.choice(self.cluster.ids(service)) for service in services]

    def _end(self, hit, sig):
        for id_ in hit:
            code = self.cluster.kill(id_, sig)
            assert sig == signal.SIGKILL or code == 0, f"{id_} ended with {code}\n{self.cluster.log_tail(id_)}"

    def _start(self, hit):
        for id_ in hit:
            self.cluster.restart(id_)
        self._say(f"{' '.join(hit)} started")

    def _kill(self, hit):
        self._end(hit, signal.SIGKILL)
        time.sleep(DOWN_S)
        self._start(hit)

    def _term(self, hit):
        self._end(hit, signal.SIGTERM)
        time.sleep(DOWN_S)
        self._start(hit)

    def _stop(self, hit):
        for id_ in hit:
            self.cluster.pause(id_)
        try:
            time.sleep(PAUSE_S)
        finally:
            for id_ in hit:
                self.cluster.resume(id_)
        self._say(f"{' '.join(hit)} goes on")

    def _wipe(self, hit):
        self._end(hit, signal.SIGKILL)
        for id_ in hit:
            self.cluster.wipe(id_)
        time.sleep(DOWN_S)
        self._start(hit)

    def _flip(self, hit):
        self._end(hit, signal.SIGKILL)
        for id_ in hit:
            self._say(f"{id_}: {flip_bit(self.cluster.entry(id_)['data'], self._random)}")
        time.sleep(DOWN_S)
        self._start(hit)
        for id_ in hit:
            self._say(f"{id_} {wait_read(self.cluster, id_, READY_TIMEOUT_S)}")

    def _clock(self, hit):
        shift_s = round(math.exp(self._random.uniform(math.log(CLOCK_SHIFT_MIN_S), math.log(CLOCK_SHIFT_MAX_S))))
        shift_s *= self._random.choice((1, -1))
        for shift in (shift_s, 0):
            self._end(hit, signal.SIGTERM)
            for id_ in hit:
                self.cluster.restart_by_clock(id_, shift)
            self._say(f"{' '.join(hit)} started with a clock {shift} s ahead" if shift else f"{' '.join(hit)} started")
            if shift:
                self.cluster.wait_serving(*hit)
                time.sleep(CLOCK_WRONG_S)

    def _cut(self, hit):
        cuts = ["unplug", "cut_in", "cut_out"]
        if self.cluster.proxies is None:  # over which all others look alike
            cuts.append("cut_between")
        for id_ in hit:
            cut = self._random.choice(cuts)
            other = [self._random.choice(self._others(id_))] if cut == "cut_between" else []
            self._say(f"{id_} {cut} {' '.join(other)}")
            getattr(self.network, cut)(id_, *other)
        try:
            time.sleep(CUT_S)
        finally:
            self.network.heal()
        self._say(f"{' '.join(hit)} healed")

    def _address(self, hit):
        for id_ in hit:
            other = self._random.choice(self._others(id_, gateways=False))
            self._say(f"the address of {id_} leads to {other}")
            self.cluster.proxies.turn(id_, self.cluster.entry(other)["grpc"])
        try:
            time.sleep(TURNED_S)
        finally:
            for id_ in hit:
                self.cluster.proxies.put_right(id_)
        self._say(f"the address of {' '.join(hit)} is right again")

    def _slow(self, hit):
        what = self._random.choice(["disk", "cpu", *(["network"] if self.network else [])])
        steps = SLOW_STEPS[what]
        if self._random.random() < 0.5:
            steps = steps[-1:] * len(steps)
        try:
            for step in steps:
                self._say(f"{' '.join(hit)} has {step} {SLOW_UNITS[what]}")
                with contextlib.ExitStack() as while_slow:
                    for id_ in hit:
                        if what == "disk":
                            self.disks.slow(id_, step)
                        elif what == "network":
                            self.network.limit(id_, step)
                        else:
                            while_slow.enter_context(CpuQuota(self.cluster.entry(id_)["pid"], step))
                    time.sleep(SLOW_STEP_S)
        finally:
            if what == "disk":
                self.disks.heal()
            elif what == "network":
                self.network.heal()
        self._say(f"{' '.join(hit)} is as fast as before")

    def _flood(self, hit):
        with MemoryWatch(self.cluster) as memory:
            end = time.monotonic() + self.flood_s
            self.flood.run(lambda: time.monotonic() >= end)
            self._say(self.flood.text())
            self._say(memory.text())
            for again in (self._term, self._wipe):
                again(hit)
                for id_ in hit:
                    began = time.monotonic()
                    self.cluster.wait_serving(id_)
                    self._say(f"{id_} SERVING another {time.monotonic() - began:.1f} s later")
        self._say(memory.text())

    def _others(self, id_, gateways=True):
        """Whom a node has to do with: those of its service, and gateways."""
        service = next(name for name in ("profile", "aggregate") if id_ in self.cluster.ids(name))
        return [other for other in self.cluster.ids(service) if other != id_] + \
            (self.cluster.ids("gateways") if gateways else [])

    def _gateway(self, hit):
        self._kill(hit)
        self.cluster.wait_ready()
        self._say(f"{' '.join(hit)} ready")

    def _all(self, hit):
        self._end(hit, signal.SIGKILL)
        self._start(hit)

    def _say(self, line):
        self.note(f"{time.monotonic() - self._began:7.2f} s  {line}")


def retry_flags(kind):
    return {"idempotency_keys": True, "retry": True, "retry_for_s": 60 * TIME_SCALE} if FAULTS[kind].retry else {}


def check_replicas(cluster, load, note=print, stragglers=None, retention=False, flood=None):
    """After the load has ended: all nodes serve, all replicas of everything are equal, and hold as many events as were
    acknowledged (with `retention`, some may have gone); stragglers stand on all of them."""
    cluster.assert_all_running()
    cluster.wait_serving()
    report = verify(cluster.folder, stragglers.lines() if stragglers else ())
    note(report.text())
    assert not report.problems, f"verify: {len(report.problems)} problems, the first: {report.problems[0]}"
    if not retention:
        fewest, most = load.events()
        late, uncertain = (len(stragglers.tags()), stragglers.uncertain()) if stragglers else (0, 0)
        if flood:
            late, uncertain = late + flood.acknowledged, uncertain + flood.uncertain
        for service, count in report.events.items():
            assert fewest + late <= count <= most + late + uncertain, \
                f"{service} replicas hold {count} events, acknowledged were {fewest + late} to {most + late + uncertain}"


def run_short(cluster, kind, seconds, every_s=4, **options):
    """A test's form: load and faults for so many seconds, then every check."""
    with Load(cluster.http, **{**short(seconds), **retry_flags(kind), **options}) as load:
        end = time.monotonic() + seconds
        faults = Faults(cluster, kind, disks=cluster.disks)
        # The last round must be over while the load still runs.
        faults.run(lambda: not load.running() or time.monotonic() > end - every_s, every_s)
        load.wait()
        print(load.text)
        load.assert_right()
        if not SHORT:
            load.assert_no_failure()
        assert faults.rounds >= 1
        check_replicas(cluster, load)


# --- the program ----------------------------------------------------------------------------------


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        prog="./dev faults", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Breaks a cluster of its own under load, again and again, and compares every answer. Ends with 1 where an "
                    "answer was wrong, a request failed, or ./dev verify finds anything at the end.\n\n"
                    + "\n".join(f"  {name:<8} {fault.what}{'; the load retries' if fault.retry else ''}"
                                f"{f'; with --{fault.needs}' if fault.needs else ''}" for name, fault in FAULTS.items()))
    parser.add_argument("--fault", choices=FAULTS, default="mix")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--every_s", type=float, default=15, help="from the start of one fault to that of the next")
    parser.add_argument("--rate", type=float, default=1000, help="tags a second")
    parser.add_argument("--profiles", type=int, default=3, help="number of profile nodes (default 3)")
    parser.add_argument("--aggregates", type=int, default=3, help="number of aggregate nodes (default 3)")
    parser.add_argument("--rf", type=int, default=3, help="replicas of every shard (default 3)")
    parser.add_argument("--retention_s", type=int, help="of the nodes (default: theirs, 24 h)")
    parser.add_argument("--stragglers_per_s", type=float,
                        help="late tags into old minutes, which are asked for, and found at the end (default: 1 with "
                             "--retention_s, else 0)")
    parser.add_argument("--flood_rate", type=float, default=1000, help="tags a second of the flood")
    parser.add_argument("--flood_into", choices=INTO, default="minute",
                        help="each in a minute or hour of its own; or all in one minute, to compare with")
    parser.add_argument("--flood_s", type=float, default=60, help="how long each flood lasts")
    parser.add_argument("--network", action="store_true", help="each process in a network namespace of its own, for cuts (root)")
    parser.add_argument("--proxies", action="store_true", help="nodes are reached over proxies, for addresses that change")
    parser.add_argument("--disks", action="store_true", help="a disk for each node, which can be slow, full or off without the others (root)")
    parser.add_argument("--seed", type=int, default=None, help="of the choice of nodes (default: some)")
    parser.add_argument("--retry", action="store_true", help="the load retries, whatever the fault")
    parser.add_argument("--load", action="append", default=[], metavar="FLAG", help="one more flag of allezon-load: --load=--cookies=5")
    parser.add_argument("--arg", action="append", default=[], metavar="WHO=FLAG", help="as of ./dev run")
    parser.add_argument("--keep", action="store_true", help="keep the folder with data and logs in any case")
    options = parser.parse_args(argv)
    needs = FAULTS[options.fault].needs
    if needs:
        setattr(options, needs, True)
    if options.stragglers_per_s is None:
        options.stragglers_per_s = 1.0 if options.retention_s else 0.0
    if options.seed is None:
        options.seed = random.randrange(1 << 30)
    return options


def load_flags(options, start_ms):
    flags = {"rate": options.rate, "timeout_ms": 200, "duration_s": options.minutes * 60, "final_check": True,
             "speedup": 4, "start": time_text(start_ms, ""), **retry_flags("mix" if options.retry else options.fault)}
    if options.retention_s:
        # Minutes must be asked for before they are gone, and there must be several.
        flags |= {"retention_s": options.retention_s, "aggregate_lag_s": 10, "speedup": 20, "aggregate_every": 250}
    for text in options.load:
        name, _, value = text.removeprefix("--").partition("=")
        flags[name] = value
    return flags


def run(options, cluster, network, disks, note):
    """Load, faults and stragglers to the end, then every check: (rounds, what was wrong)."""
    # Some hour that the stragglers' minutes are before.
    start_ms = random.Random(options.seed).randrange(*(year * 365 * 24 for year in (21, 49))) * 60 * MINUTE_MS
    end = time.monotonic() + options.minutes * 60
    with contextlib.ExitStack() as stack:
        load = stack.enter_context(Load(cluster.http, stderr=stack.enter_context((cluster.folder / "load.log").open("w")),
                                        **load_flags(options, start_ms)))
        stragglers = None
        if options.stragglers_per_s:
            retention_s = options.retention_s or 86_400
            stragglers = stack.enter_context(Stragglers(
                cluster.http, start_ms - min(retention_s, 3600) * 1000 - MINUTE_MS, retention_s=retention_s,
                per_s=options.stragglers_per_s, seed=options.seed))
        flood = None
        if options.fault == "flood":
            flood = Flood(cluster.http, options.flood_rate, options.flood_into)
        faults = Faults(cluster, options.fault, options.seed, note, network, disks, flood, options.flood_s)
        faults.run(lambda: not load.running() or time.monotonic() > end - options.every_s / 2, options.every_s)
        load.wait(options.minutes * 60 + READY_TIMEOUT_S + 180)
        note(load.text)
        checks = [load.assert_right, load.assert_no_failure]
        if stragglers is not None:
            stragglers.stop()
            note(stragglers.text())
            checks.append(stragglers.assert_right)
        checks.append(lambda: check_replicas(cluster, load, note, stragglers, bool(options.retention_s), flood))
        wrong = []
        for check in checks:
            try:
                check()
            except AssertionError as error:
                wrong.append((str(error).strip() or "?").splitlines()[-1])
        return faults.rounds, wrong


def main(argv):
    options = parse_arguments(argv)
    extra_args = {}
    for pair in options.arg:
        who, _, value = pair.partition("=")
        extra_args.setdefault(who, []).append(value)
    for service in ("profile", "aggregate"):
        if options.retention_s:
            extra_args.setdefault(service, []).append(f"--retention_s={options.retention_s}")
        if options.fault == "flip" or "flip" in MIXES.get(options.fault, ()):
            extra_args.setdefault(service, []).append(f"--scrub_s={SCRUB_S}")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="allezon-faults-"))
    print(f"--fault {options.fault} --seed {options.seed}: {FAULTS[options.fault].what}; in {folder}", flush=True)
    ids = Settings(2, options.profiles, options.aggregates, options.rf, 0, SHARDS_DEFAULT)
    names = {service: ids.ids(service) for service in ("gateways", "profile", "aggregate")}
    rounds, wrong = 0, []
    note = lambda line: print(line, flush=True)  # noqa: E731
    for sig in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, lambda *_: sys.exit(130))
    with contextlib.ExitStack() as stack:
        try:
            ids.check()
            network = stack.enter_context(Network(sum(names.values(), []))) if options.network else None
            disks = None
            if options.disks:
                disks = stack.enter_context(Disks(folder, [*names["profile"], *names["aggregate"]]))
                v1_folder("cpu")
            proxies = None
            if options.proxies:
                host = HUB_ADDRESS if network else "127.0.0.1"
                proxies = stack.enter_context(Proxies([*names["profile"], *names["aggregate"]], host))
            cluster = RunningCluster(folder, gateways=2, profiles=options.profiles, aggregates=options.aggregates,
                                     rf=options.rf, extra_args=extra_args, hosts=network and network.hosts,
                                     prefixes=network and network.prefixes, proxies=proxies)
        except (ClusterError, NoNetwork, NoDisks, NoCgroups) as error:
            shutil.rmtree(folder)
            print(f"error: {error}", file=sys.stderr)
            return 2
        try:
            cluster.launch()
            rounds, wrong = run(options, cluster, network, disks, note)
        except (AssertionError, ClusterError) as error:
            wrong.append(str(error))
        finally:
            wrong += cluster.finish()
    if not wrong and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"data and logs are kept in {folder}")
    if wrong:
        print("FAILED\n" + "\n".join(wrong))
        return 1
    print(f"OK: {rounds} faults, no request failed, no answer was wrong, the replicas are equal")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
