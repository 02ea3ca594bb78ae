# SPDX-License-Identifier: Apache-2.0
"""Waits until its standard input closes, then kills what still runs of the cluster in argv[1]: the
test process may be killed (by a time limit, say) before it can stop its cluster."""

import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "local"))
from entries import find, load_entries  # noqa: E402

signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.stdin.buffer.read()
for entry in load_entries(pathlib.Path(sys.argv[1])):
    pid = find(entry)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
