# SPDX-License-Identifier: Apache-2.0
"""gateway/nginx before the gateways of the local cluster, in the network of its client: each node's
port leads to the gateways of that node, and nginx finds out by itself which of them serve."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
import time

from cluster import ROOT, ClusterError
from local_cluster import LocalCluster

sys.path.append(str(ROOT / "local"))
import nginx  # noqa: E402

PORT, PROFILE_PORT, AGGREGATE_PORT = 8080, 8081, 8082
START_TIMEOUT_S = 10
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1)"


class Nginx:
    """Runs within `with`; `address` is where it listens."""

    def __init__(self, where: LocalCluster):
        self._cluster = where
        self.address = f"{where.client_address}:{PORT}"
        self._folder = tempfile.TemporaryDirectory(prefix="allezon-rehearsal-nginx-")
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "Nginx":
        folder, address = pathlib.Path(self._folder.name), self._cluster.client_address
        entries = self._cluster.entries(self._cluster.nodes)
        # Nobody calls gRPC here; but the configuration is used whole, and wants to know of nodes.
        nginx.write(folder, http=self.address, grpc_profile=f"{address}:{PROFILE_PORT}",
                    grpc_aggregate=f"{address}:{AGGREGATE_PORT}", gateways=entries,
                    profiles=entries, aggregates=entries)
        log = folder / "nginx.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*self._cluster.client, *nginx.argv(folder)], stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = log.read_text(encoding="utf-8", errors="replace")
                self.__exit__()
                raise ClusterError("nginx does not listen", text)
            time.sleep(0.1)
        return self

    def _listens(self) -> bool:
        command = [*self._cluster.client, sys.executable, "-c", CONNECT, *self.address.split(":")]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def __exit__(self, *_) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(START_TIMEOUT_S)
        self._folder.cleanup()
