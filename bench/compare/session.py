# SPDX-License-Identifier: Apache-2.0
"""A session: rounds of interleaved cases, each compared with H as it was just before and just after.

H is what cpp-httplib answers with 204 and without work, to the same client over as many connections. The speed of a
machine that others share drifts within minutes, so an H of half an hour ago would say nothing."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import tempfile
import time
import traceback
from typing import Callable, Optional

import measure
from processes import BenchError, free_ports, program, running

H_SECONDS_MAX = 3
H_CONNECTIONS_DEFAULT = 64


@dataclasses.dataclass
class Case:
    """`run(session)` returns a Measurement. It should reach `target` times H, `target_rate` a second, and the latencies of
    `target_ms` ({"p50": 2}), where they are given; `against` names cases and how many times faster than each of them it
    should be (None: it is only told). Cases of one `group` differ by `size` only: the table says with which power of it
    their figures grow. A quick run leaves out those that are not `quick`."""

    section: str
    name: str
    run: Callable
    connections: Optional[int] = H_CONNECTIONS_DEFAULT  # of H; None: it is not compared with H
    target: Optional[float] = None
    target_rate: Optional[float] = None
    target_ms: dict = dataclasses.field(default_factory=dict)
    against: dict = dataclasses.field(default_factory=dict)
    group: str = ""
    size: float = 0
    quick: bool = True


@dataclasses.dataclass
class Result:
    case: Case
    round: int
    h: float = 0  # of the same connections, about the same time
    measurement: Optional[measure.Measurement] = None
    error: str = ""

    @property
    def ratio(self):
        return self.measurement.rate / self.h

    @property
    def score(self):
        """What is compared with other cases."""
        return self.ratio if self.h else self.measurement.rate


class Session:
    """What the cases of one run share: how long they take, where they keep data, and H."""

    def __init__(self, *, seconds, data_dir, quick, note):
        self.seconds = seconds
        self.quick = quick
        self.note = note
        self.results = []
        self._parent = pathlib.Path(data_dir)

    def __enter__(self):
        refuse_memory(self._parent)
        with contextlib.ExitStack() as stack:
            self.data_dir = pathlib.Path(tempfile.mkdtemp(prefix="allezon-bench-", dir=self._parent))
            stack.callback(shutil.rmtree, self.data_dir, ignore_errors=True)
            # Others than this user may look in: PostgreSQL refuses to run as root.
            self.data_dir.chmod(0o755)
            self._h_port = free_ports(1)[0]
            self._h_server = stack.enter_context(
                running([program("allezon-bench-http204"), f"--port={self._h_port}"], self.data_dir / "http204.log"))
            self._h_server.wait_port(self._h_port)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception):
        return self._stack.__exit__(*exception)

    def run(self, cases, rounds):
        """The rounds of a section. What its cases share ends with it."""
        with contextlib.ExitStack() as self._section:
            self._shared, self._failed = {}, {}
            self._run_rounds(cases, rounds)

    def shared(self, opened):
        """The value of a context manager that `opened(session)` makes at the first call of a section. What fails once
        is not tried again, since it may take long."""
        if opened in self._failed:
            raise BenchError(f"{opened.__name__} failed before: {self._failed[opened]}")
        if opened not in self._shared:
            try:
                self._shared[opened] = self._section.enter_context(opened(self))
            except Exception as error:
                self._failed[opened] = error
                raise
        return self._shared[opened]

    def _run_rounds(self, cases, rounds):
        for number in range(1, rounds + 1):
            before = {}  # H by connections, as of the end of the last case
            for case in cases:
                self.note(f"round {number}/{rounds}  {case.section}: {case.name}")
                started = time.monotonic()
                try:
                    result, before = self._measure(case, number, before)
                    self.note(f"    {describe(result)}  [{time.monotonic() - started:.0f} s]")
                except Exception as error:  # whatever it is, the other cases go on
                    text = str(error) if isinstance(error, BenchError) else traceback.format_exc()
                    result, before = Result(case, number, error=text), {}
                    self.note(f"    FAILED: {text}")
                self.results.append(result)

    def _measure(self, case, number, before):
        """(result, H after it by connections); `before` is the latter of the case before."""
        if case.connections is None:
            return Result(case, number, measurement=case.run(self).check()), {}
        h = before.get(case.connections) or self.measure_h(case.connections).rate
        measurement = case.run(self).check()
        after = {case.connections: self.measure_h(case.connections).rate}
        return Result(case, number, (h + after[case.connections]) / 2, measurement), after

    def measure_h(self, connections, seconds=None):
        return measure.wrk(f"http://127.0.0.1:{self._h_port}", "tags.lua", tag_arguments(), connections=connections,
                           seconds=seconds or min(self.seconds, H_SECONDS_MAX), roles={"server": [self._h_server.pid]},
                           warm_up_s=0)

    @contextlib.contextmanager
    def folder(self, name):
        """For a case's own data."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.data_dir))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def tag_arguments(*more, start_s=None):
    """Of the scripts that make tags: the stream begins now unless it is said, and its seed is always the same."""
    return (int(start_s or time.time()), 1, *more)


def describe(result):
    m = result.measurement
    parts = [f"{m.rate:,.0f} {m.unit}/s" + (f" = {result.ratio:.2f} H" if result.h else "")]
    parts += [f"{name} {m.latency_ms[name]:.2f} ms" for name in ("p50", "p99") if name in m.latency_ms]
    if m.cpu_us:
        cpu = ", ".join(f"{role} {user:.1f}+{system:.1f}" for role, (user, system) in m.cpu_us.items())
        parts.append(f"CPU us each (user+system): {cpu}; {m.busy:.0%} busy, others {m.others:.0%}")
    if m.failed:
        parts.append(f"{m.failed} FAILED")
    return "; ".join([*parts, *(f"{value:.4g} {name}" for name, value in m.figures.items()), *m.notes])


def refuse_memory(folder):
    """A sync into memory costs nothing and says nothing."""
    best = ("", "")
    for line in pathlib.Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if os.path.commonpath([mount, folder.resolve()]) == mount and len(mount) >= len(best[0]):
            best = (mount, kind)
    if best[1] in ("tmpfs", "ramfs"):
        raise BenchError(f"{folder} is in memory ({best[1]}): name a folder on a disk with --data")
