# SPDX-License-Identifier: Apache-2.0
"""/aggregates: one row a minute, exact, whatever is asked for."""

import itertools
import json
import random

import pytest

from api import MINUTE_MS, bucket_text, make_tag, unique, unique_minute


def range_of(start, minutes):
    return f"time_range={bucket_text(start)}_{bucket_text(start + minutes * MINUTE_MS)}"


def test_the_shape_of_the_answer(gateway):
    start, brand = unique_minute(), unique("brand")
    for price in (100, 200, 700):
        gateway.store(make_tag(ms=start + 5 * MINUTE_MS, brand_id=brand, price=price, action="BUY"))
    answer = gateway.aggregates(range_of(start + 5 * MINUTE_MS, 2)
                                + f"&action=BUY&brand_id={brand}&aggregates=SUM_PRICE&aggregates=COUNT")
    assert answer == {
        "columns": ["1m_bucket", "action", "brand_id", "sum_price", "count"],
        "rows": [[bucket_text(start + 5 * MINUTE_MS), "BUY", brand, "1000", "3"],
                 [bucket_text(start + 6 * MINUTE_MS), "BUY", brand, "0", "0"]],
    }


def test_every_filter_and_aggregate_against_a_count_by_hand(gateway):
    start = unique_minute()
    rng = random.Random(11)
    names = {f: [unique(f) for _ in range(3)] for f in ("origin", "brand_id", "category_id")}
    tags = []
    for _ in range(600):
        minute = rng.randrange(10)
        tags.append((minute, make_tag(
            unique(), start + minute * MINUTE_MS + rng.randrange(MINUTE_MS),
            action=rng.choice(["VIEW", "BUY"]), price=rng.randrange(-1000, 2**31 - 1),
            **{f: rng.choice(v) for f, v in names.items()})))
    gateway.store_batch([t for _, t in tags])
    for fields in itertools.chain.from_iterable(
            itertools.combinations(names, n) for n in range(4)):
        chosen = {f: rng.choice(names[f]) for f in fields}
        for action, aggregates in itertools.product(
                ("VIEW", "BUY"), (["COUNT"], ["SUM_PRICE"], ["COUNT", "SUM_PRICE"], ["SUM_PRICE", "COUNT"])):
            query = range_of(start, 10) + f"&action={action}" + "".join(
                f"&aggregates={a}" for a in aggregates) + "".join(
                f"&{f}={v}" for f, v in chosen.items())
            answer = gateway.aggregates(query)
            assert answer["columns"] == ["1m_bucket", "action", *fields, *[a.lower() for a in aggregates]]
            assert len(answer["rows"]) == 10
            for minute, row in enumerate(answer["rows"]):
                matching = [t["product_info"]["price"] for m, t in tags
                            if m == minute and t["action"] == action
                            and all((t.get(f) or t["product_info"].get(f)) == v for f, v in chosen.items())]
                values = {"COUNT": str(len(matching)), "SUM_PRICE": str(sum(matching))}
                assert row == [bucket_text(start + minute * MINUTE_MS), action, *chosen.values(),
                               *[values[a] for a in aggregates]]


def test_minutes_where_nothing_happened_are_rows_of_zeros(gateway):
    start = unique_minute()
    answer = gateway.aggregates(range_of(start, 10) + "&action=VIEW&aggregates=COUNT&origin=" + unique())
    assert [row[-1] for row in answer["rows"]] == ["0"] * 10


def test_an_empty_range_has_columns_and_no_rows(gateway):
    start = unique_minute()
    answer = gateway.aggregates(range_of(start, 0) + "&action=VIEW&aggregates=COUNT")
    assert answer == {"columns": ["1m_bucket", "action", "count"], "rows": []}


def test_columns_keep_their_order_whatever_the_query_s_order(gateway):
    start = unique_minute()
    answer = gateway.aggregates("category_id=c&aggregates=COUNT&brand_id=b&action=BUY&origin=o&aggregates=SUM_PRICE&"
                                + range_of(start, 1))
    assert answer["columns"] == ["1m_bucket", "action", "origin", "brand_id", "category_id", "count", "sum_price"]


def test_an_empty_value_matches_tags_whose_value_is_empty(gateway):
    start, brand = unique_minute(), unique("brand")
    gateway.store(make_tag(ms=start, origin="", brand_id=brand))
    gateway.store(make_tag(ms=start, origin="x", brand_id=brand))
    base = range_of(start, 1) + f"&action=VIEW&aggregates=COUNT&brand_id={brand}"
    assert gateway.aggregates(base + "&origin=")["rows"][0] == [bucket_text(start), "VIEW", "", brand, "1"]
    assert gateway.aggregates(base)["rows"][0] == [bucket_text(start), "VIEW", brand, "2"]


@pytest.mark.parametrize("origin, encoded", [
    ("a=b", "a=b"), ("a=b", "a%3Db"), ("a+b", "a%2Bb"), ("a b", "a+b"), ("a b", "a%20b"), ("a&b", "a%26b"),
    ("zażółć", "za%C5%BC%C3%B3%C5%82%C4%87"), ("null", "null"), ('"', "%22"), ("a:b", "a%3Ab"), ("a?b", "a%3Fb"),
])
def test_filter_values_are_decoded(gateway, origin, encoded):
    start, brand = unique_minute(), unique("brand")
    gateway.store(make_tag(ms=start, origin=origin, brand_id=brand))
    answer = gateway.aggregates(range_of(start, 1)
                                + f"&action=VIEW&aggregates=COUNT&brand_id={brand}&origin={encoded}")
    assert answer["rows"] == [[bucket_text(start), "VIEW", origin, brand, "1"]]


@pytest.mark.parametrize("aggregates, columns", [
    ("aggregates=count", ["count"]),
    ("aggregates=Sum_Price", None),
    ("aggregates[]=COUNT&aggregates[]=SUM_PRICE", ["count", "sum_price"]),
    ("aggregates%5B%5D=SUM_PRICE&aggregates%5B%5D=COUNT", ["sum_price", "count"]),
    ("aggregates=COUNT,SUM_PRICE", ["count", "sum_price"]),
    ("aggregates=sum_price%2Ccount", ["sum_price", "count"]),
])
def test_habits_of_asking_for_aggregates(gateway, aggregates, columns):
    response = gateway.request("POST", f"/aggregates?{range_of(unique_minute(), 1)}&action=VIEW&{aggregates}")
    if columns is None:
        assert response.status in (200, 400)
        return
    assert response.status == 200, response
    assert response.json()["columns"] == ["1m_bucket", "action", *columns]


MINUTE = range_of(1_646_092_800_000, 1)


@pytest.mark.parametrize("query, field", [
    ("", "time_range"),
    (f"{MINUTE}&aggregates=COUNT", "action"),
    (f"{MINUTE}&action=VIEW", "aggregates"),
    (f"{MINUTE}&action=VIEW&aggregates=", "aggregates"),
    (f"{MINUTE}&action=VIEW&aggregates=AVG", "aggregates"),
    (f"{MINUTE}&action=VIEW&aggregates=COUNT,", "aggregates"),
    (f"{MINUTE}&action=VIEW&aggregates=COUNT&aggregates=count", "aggregates"),
    (f"{MINUTE}&action=VIEW&aggregates=COUNT,COUNT", "aggregates"),
    (f"{MINUTE}&action=view&aggregates=COUNT", "action"),
    (f"{MINUTE}&action=CLICK&aggregates=COUNT", "action"),
    (f"{MINUTE}&action=VIEW&action=BUY&aggregates=COUNT", "action"),
    (f"{MINUTE}&action=VIEW&aggregates=COUNT&origin=a&origin=b", "origin"),
    (f"{MINUTE}&action=VIEW&aggregates=COUNT&origin=%ff", "origin"),
    (f"{MINUTE}&{MINUTE}&action=VIEW&aggregates=COUNT", "time_range"),
    ("time_range=2022-03-01T00:00:30_2022-03-01T00:01:00&action=VIEW&aggregates=COUNT", "time_range"),
    ("time_range=2022-03-01T00:00:00_2022-03-01T00:01:01&action=VIEW&aggregates=COUNT", "time_range"),
    ("time_range=2022-03-01T00:00:00.001_2022-03-01T00:01:00&action=VIEW&aggregates=COUNT", "time_range"),
    ("time_range=2022-03-01T00:01:00_2022-03-01T00:00:00&action=VIEW&aggregates=COUNT", "time_range"),
    ("time_range=2022-03-01T00:00:00_2022-03-01T00:11:00&action=VIEW&aggregates=COUNT", "time_range"),
    ("time_range=2022-03-01T00:00_2022-03-01T00:01&action=VIEW&aggregates=COUNT", "time_range"),
    ("time_range=2022-03-01T00:00:00Z_2022-03-01T00:01:00Z&action=VIEW&aggregates=COUNT", "time_range"),
])
def test_a_bad_query_is_refused_by_name(gateway, query, field):
    response = gateway.request("POST", f"/aggregates?{query}")
    assert response.status == 400, response
    assert response.problem()["field"] == field


def test_milliseconds_of_zero_are_accepted(gateway):
    answer = gateway.aggregates("time_range=2022-03-01T00:00:00.000_2022-03-01T00:01:00.000"
                                f"&action=VIEW&aggregates=COUNT&origin={unique()}")
    assert answer["rows"][0][0] == "2022-03-01T00:00:00"


def test_get_and_a_debug_body_give_the_same(gateway):
    start, origin = unique_minute(), unique("o")
    gateway.store(make_tag(ms=start, origin=origin))
    target = f"/aggregates?{range_of(start, 2)}&action=VIEW&aggregates=COUNT&origin={origin}"
    plain = gateway.request("GET", target)
    assert plain.status == 200
    assert [r[-1] for r in plain.json()["rows"]] == ["1", "0"]
    for body in (json.dumps(plain.json()), "[1, 2", "{}"):
        assert gateway.request("POST", target, body).json() == plain.json()


def test_tags_of_a_minute_before_1970_are_counted(gateway):
    origin = unique("o")
    gateway.store(make_tag(ms=-1, origin=origin))
    answer = gateway.aggregates("time_range=1969-12-31T23:59:00_1970-01-01T00:01:00"
                                f"&action=VIEW&aggregates=COUNT&origin={origin}")
    assert [row[-1] for row in answer["rows"]] == ["1", "0"]
