# SPDX-License-Identifier: Apache-2.0
"""A thread of a test's own, beside what the test does."""

import threading


class Background:
    """Runs `_run` of a subclass from `with` on; that goes on until `_stopping` is set."""

    def __init__(self):
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Ends it; may be called again."""
        self._stopping.set()
        self._thread.join()

    def _run(self):
        raise NotImplementedError
