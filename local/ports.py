# SPDX-License-Identifier: Apache-2.0
"""Addresses and ports of this machine."""

from __future__ import annotations

import errno
import pathlib
import random
import socket

from settings import ClusterError

TRIES_MAX = 2000


def split_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def can_bind(host: str, port: int) -> bool:
    # SO_REUSEADDR, so that connections of the last run in TIME_WAIT do not count; not SO_REUSEPORT,
    # so that a listener that would share its port does.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            return True
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise


def free_ports(host: str, count: int, taken: set[int]) -> list[int]:
    """Ports below the range that the kernel gives to outgoing connections, so that no connection
    sits on a port that a node wants back when it is restarted."""
    try:
        text = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
        end = max(int(text.split()[0]), 20000)
    except (OSError, ValueError):
        end = 32768
    ports: list[int] = []
    for _ in range(TRIES_MAX):
        if len(ports) == count:
            return ports
        port = random.randrange(10000, end)
        if port not in taken and port not in ports and can_bind(host, port):
            ports.append(port)
    raise ClusterError(f"no {count} free ports were found on {host}")
