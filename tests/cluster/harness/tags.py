# SPDX-License-Identifier: Apache-2.0
"""Tags and times that no other test uses: the tests of a file share a cluster."""

import datetime
import itertools

# Any day will do: the time of a tag is logical. Each call to fresh_minute takes the next half hour.
FIRST_MINUTE = 27_465_120  # 2022-03-22T12:00
MINUTES_APART = 30
_numbers = itertools.count()


def fresh_cookie(prefix: str = "cookie") -> str:
    return f"{prefix}-{next(_numbers)}"


def fresh_minute() -> int:
    """A minute (since 1970) such that it and the 29 after it are used by nobody else."""
    return FIRST_MINUTE + MINUTES_APART * next(_numbers)


def _utc(ms: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(ms // 1000, datetime.timezone.utc)


def tag_time(ms: int) -> str:
    """2022-03-22T12:15:00.000Z"""
    return f"{_utc(ms):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def query_time(ms: int) -> str:
    """2022-03-22T12:15:00.000"""
    return tag_time(ms)[:-1]


def minute_text(minute: int) -> str:
    """2022-03-22T12:15:00, as in a query of aggregates and in its rows."""
    return f"{_utc(minute * 60_000):%Y-%m-%dT%H:%M:%S}"


def time_range(from_ms: int, to_ms: int) -> str:
    return f"{query_time(from_ms)}_{query_time(to_ms)}"


def minute_range(from_minute: int, to_minute: int) -> str:
    return f"{minute_text(from_minute)}_{minute_text(to_minute)}"


def make_tag(cookie: str, time_ms: int, action: str = "VIEW", **fields) -> dict:
    """A complete, valid tag; `fields` replace those of the tag or of its product_info."""
    product = {"product_id": 7, "brand_id": "Nike", "category_id": "shoes", "price": 100}
    product.update({name: fields.pop(name) for name in list(fields) if name in product})
    tag = {"time": tag_time(time_ms), "cookie": cookie, "country": "PL", "device": "PC",
           "action": action, "origin": "campaign", "product_info": product}
    tag.update(fields)
    return tag
