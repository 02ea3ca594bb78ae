# SPDX-License-Identifier: Apache-2.0
"""Gateways that a test tells what to do, and an nginx before them."""

import contextlib
import dataclasses
import pathlib
import socket
import subprocess
import threading

import nginx
from ports import free_ports, split_address
from running import STOP_TIMEOUT_S, TIME_SCALE, wait_until

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nfine"
KEPT_IDLE_S = 60 * TIME_SCALE


@dataclasses.dataclass
class Request:
    method: str
    target: str
    headers: dict
    body: bytes
    turn: int  # 0: the first one on its connection


class FakeGateway:
    """Reads requests and does with each one what `act` says: answers it with these bytes, and ends the connection where
    they are no whole head; or, where it is None, ends it without a word; or, where it is "hang", never answers. `requests`
    keeps what has arrived whole."""

    def __init__(self, port):
        self.address = f"127.0.0.1:{port}"
        self.act = ANSWER
        self.requests = []
        self._listener = None
        self._open = set()
        self._lock = threading.Lock()
        self._threads = []

    def start(self):
        self._listener = socket.create_server(split_address(self.address), backlog=128)
        self._begin(self._accept, self._listener)

    def stop(self):
        """As if it was killed: connections end, and new ones are refused."""
        if self._listener is None:
            return
        # Wakes up who accepts; a listener that another thread waits at stays open on close alone.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._listener = None
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(STOP_TIMEOUT_S)
        self._threads = []

    def _begin(self, target, *arguments):
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # stopped
                return
            with self._lock:
                self._open.add(connection)
            self._begin(self._serve, connection)

    def _serve(self, connection):
        with connection, connection.makefile("rb") as reader:
            connection.settimeout(KEPT_IDLE_S)
            with contextlib.suppress(OSError):
                turn = 0
                while (request := self._read(reader, turn)) is not None and self._handle(connection, request):
                    turn += 1
        with self._lock:
            self._open.discard(connection)

    def _handle(self, connection, request):
        with self._lock:
            self.requests.append(request)
            act = self.act
        if act == "hang":
            connection.recv(1)  # until the other side, or stop(), ends it
            return False
        if act is None:
            return False
        connection.sendall(act)
        return b"\r\n\r\n" in act and request.headers.get("connection") != "close"

    @staticmethod
    def _read(reader, turn):
        line = reader.readline().split()
        if not line:
            return None
        headers = {}
        while (header := reader.readline().strip()):
            name, _, value = header.decode().partition(":")
            headers[name.lower()] = value.strip()
        size = int(headers.get("content-length", 0))
        body = reader.read(size)
        return Request(line[0].decode(), line[1].decode(), headers, body, turn) if len(body) == size else None


@contextlib.contextmanager
def silent_address():
    """host:port where connections are neither made nor refused, as of a machine that is gone."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        # The kernel takes as many as wait to be accepted, and drops what comes then.
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        with socket.socket() as probe:
            probe.settimeout(0.2)
            try:
                probe.connect(address)
            except TimeoutError:
                pass
            else:
                raise AssertionError("the kernel still makes connections")
        yield f"{address[0]}:{address[1]}"


@contextlib.contextmanager
def nginx_alone(folder, gateways, **parts):
    """An nginx as ./dev run --nginx starts it, before these addresses; gives its host:port. `parts` are contents of files of
    its folder allezon/, by their names without .conf."""
    ports = free_ports("127.0.0.1", 5, {split_address(address)[1] for address in gateways})
    http, *others = (f"127.0.0.1:{port}" for port in ports)
    folder = pathlib.Path(folder).resolve()
    nginx.write(folder, http=http, grpc_profile=others[0], grpc_aggregate=others[1], gateways=gateways,
                profiles=[others[2]], aggregates=[others[3]])
    for name, text in parts.items():
        (folder / "allezon" / f"{name}.conf").write_text(text)
    log = folder / "log"
    with log.open("wb") as out, subprocess.Popen(nginx.argv(folder), stdin=subprocess.DEVNULL, stdout=out, stderr=out) as process:
        try:
            wait_until(lambda: process.poll() is not None or listens(http), STOP_TIMEOUT_S, "nginx does not listen")
            assert process.poll() is None, log.read_text()
            yield http
        finally:
            process.terminate()
            assert process.wait(STOP_TIMEOUT_S) == 0, log.read_text()


def listens(address):
    try:
        socket.create_connection(split_address(address), 1).close()
        return True
    except OSError:
        return False
