# SPDX-License-Identifier: Apache-2.0
"""What a rehearsal acts on: the cluster, and the traffic that goes on meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Callable

import traffic
from cluster import GATEWAY, SELECTOR, Cluster, ClusterError
from record import Result

SERVICE, NGINX = "service", "nginx"
WAYS = (SERVICE, NGINX)
SETTLE_S = 5  # of undisturbed traffic before and after


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    what: str
    act: Callable[["Stage"], None]
    # Of the chart, by their paths, over those of all rehearsals.
    values: dict[str, object] = dataclasses.field(default_factory=dict)
    needs: tuple[str, ...] = ()  # of what a cluster offers
    # Flags of the traffic that goes on from beginning to end; None: it makes traffic of its own.
    load: dict[str, object] | None = dataclasses.field(default_factory=dict)
    ways: tuple[str, ...] = WAYS
    # Where the traffic that does not go through nginx enters; None: at the Service's address.
    enters: Callable[[Cluster], list[str]] | None = None
    installed: bool = True  # before it begins


@dataclasses.dataclass(frozen=True)
class Options:
    """Of the command line."""

    minutes: float  # of memory at the limit
    timeout_ms: int
    up_s: float  # how long the cluster took to start; 0: it ran already


class Stage:
    """A problem that `check` finds is written down, and the rehearsal goes on; a ClusterError ends
    it."""

    def __init__(self, where: Cluster, rehearsal: Rehearsal, way: str, result: Result,
                 options: Options):
        self.cluster, self.rehearsal, self.way = where, rehearsal, way
        self.result, self.options = result, options
        self._stack = contextlib.ExitStack()
        self._cleanups: list[Callable[[], None]] = []
        self._nginx = ""
        self._began = time.monotonic()

    def __enter__(self) -> "Stage":
        if self.way == NGINX:
            import nginx_before  # only the local cluster has it
            self._nginx = self._stack.enter_context(nginx_before.Nginx(self.cluster)).address
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()
        for action in self._cleanups:
            action()

    def cleanup(self, action: Callable[[], None]) -> None:
        """Is done when traffic and all have ended, whatever came of them."""
        self._cleanups.append(action)

    # --- what is said ---

    def say(self, text: str) -> None:
        print(f"  {time.monotonic() - self._began:6.1f} s  {text}", flush=True)

    def note(self, text: str) -> None:
        """Says it, and writes it down."""
        self.say(text)
        self.result.notes.append(text)

    def check(self, holds: bool, problem: str) -> None:
        if not holds:
            self.say(f"DOES NOT HOLD: {problem}")
            self.result.problems.append(problem)

    # --- traffic ---

    def targets(self) -> list[str]:
        if self._nginx:
            return [self._nginx]
        if self.rehearsal.enters is not None:
            return self.rehearsal.enters(self.cluster)
        return [service_address(self.cluster)]

    def load(self, **flags) -> traffic.Load:
        """Traffic the way of this rehearsal; whoever starts it ends it by `end_load`."""
        flags = {"timeout_ms": self.options.timeout_ms, **flags}
        if self.way == NGINX:
            flags["idempotency_keys"] = True
        if self.cluster.local:
            load = traffic.ClientLoad(self.cluster.client, self.targets(), **flags)
        else:
            load = traffic.PodLoad(self.cluster, self.targets(), **flags)
        self._stack.callback(load.kill)
        return load

    def end_load(self, load: traffic.Load) -> dict:
        report = load.finish()
        self.result.add(report)
        found = traffic.problems(report)
        for problem in found:
            self.check(False, problem)
        if found:
            print(load.text(), flush=True)
        return report


def service_address(where: Cluster) -> str:
    """Of the gateways' Service; by number, since those outside do not know its name."""
    (service,) = where.items("services", f"{SELECTOR},app.kubernetes.io/component={GATEWAY}")
    return f"{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"


def perform(where: Cluster, key: str, rehearsal: Rehearsal, way: str, options: Options) -> Result:
    """Installs, starts the traffic, acts, ends the traffic; whatever happens, there is a result."""
    result = Result(key, way, rehearsal.what)
    print(f"\033[1m== {result.name}: {rehearsal.what}\033[0m", flush=True)
    begun = time.monotonic()
    with written_down(result):
        if rehearsal.installed:
            where.install(rehearsal.values)
            where.wait_ready()
        begun = time.monotonic()
        with Stage(where, rehearsal, way, result, options) as stage:
            load = None if rehearsal.load is None else stage.load(**rehearsal.load)
            time.sleep(SETTLE_S if load else 0)
            with written_down(result):
                rehearsal.act(stage)
            if load:
                time.sleep(SETTLE_S)
                stage.end_load(load)
    result.seconds = time.monotonic() - begun
    print(result.line(), flush=True)
    return result


@contextlib.contextmanager
def written_down(result: Result):
    """An error within ends what is within, and is a problem of the result."""
    try:
        yield
    except ClusterError as error:
        result.problems.append(str(error.args[0]))
        print("\n".join(map(str, error.args)), flush=True)
