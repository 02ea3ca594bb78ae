# SPDX-License-Identifier: Apache-2.0
"""A process that has no descriptors left.

    with NoDescriptors(pid, addresses):   # where connections to it shall wait meanwhile
        …

Only the soft limit is lowered: raising the hard one again is not for everybody. A process that starts anew raises its
soft limit itself."""

import contextlib
import os
import resource
import socket

WAITING = 3  # connections to each address


def lowest_free(pid):
    """The descriptor that the process would get next."""
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return next(number for number in range(len(used) + 1) if number not in used)


class NoDescriptors:
    def __init__(self, pid, addresses=()):
        self.pid = pid
        self.addresses = list(addresses)
        self.connections = []
        self._before = None

    def __enter__(self):
        self._before = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (lowest_free(self.pid), self._before[1]))
        for address in self.addresses:
            self.connections += [connect(address) for _ in range(WAITING)]
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):  # it may have ended
            resource.prlimit(self.pid, resource.RLIMIT_NOFILE, self._before)
        for connection in self.connections:
            connection.close()


def connect(address, timeout_s=10):
    """A plain connection to host:port. The kernel makes it, whether the process accepts it or not."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s)


def hears(connection, timeout_s):
    """Whether the other end says anything, as a gRPC server does at once; False where it has closed, too."""
    connection.settimeout(timeout_s)
    try:
        return bool(connection.recv(1))
    except OSError:
        return False
