# SPDX-License-Identifier: Apache-2.0
"""A client of the outer surface as plain as can be: it sends exactly what a test says and hides nothing."""

import http.client
import itertools
import json
import random
import urllib.parse
import uuid
from dataclasses import dataclass

MINUTE_MS = 60_000


@dataclass
class Response:
    status: int
    headers: dict
    body: bytes

    def json(self):
        return json.loads(self.body)

    def problem(self):
        """The body of an error, checked to be one."""
        assert self.headers["content-type"].startswith("application/problem+json"), self
        body = self.json()
        assert body["status"] == self.status, body
        assert body["title"] and body["type"] and body["detail"], body
        return body


class Gateway:
    def __init__(self, address, timeout_s=20):
        self.host, port = address.rsplit(":", 1)
        self.port = int(port)
        self.timeout_s = timeout_s

    def request(self, method, target, body=None, headers=None):
        """One request on a connection of its own; `target` goes onto the wire as it is."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout_s)
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            if isinstance(body, str):
                body = body.encode()
            headers = dict(headers or {})
            if body is not None:
                headers.setdefault("Content-Length", str(len(body)))
            elif method == "POST":
                headers.setdefault("Content-Length", "0")
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            lowered = {name.lower(): value for name, value in response.getheaders()}
            return Response(response.status, lowered, response.read())
        finally:
            connection.close()

    def post_tag(self, tag, **headers):
        body = tag if isinstance(tag, (str, bytes)) else json.dumps(tag)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers.setdefault("Content-Type", "application/json")
        return self.request("POST", "/user_tags", body, headers)

    def store(self, tag, **headers):
        response = self.post_tag(tag, **headers)
        assert response.status == 204, response
        assert response.body == b""

    def store_batch(self, tags, **headers):
        response = self.post_batch("\n".join(json.dumps(tag) for tag in tags), **headers)
        assert response.status == 200, response
        assert response.json() == {"accepted": len(tags), "rejected": []}

    def post_batch(self, body, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("POST", "/user_tags", body,
                            {"Content-Type": "application/x-ndjson", **headers})

    def profile(self, cookie, time_range="1970-01-01T00:00:00_2100-01-01T00:00:00", **params):
        query = urllib.parse.urlencode({"time_range": time_range, **params})
        response = self.request("POST", f"/user_profiles/{urllib.parse.quote(cookie, safe='')}?{query}")
        assert response.status == 200, response
        return response.json()

    def aggregates(self, query):
        response = self.request("POST", f"/aggregates?{query}")
        assert response.status == 200, response
        return response.json()


_counter = itertools.count()
_random = random.Random(uuid.uuid4().int)


def unique(prefix="c"):
    """A name that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}-{next(_counter)}"


def unique_minute():
    """A minute between 1990 and 2019 that no other test is likely to use (milliseconds)."""
    return _random.randrange(631_152_000, 1_577_836_800 - 3600) // 60 * MINUTE_MS


def time_text(ms, zone="Z"):
    """2022-03-22T12:15:00.000Z; without Z for queries."""
    days, rest = divmod(ms, 86_400_000)
    hours, rest = divmod(rest, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    seconds, millis = divmod(rest, 1000)
    import datetime
    date = datetime.date(1970, 1, 1) + datetime.timedelta(days=days)
    return f"{date.isoformat()}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}{zone}"


def bucket_text(ms):
    return time_text(ms, "")[:-4]


def make_tag(cookie=None, ms=None, **overrides):
    product = {"product_id": 7, "brand_id": "Nike", "category_id": "shoes", "price": 1299}
    product.update({k: overrides.pop(k) for k in list(overrides) if k in product})
    tag = {
        "time": time_text(ms if ms is not None else unique_minute()),
        "cookie": unique() if cookie is None else cookie,
        "country": "PL",
        "device": "PC",
        "action": "VIEW",
        "origin": "campaign",
        "product_info": product,
    }
    tag.update(overrides)
    return tag
