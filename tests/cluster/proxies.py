# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy in front of some nodes of a cluster, in a process of their own, which can be aimed elsewhere: an address that
leads to another node, as when a pod gets the address of one that has gone.

    with Proxies(["p0", "p1"]) as proxies:
        cluster = fresh_cluster(proxies=proxies)     # all reach these nodes over them
        proxies.turn("p0", cluster.entry("p2")["grpc"]); proxies.put_right("p0")

Run as a program it is that process: a line `id host:port` on its standard input aims a proxy, ends what goes over it, and
is answered by a line; it ends with its input."""

import asyncio
import pathlib
import socket
import subprocess
import sys

CONNECT_TIMEOUT_S = 2
# So much may wait for a receiver before its sender is read no further.
BUFFERED_BYTES_MAX = 1 << 20


class Proxies:
    """`fronts`: host:port of each, by id. Before aim() it ends every connection."""

    def __init__(self, ids, host="127.0.0.1"):
        self.ids = list(ids)
        self.host = host
        self.fronts = {}
        self._targets = {}
        self._process = None

    def __enter__(self):
        # Bound here, so that they are free and in this thread's network.
        sockets = {}
        for id_ in self.ids:
            listener = socket.create_server((self.host, 0), backlog=256)
            sockets[id_] = listener
            self.fronts[id_] = f"{self.host}:{listener.getsockname()[1]}"
        self._process = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__)), *(f"{id_}={s.fileno()}" for id_, s in sockets.items())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            pass_fds=[s.fileno() for s in sockets.values()])
        for listener in sockets.values():
            listener.close()
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()

    def aim(self, id_, address):
        """This is the node of that id; from now on its proxy leads there. What goes over it ends."""
        self._targets[id_] = address
        self._send(id_, address)

    def turn(self, id_, address):
        """The address of the node leads elsewhere. What goes over it ends."""
        self._send(id_, address)

    def put_right(self, id_):
        """And to the node again."""
        self._send(id_, self._targets[id_])

    def _send(self, id_, address):
        self._process.stdin.write(f"{id_} {address}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline().strip() == id_, "the proxies have ended"


# --- the process ----------------------------------------------------------------------------------


class End(asyncio.Protocol):
    """Of a connection over a front; what it reads goes to the end that it is joined with, or waits for that."""

    def __init__(self, front):
        self.front = front
        self.peer = None  # the transport of the other end
        self.transport = None
        self.unsent = []  # at most what comes within CONNECT_TIMEOUT_S before anything is answered

    def join(self, other):
        self.peer, other.peer = other.transport, self.transport
        for end in (self, other):
            end.peer.writelines(end.unsent)
            end.unsent = []

    def connection_made(self, transport):
        self.transport = transport
        transport.set_write_buffer_limits(high=BUFFERED_BYTES_MAX)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.front.ends.add(transport)

    def data_received(self, data):
        if self.peer is None:
            self.unsent.append(data)
        else:
            self.peer.write(data)

    def connection_lost(self, _):
        self.front.ends.discard(self.transport)
        if self.peer is not None:
            self.peer.close()

    # Of this end's writing: the other one is read no further.
    def pause_writing(self):
        self.peer.pause_reading()

    def resume_writing(self):
        self.peer.resume_reading()


class Inner(End):
    """The end to whoever called."""

    def connection_made(self, transport):
        super().connection_made(transport)
        self.opening = asyncio.ensure_future(self.front.connect(self))


class Front:
    def __init__(self):
        self.target = None
        self.ends = set()

    def aim(self, address):
        host, _, port = address.rpartition(":")
        self.target = host, int(port)
        for transport in list(self.ends):
            transport.abort()

    async def connect(self, inner):
        target = self.target
        try:
            if target is None:
                raise OSError("aimed nowhere yet")
            opening = asyncio.get_running_loop().create_connection(lambda: End(self), *target)
            transport, outer = await asyncio.wait_for(opening, CONNECT_TIMEOUT_S)
        except (OSError, asyncio.TimeoutError):
            inner.transport.abort()
            return
        if target != self.target or inner.transport.is_closing():
            transport.abort()
            inner.transport.abort()
            return
        inner.join(outer)


async def serve(arguments):
    loop = asyncio.get_running_loop()
    fronts = {}
    for argument in arguments:
        id_, _, fd = argument.partition("=")
        front = fronts[id_] = Front()
        await loop.create_server(lambda front=front: Inner(front), sock=socket.socket(fileno=int(fd)))
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        id_, address = line.decode().split()
        fronts[id_].aim(address)
        print(id_, flush=True)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1:]))
