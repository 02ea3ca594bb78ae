# SPDX-License-Identifier: Apache-2.0
"""One measurement: a client under way, and what it and the processes that it calls take meanwhile."""

import collections
import dataclasses
import json
import pathlib
import tempfile

from processes import BenchError, CpuMeter, program, run_client

WRK_DIR = pathlib.Path(__file__).with_name("wrk")
WARM_UP_S = 1
# Past the end of its run, what a client may take to begin and to end.
CLIENT_GRACE_S = 30
# A run of which more than this share failed measures nothing.
FAILED_SHARE_MAX = 0.01
# A schedule ends with some tags due; more of them mean that it was not kept.
NOT_SENT_SHARE_MAX = 0.01
# Answers that ask the client to come back later.
REFUSED = (429, 503)


@dataclasses.dataclass
class Measurement:
    """`count` things (tags, requests, calls; `unit`) that were done in `seconds`."""

    unit: str
    count: int
    seconds: float
    failed: int = 0
    latency_ms: dict = dataclasses.field(default_factory=dict)  # "p50": 0.8
    cpu_us: dict = dataclasses.field(default_factory=dict)  # by role: (user, system) of one unit
    busy: float = 0  # share of all cores that were busy
    others: float = 0  # and that were busy with what is none of the roles: the kernel's own threads, or a disturbance
    notes: list = dataclasses.field(default_factory=list)
    figures: dict = dataclasses.field(default_factory=dict)  # others, by name

    @property
    def rate(self):
        return self.count / self.seconds

    def check(self):
        if self.count == 0 or self.failed > FAILED_SHARE_MAX * (self.count + self.failed):
            raise BenchError(f"{self.failed} {self.unit} failed, {self.count} did not; {'; '.join(self.notes)}")
        return self


def measure(client, roles, unit):
    """`client()` returns (count, seconds, failed, latency_ms, its CPU seconds)."""
    meter = CpuMeter(roles)
    count, seconds, failed, latency_ms, client_cpu = client()
    cpu, machine_s, had_s = meter.stop()
    cpu["client"] = client_cpu
    known_s = sum(sum(of_role) for of_role in cpu.values())
    each = 1e6 / max(count, 1)
    return Measurement(unit, count, seconds, failed, latency_ms,
                       {role: (user * each, system * each) for role, (user, system) in cpu.items()},
                       machine_s / had_s, max(0, machine_s - known_s) / had_s)


def wrk(url, script, args=(), *, connections, seconds, roles, unit="requests", per_request=1, warm_up_s=WARM_UP_S):
    """wrk with one thread on `url`; `script` is one of wrk/, and so are its `args`."""
    if warm_up_s:
        run_wrk(url, script, args, connections, warm_up_s)

    def client():
        report, cpu = run_wrk(url, script, args, connections, seconds)
        failed = sum(report["errors"].values())
        answered = report["requests"] - report["errors"]["status"]
        latency_ms = {name: us / 1000 for name, us in report["latency_us"].items()}
        return answered * per_request, report["duration_us"] / 1e6, failed * per_request, latency_ms, cpu

    return measure(client, roles, unit)


def run_wrk(url, script, args, connections, seconds):
    argv = ["wrk", "-t", 1, "-c", connections, "-d", f"{seconds}s", "--timeout", "10s", "-s", WRK_DIR / script, url,
            "--", *args]
    text, cpu = run_client(argv, timeout_s=seconds + CLIENT_GRACE_S, env={"ALLEZON_WRK_DIR": str(WRK_DIR)})
    try:
        return json.loads(text.splitlines()[-1]), cpu
    except (ValueError, IndexError) as error:
        raise BenchError(f"wrk printed no report:\n{text}") from error


def bench_client(argv, *, seconds, roles, unit="tags"):
    """One of bench/programs/, which prints its report as JSON."""

    def client():
        text, cpu = run_client(argv, timeout_s=seconds + CLIENT_GRACE_S)
        report = json.loads(text.splitlines()[-1])
        latency_ms = {name: us / 1000 for name, us in report["latency_us"].items()}
        return report["tags"], report["seconds"], report["failed"], latency_ms, cpu

    return measure(client, roles, unit)


def load(addresses, *, seconds, roles, may_refuse=False, **options):
    """allezon-load: an open loop where `rate` is not 0, and every answer is compared. A wrong one fails the run.
    `may_refuse`: an answer that asks to come back later is no failure, and the schedule need not be kept."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "report.json"
        flags = {"targets": addresses, "duration_s": seconds, "start": "now", "cookies": 1_000_000, "odd": "false",
                 "timeout_ms": 5000, "profile_every": 100, "profile_lag_s": 6, "aggregate_every": 0,
                 "allow_failures": "true", "progress": "false", "json": path, **options}

        def client():
            _, cpu = run_client([program("allezon-load"), *(f"--{name}={value}" for name, value in flags.items())],
                                timeout_s=seconds + CLIENT_GRACE_S)
            report = json.loads(path.read_text())
            latency_ms = {name: us / 1000 for name, us in report["tags"]["latency_us"].items()}
            reports.append(report)
            failed = report["failed"] - (refused(report) if may_refuse else 0)
            return report["tags_acknowledged"], report["stream_s"], failed, latency_ms, cpu

        def refused(report):
            return sum(failures(report).get(f"status {status}", 0) for status in REFUSED)

        def failures(report):
            return sum((collections.Counter(report[kind]["failures"]) for kind in ("tags", "profiles")), collections.Counter())

        reports = []
        result = measure(client, roles, "tags")
        if result.failed:
            result.notes += [f"{count}: {reason}" for reason, count in failures(reports[0]).items()]
        not_sent = reports[0]["tags_not_sent"]
        if may_refuse:
            result.figures |= {"requests refused a second": refused(reports[0]) / result.seconds,
                               "tags of the schedule not sent a second": not_sent / result.seconds}
        elif not_sent > NOT_SENT_SHARE_MAX * result.count:
            result.notes.append(f"{not_sent} tags of the schedule were not sent")
        return result
