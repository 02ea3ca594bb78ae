# SPDX-License-Identifier: Apache-2.0
"""Reads from an apiserver over a `kubectl proxy` on a Unix socket: a kubectl for each look would take
more of the machine than what is looked at."""

from __future__ import annotations

import http.client
import json
import pathlib
import socket
import subprocess
import tempfile
import time

from settings import ClusterError

START_TIMEOUT_S = 20
ANSWER_TIMEOUT_S = 20


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: pathlib.Path):
        super().__init__("localhost", timeout=ANSWER_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Apiserver:
    """`path`: the socket that a `kubectl proxy` listens at."""

    def __init__(self, path: pathlib.Path):
        self._path = path

    def get(self, what: str) -> dict:
        connection = _Connection(self._path)
        try:
            connection.request("GET", what)
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise ClusterError(f"the apiserver does not answer {what}: {error}") from None
        finally:
            connection.close()
        if answer.status != 200:
            raise ClusterError(f"the apiserver answers {what} with {answer.status}", text[:1000])
        return json.loads(text)

    def close(self) -> None:
        """Ends what was started for it."""


class OwnProxy(Apiserver):
    """Over a proxy of its own. `kubectl`: the command that reaches the cluster."""

    def __init__(self, kubectl: list[str]):
        self._folder = tempfile.TemporaryDirectory(prefix="allezon-apiserver-")
        path = pathlib.Path(self._folder.name) / "socket"
        super().__init__(path)
        self._process = subprocess.Popen(
            [*kubectl, "proxy", f"--unix-socket={path}"], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not path.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise ClusterError("kubectl proxy does not start")
            time.sleep(0.05)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()
        self._folder.cleanup()
