# SPDX-License-Identifier: Apache-2.0
"""Entries of cluster.json, and the processes that they stand for."""

from __future__ import annotations

import json
import os
import pathlib
import signal
from typing import Optional

from settings import LISTS, SERVICES, ClusterError


def load_entries(folder: pathlib.Path) -> list[dict]:
    """The entries of DIR/cluster.json; none where there is no such file."""
    try:
        kept = json.loads((folder / "cluster.json").read_text())
        if missing := [name for name in SERVICES if name not in kept]:
            raise KeyError(missing[0])
        return [entry for name in LISTS for entry in kept.get(name, [])]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"{folder}/cluster.json cannot be read: {error}") from error


def runs(entry: dict, pid: Optional[int]) -> bool:
    """Whether `pid` is a process of this entry that has not ended."""
    if not pid:
        return False
    try:
        argv = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        # A zombie has no command line; one that its parent has not yet reaped counts as ended.
        return (argv == b"".join(os.fsencode(arg) + b"\0" for arg in entry["argv"])
                and os.readlink(f"/proc/{pid}/cwd") == entry["cwd"])
    except OSError:
        return False


def find(entry: dict) -> Optional[int]:
    """The pid of this entry's process, whoever started it; None where there is none."""
    if runs(entry, entry.get("pid")):
        return entry["pid"]
    for name in os.listdir("/proc"):
        if name.isdigit() and runs(entry, int(name)):
            return int(name)
    return None


def describe_exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
