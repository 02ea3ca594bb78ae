# SPDX-License-Identifier: Apache-2.0
"""Faults on a cluster under load, every answer compared. ./dev faults runs this file as a program; test_faults.py and
test_network.py run short forms of it.

One cluster of 2 gateways, 3 profile and 3 aggregate nodes with 3 replicas of everything. One round is one fault: of a
node of one service, or of one node of each; it ends when everything that was hit says SERVING again, and the next one begins
no earlier than every_s after it began."""

import argparse
import dataclasses
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

from load import Load, short
from running import READY_TIMEOUT_S, SHORT, TIME_SCALE, RunningCluster

PAUSE_S = 5
DOWN_S = 2  # how long what was ended stays away, so that it misses something


@dataclasses.dataclass(frozen=True)
class Fault:
    """`retry`: requests in flight on what is hit cannot be saved by the platform, only by the client's retry with
    an idempotency key."""

    what: str
    retry: bool = False


FAULTS = {
    "kill": Fault("kill -9 of one node, a start 2 s later"),
    "term": Fault("SIGTERM of one node, a start 2 s later"),
    "stop": Fault("SIGSTOP of one node for 5 s"),
    "wipe": Fault("kill -9 of one node, a start on an empty disk 2 s later"),
    "gateway": Fault("kill -9 of one gateway, a start 2 s later", retry=True),
    "all": Fault("kill -9 of all nodes at once, and their start", retry=True),
    "mix": Fault("any of these", retry=True),
    "none": Fault("nothing at all, to compare with"),
}


class Faults:
    """Hits a RunningCluster. `note` gets a line about each step."""

    def __init__(self, cluster, kind, seed=1, note=print):
        self.cluster = cluster
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
        if kind == "mix":
            kind = self._random.choice([name for name in FAULTS if name not in ("mix", "none")])
        if kind == "none":
            return
        self.rounds += 1
        hit = self._victims(kind)
        self._say(f"{kind} {' '.join(hit)}")
        getattr(self, f"_{kind}")(hit)
        nodes = [id_ for id_ in hit if id_[0] != "g"]
        if nodes:
            self.cluster.wait_serving(*nodes)
            self._say(f"{' '.join(nodes)} SERVING")
        self.cluster.wait_ready()
        if kind == "all":
            self._say("gateways ready")

    def _victims(self, kind):
        if kind == "all":
            return self.cluster.node_ids()
        if kind == "gateway":
            return [self._random.choice(self.cluster.ids("gateways"))]
        services = (["profile", "aggregate"], ["profile"], ["aggregate"])[self._random.randrange(3)]
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


def check_replicas(cluster, load, note=print):
    """After the load has ended: all nodes serve, and all replicas hold the same number of events, that of the load."""
    cluster.assert_all_running()
    cluster.wait_serving()
    events = cluster.wait_equal()
    note(f"every replica holds {events}")
    fewest, most = load.events()
    for service, count in events.items():
        assert fewest <= count <= most, f"{service} replicas hold {count} events, acknowledged were {fewest} to {most}"


def run_short(cluster, kind, seconds, every_s=4, **options):
    """A test's form: load and faults for so many seconds, then every check."""
    with Load(cluster.http, **{**short(seconds), **retry_flags(kind), **options}) as load:
        end = time.monotonic() + seconds
        faults = Faults(cluster, kind)
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
        description="Breaks a cluster of its own under load, again and again, and compares every answer. Ends with 1 "
                    "where an answer was wrong, a request failed, or the replicas are not equal at the end.\n\n"
                    + "\n".join(f"  {name:<8} {fault.what}{'; the load retries' if fault.retry else ''}"
                                for name, fault in FAULTS.items()))
    parser.add_argument("--fault", choices=FAULTS, default="mix")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--every_s", type=float, default=15, help="from the start of one fault to that of the next")
    parser.add_argument("--rate", type=float, default=1000, help="tags a second")
    parser.add_argument("--seed", type=int, default=None, help="of the choice of nodes (default: some)")
    parser.add_argument("--retry", action="store_true", help="the load retries, whatever the fault")
    parser.add_argument("--load", action="append", default=[], metavar="FLAG", help="one more flag of allezon-load: --load=--cookies=5")
    parser.add_argument("--arg", action="append", default=[], metavar="WHO=FLAG", help="as of ./dev run")
    parser.add_argument("--keep", action="store_true", help="keep the folder with data and logs in any case")
    return parser.parse_args(argv)


def main(argv):
    options = parse_arguments(argv)
    seed = options.seed if options.seed is not None else random.randrange(1 << 30)
    extra_args = {}
    for pair in options.arg:
        who, _, value = pair.partition("=")
        extra_args.setdefault(who, []).append(value)
    flags = {"rate": options.rate, "timeout_ms": 200, "duration_s": options.minutes * 60, "final_check": True,
             "speedup": 4, **retry_flags("mix" if options.retry else options.fault)}
    for text in options.load:
        name, _, value = text.removeprefix("--").partition("=")
        flags[name] = value
    folder = pathlib.Path(tempfile.mkdtemp(prefix="allezon-faults-"))
    print(f"--fault {options.fault} --seed {seed}: {FAULTS[options.fault].what}; in {folder}", flush=True)
    cluster = RunningCluster(folder, gateways=2, extra_args=extra_args)
    wrong = []
    note = lambda line: print(line, flush=True)  # noqa: E731
    for sig in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, lambda *_: sys.exit(130))
    try:
        cluster.launch()
        with Load(cluster.http, stderr=(folder / "load.log").open("w"), **flags) as load:
            end = time.monotonic() + options.minutes * 60
            faults = Faults(cluster, options.fault, seed, note)
            faults.run(lambda: not load.running() or time.monotonic() > end - options.every_s / 2, options.every_s)
            load.wait(options.minutes * 60 + READY_TIMEOUT_S + 180)
            print(load.text, flush=True)
            for check in (load.assert_right, load.assert_no_failure, lambda: check_replicas(cluster, load, note)):
                try:
                    check()
                except AssertionError as error:
                    wrong.append((str(error).strip() or "?").splitlines()[-1])
    except AssertionError as error:
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
    print(f"OK: {faults.rounds} faults, no request failed, no answer was wrong, the replicas are equal")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
