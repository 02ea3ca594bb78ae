# SPDX-License-Identifier: Apache-2.0
"""HTTP, well-formed by Http and as one likes by raw_http."""

import http.client
import json
import socket
import time
import urllib.parse

from harness.environment import scaled

RAW_BYTES_MAX = 64 << 20


class Response:
    """status, headers (names in any case), body (bytes)."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    def __repr__(self):
        return f"<{self.status} {self.body[:500]!r}>"

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self):
        assert (self.headers.get("Content-Type") or "").split(";")[0] == "application/json", self
        return json.loads(self.body)

    def problem(self, status: int, field: str = None) -> dict:
        """Asserts that this is a complete problem+json of that status (and field); returns it."""
        assert self.status == status, self
        content_type = (self.headers.get("Content-Type") or "").split(";")[0]
        assert content_type == "application/problem+json", (content_type, self)
        problem = json.loads(self.body)
        for name in ("type", "title", "status", "detail"):
            assert problem.get(name), f"no {name} in {problem}"
        assert problem["status"] == status, problem
        if field is not None:
            assert problem.get("field") == field, problem
        return problem


class Http:
    """A client with one kept-alive connection, which is opened again where the server closed it
    between two requests. Nothing is ever sent twice."""

    def __init__(self, host: str, port: int, timeout_s: float = 10.0):
        self.host, self.port, self.timeout_s = host, port, timeout_s
        self._connection = None
        self._last_used = 0.0

    def close(self):
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def request(self, method, target, body=None, headers=None) -> Response:
        """`target` goes out as it is: percent-encode it yourself. `body`: bytes, str, or anything
        else to be sent as JSON. OSError or http.client.HTTPException where no answer comes."""
        headers = dict(headers or {})
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body, ensure_ascii=False)
            headers.setdefault("Content-Type", "application/json")
        if isinstance(body, str):
            body = body.encode()
        if self._connection is not None and self._closed_by_server():
            self.close()
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self.host, self.port,
                                                          timeout=scaled(self.timeout_s))
        try:
            self._connection.request(method, target, body=body, headers=headers)
            answer = self._connection.getresponse()
            response = Response(answer.status, answer.headers, answer.read())
            if answer.will_close:
                self.close()
            return response
        except BaseException:
            self.close()
            raise

    def get(self, target, **kwargs) -> Response:
        return self.request("GET", target, **kwargs)

    def post(self, target, body=None, headers=None) -> Response:
        # An empty body still has a Content-Length, as every client's POST has.
        return self.request("POST", target, body=b"" if body is None else body, headers=headers)

    def _closed_by_server(self) -> bool:
        sock = self._connection.sock
        if sock is None:
            return True
        sock.setblocking(False)
        try:
            return sock.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            sock.settimeout(self._connection.timeout)

    # --- the three calls ---

    def tag(self, tag, key=None) -> Response:
        return self.post("/user_tags", tag, {"Idempotency-Key": key} if key else None)

    def batch(self, lines, key=None) -> Response:
        """`lines`: tags (dicts) or ready-made lines (str or bytes)."""
        body = b"\n".join(line if isinstance(line, bytes) else
                          (line if isinstance(line, str) else json.dumps(line)).encode()
                          for line in lines) + b"\n"
        headers = {"Content-Type": "application/x-ndjson"}
        if key:
            headers["Idempotency-Key"] = key
        return self.post("/user_tags", body, headers)

    def profile(self, cookie, time_range, limit=None, body=None) -> Response:
        query = {"time_range": time_range}
        if limit is not None:
            query["limit"] = limit
        return self.post(f"/user_profiles/{urllib.parse.quote(cookie, safe='')}?"
                         f"{urllib.parse.urlencode(query)}", body)

    def aggregates(self, time_range, action, aggregates=("COUNT", "SUM_PRICE"), body=None,
                   **filters) -> Response:
        query = [("time_range", time_range), ("action", action)]
        query += [("aggregates", aggregate) for aggregate in aggregates]
        query += list(filters.items())
        return self.post("/aggregates?" + urllib.parse.urlencode(query), body)


def raw_http(host, port, data, *, chunks_apart_s=0.0, half_close=False, timeout_s=5.0) -> bytes:
    """Sends bytes as they are and returns all that comes back until the server closes the
    connection or is silent for timeout_s (scaled). `data`: bytes, or a list of chunks that are sent
    chunks_apart_s apart. `half_close`: ends our side after the last byte. A reset by the server ends
    what is returned; a refused connection raises."""
    chunks = [data] if isinstance(data, bytes) else list(data)
    received = b""
    with socket.create_connection((host, port), timeout=scaled(timeout_s)) as connection:
        try:
            for i, chunk in enumerate(chunks):
                if i and chunks_apart_s:
                    time.sleep(chunks_apart_s)
                connection.sendall(chunk)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused half-way; what was said before the reset may still be readable
        try:
            while len(received) < RAW_BYTES_MAX:
                piece = connection.recv(65536)
                if not piece:
                    break
                received += piece
        except (TimeoutError, ConnectionResetError):
            pass
    return received


def raw_status(received: bytes) -> int:
    """The status of the first response in raw bytes; 0 where there is none."""
    parts = received.split(b"\r\n", 1)[0].split(b" ")
    return int(parts[1]) if len(parts) > 1 and parts[0].startswith(b"HTTP/") else 0
