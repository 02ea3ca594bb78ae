# SPDX-License-Identifier: Apache-2.0
"""What came of the rehearsals: a line each while they run, and a table at the end."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess

from cluster import ROOT

COLUMNS = ("rehearsal", "through", "tags", "failed at {} ms", "wrong or lost", "p99.9 of a tag",
           "took", "held")


@dataclasses.dataclass
class Result:
    key: str
    way: str  # "": it has no traffic
    what: str
    tags: int = 0
    failed: int = 0
    wrong: int = 0
    p999_ms: float = 0.0
    seconds: float = 0.0
    notes: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)

    def add(self, report: dict) -> None:
        """A load's report (bench/load/report.cc)."""
        self.tags += report["tags_sent"]
        self.failed += report["failed"]
        self.wrong += report["wrong"]
        self.p999_ms = max(self.p999_ms, report["tags"]["latency_us"]["p99.9"] / 1000)

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def name(self) -> str:
        return f"{self.key} ({self.way})" if self.way else self.key

    def line(self) -> str:
        figures = ""
        if self.tags:
            figures = f"{self.tags:,} tags, {self.failed} failed, {self.wrong} wrong, "
        held = "held" if self.ok else "DID NOT HOLD"
        return f"{self.name}: {figures}{self.seconds:.0f} s: {held}"


def machine() -> str:
    lines = pathlib.Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    total_kib = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal"))
    return f"{os.cpu_count()} cores, {total_kib / 2**20:.0f} GiB"


def commit() -> str:
    def git(*arguments: str) -> str:
        command = ("git", "-C", str(ROOT), "-c", f"safe.directory={ROOT}", *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    changes = " and changes" if git("status", "--porcelain") else ""
    return git("rev-parse", "--short=12", "HEAD") + changes


def row(cells) -> str:
    return f"| {' | '.join(cells)} |"


def table(results: list[Result], timeout_ms: int, head: list[str]) -> str:
    """Markdown: what was run where, a row for each rehearsal, and what is to be said about each."""
    lines = [*head, "", row(COLUMNS).format(timeout_ms), row(["---"] * len(COLUMNS))]
    for result in results:
        figures = [f"{result.tags:,}", str(result.failed), str(result.wrong),
                   f"{result.p999_ms:.0f} ms"] if result.tags else [""] * 4
        lines.append(row([f"{result.key}. {result.what}", result.way, *figures,
                          f"{result.seconds:.0f} s", "yes" if result.ok else "**no**"]))
    lines.append("")
    for result in results:
        problems = [f"DID NOT HOLD: {problem}" for problem in result.problems]
        lines += [f"- {result.name}: {text.splitlines()[0]}" for text in [*result.notes, *problems]]
    return "\n".join(lines) + "\n"
