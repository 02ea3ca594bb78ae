# SPDX-License-Identifier: Apache-2.0
"""allezon-load in the background of a fault: every answer compared with what was acknowledged."""

import json
import os
import pathlib
import signal
import subprocess
import tempfile

from running import BIN_DIR, SHORT, TIME_SCALE

# Past the end of the stream, the final check waits for the lags and asks for every cookie.
END_TIMEOUT_S = 120 * TIME_SCALE


class Load:
    """Runs from construction on; `options` are flags of allezon-load, over those of short().

    load = Load(cluster.http, duration_s=20)
    …
    load.stop()                # or waits until it ends by itself: load.wait()
    load.assert_right()        # no wrong answer; load.assert_no_failure() too
    """

    def __init__(self, targets, *, prefix=(), stderr=None, **options):
        self._folder = tempfile.TemporaryDirectory(prefix="allezon-load-")
        self._json = pathlib.Path(self._folder.name) / "report.json"
        flags = {"targets": ",".join(targets), "json": self._json, **options}
        self.argv = [*prefix, str(BIN_DIR / "allezon-load"), *(f"--{name}={flag(value)}" for name, value in flags.items())]
        # A group of its own: a Ctrl-C in the terminal ends the faults first, which then end this.
        self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=stderr or subprocess.DEVNULL, text=True, start_new_session=True,
                                        env={**os.environ})
        self.text = ""
        self.report = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.running():
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self._folder.cleanup()

    def running(self):
        return self.process.poll() is None

    def stop(self):
        """Ends the stream early; what was sent is still answered, and checked no further."""
        if self.running():
            self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self, timeout_s=END_TIMEOUT_S):
        """Returns its report (bench/load/report.cc, as JSON)."""
        if self.report is None:
            self.text, _ = self.process.communicate(timeout=timeout_s)
            assert self._json.exists() and self._json.stat().st_size, f"no report: {self.process.returncode}\n{self.text}"
            self.report = json.loads(self._json.read_text())
        return self.report

    def assert_right(self):
        """Answers were compared, and none was wrong."""
        report = self.wait()
        assert report["wrong"] == 0, self.text
        assert report["profiles"]["right"] + report["profiles"]["within_bounds"] > 0, f"no profile was asked\n{self.text}"
        assert report["aggregates"]["right"] + report["aggregates"]["within_bounds"] > 0, \
            f"no aggregate was asked\n{self.text}"

    def assert_no_failure(self):
        assert self.wait()["failed"] == 0, self.text

    def events(self):
        """(fewest, most) events that every replica of everything holds if nothing else was stored."""
        report = self.wait()
        return report["tags_acknowledged"], report["tags_acknowledged"] + report["tags_uncertain"]


def flag(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def short(seconds, **options):
    """Flags for runs of so many seconds, in which logical minutes and lags must be short. Sanitizer builds are
    too slow for time limits to mean much: there fewer tags, and only wrong answers count."""
    return {
        "rate": 100 if SHORT else 1000,
        # The 200 ms of the contract are for ./dev faults on a quiet machine: here a build may just have filled the disk's
        # queue, and what is tested is that nothing fails but by being slow.
        "timeout_ms": 5000 if SHORT else 2000,
        "duration_s": seconds,
        "cookies": 300 if SHORT else 3000,
        "profile_every": 5,
        "aggregate_every": 50 if SHORT else 300,
        # A replica that may lag 5 s behind what it vouches for answers nothing.
        "profile_lag_s": 6,
        "aggregate_lag_s": 6,
        "speedup": 300 if SHORT else 30,  # a logical minute in 2 s
        "final_check": True,
        "progress": False,
        **options,
    }
