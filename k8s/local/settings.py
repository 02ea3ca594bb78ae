# SPDX-License-Identifier: Apache-2.0
"""Names, addresses and folders of the local Kubernetes cluster."""

from __future__ import annotations

import dataclasses
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "build/kubernetes"
# Sockets have short names.
RUN = pathlib.Path("/run/allezon-kubernetes")

PREFIX = "allezon-k8s-"  # of network namespaces
CONTROL = PREFIX + "control"
CLIENT = PREFIX + "client"
CONTROL_ADDRESS = "10.77.0.1"
CLIENT_ADDRESS = "10.77.0.200"
API_PORT = 6443
SERVICE_RANGE = "10.96.0.0/16"
NODES_MAX = 9
VOLUMES = 8  # of each node
NODE_PORT = 30080
CGROUP_PREFIX = "allezon-k8s-"


class ClusterError(Exception):
    """Something a user can act on; the second argument, where there is one, says how."""


@dataclasses.dataclass(frozen=True)
class Node:
    number: int  # from 1

    @property
    def name(self) -> str:
        return f"n{self.number}"

    @property
    def namespace(self) -> str:
        return PREFIX + self.name

    @property
    def address(self) -> str:
        return f"10.77.0.{10 + self.number}"

    @property
    def pods(self) -> str:
        return f"10.88.{self.number}.0/24"

    @property
    def folder(self) -> pathlib.Path:
        return WORK / self.name

    @property
    def containerd_socket(self) -> pathlib.Path:
        return RUN / f"{self.name}.sock"

    @property
    def cgroup(self) -> str:
        return CGROUP_PREFIX + self.name


def say(line: str) -> None:
    print(f"\033[1m== {line}\033[0m", flush=True)
