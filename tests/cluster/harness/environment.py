# SPDX-License-Identifier: Apache-2.0
"""What the test runner says about this run."""

import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "local"))

# The folder with the programs of the build under test.
BIN_DIR = pathlib.Path(os.environ.get("ALLEZON_BIN_DIR", ROOT / "build" / "release" / "bin"))
# Builds with a sanitizer run a shortened set: fewer rounds, smaller counts.
SHORT = os.environ.get("ALLEZON_TEST_SHORT", "") not in ("", "0")
# Time limits are multiplied by it; a sanitizer makes the programs several times slower.
TIME_SCALE = float(os.environ.get("ALLEZON_TEST_TIME_SCALE", "1"))


def scaled(seconds: float) -> float:
    return seconds * TIME_SCALE


def eventually(condition, timeout_s: float = 10.0, what: str = ""):
    """Waits until condition() is true and returns what it returned. An AssertionError in it counts
    as "not yet". Fails, with the last AssertionError or `what`, after timeout_s (scaled)."""
    deadline = time.monotonic() + scaled(timeout_s)
    while True:
        try:
            value = condition()
            if value:
                return value
            problem = what or f"{condition} was last {value!r}"
        except AssertionError as error:
            problem = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {scaled(timeout_s):.1f} s: {problem}")
        time.sleep(0.02)
