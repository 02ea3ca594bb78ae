# SPDX-License-Identifier: Apache-2.0
"""POST /user_tags: what is accepted comes back as it was sent, what is refused is named and stored nowhere."""

import json

import pytest

from api import MINUTE_MS, bucket_text, make_tag, time_text, unique, unique_minute


def count(gateway, origin, ms, action="VIEW"):
    """How often tags of this origin were counted in the minute of `ms`."""
    start = ms // MINUTE_MS * MINUTE_MS
    answer = gateway.aggregates(
        f"time_range={bucket_text(start)}_{bucket_text(start + MINUTE_MS)}"
        f"&action={action}&origin={origin}&aggregates=COUNT")
    return int(answer["rows"][0][-1])


def test_a_tag_comes_back_exactly_as_it_was_sent(gateway):
    tag = make_tag(ms=unique_minute() + 12_345)
    gateway.store(tag)
    assert gateway.profile(tag["cookie"]) == {"cookie": tag["cookie"], "views": [tag], "buys": []}


@pytest.mark.parametrize("product_id", [
    7, "7", 0, -1, 2**63 - 1, -(2**63), "", "0007", "ż" * 128, 'quote " back \\ slash', "null", "\u0000",
    "\u2028\t\n", "😀",
])
def test_a_product_id_keeps_its_type_and_value(gateway, product_id):
    tag = make_tag(product_id=product_id)
    gateway.store(tag)
    assert gateway.profile(tag["cookie"])["views"][0]["product_info"]["product_id"] == product_id


@pytest.mark.parametrize("field", ["country", "origin", "brand_id", "category_id"])
@pytest.mark.parametrize("value", ["", "a" * 256, "ą" * 128, "null", "<&>\"'\\", "\u0001", " "])
def test_odd_strings_come_back(gateway, field, value):
    tag = make_tag(**{field: value})
    gateway.store(tag)
    assert gateway.profile(tag["cookie"])["views"] == [tag]


@pytest.mark.parametrize("price", [0, -1, 2**31 - 1, -(2**31)])
def test_every_price_of_32_bits_is_kept_and_summed(gateway, price):
    ms, origin = unique_minute(), unique("o")
    gateway.store(make_tag(ms=ms, price=price, origin=origin))
    gateway.store(make_tag(ms=ms, price=price, origin=origin))
    answer = gateway.aggregates(f"time_range={bucket_text(ms)}_{bucket_text(ms + MINUTE_MS)}"
                                f"&action=VIEW&origin={origin}&aggregates=SUM_PRICE")
    assert answer["rows"][0][-1] == str(2 * price)


@pytest.mark.parametrize("sent, kept", [
    ("2022-03-22T12:15:00.000Z", "2022-03-22T12:15:00.000Z"),
    ("2022-03-22T12:15:00Z", "2022-03-22T12:15:00.000Z"),
    ("2022-03-22T12:15:00.1Z", "2022-03-22T12:15:00.100Z"),
    ("2022-03-22T12:15:00.12Z", "2022-03-22T12:15:00.120Z"),
    ("2020-02-29T23:59:59.999Z", "2020-02-29T23:59:59.999Z"),
    ("1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999Z"),
])
def test_times_of_every_accepted_form(gateway, sent, kept):
    tag = make_tag(time=sent)
    gateway.store(tag)
    profile = gateway.profile(tag["cookie"], "1960-01-01T00:00:00_2100-01-01T00:00:00")
    assert [t["time"] for t in profile["views"]] == [kept]


@pytest.mark.parametrize("time", [
    "2021-02-29T00:00:00.000Z", "2022-13-01T00:00:00.000Z", "2022-00-01T00:00:00.000Z",
    "2022-01-00T00:00:00.000Z", "2022-04-31T00:00:00.000Z", "2022-01-01T24:00:00.000Z",
    "2022-01-01T00:60:00.000Z", "2022-01-01T00:00:60.000Z", "2022-01-01T00:00:00.0000Z",
    "2022-01-01T00:00:00.Z", "2022-01-01T00:00:00.000", "2022-01-01T00:00:00.000+00:00",
    "2022-01-01 00:00:00.000Z", "2022-1-1T0:0:0Z", " 2022-01-01T00:00:00.000Z",
    "2022-01-01T00:00:00.000Z ", "2022-01-01T00:00:00.000z", "", "now", "2999-01-01T00:00:00.000Z",
    "-022-01-01T00:00:00.000Z", "1900-02-29T00:00:00.000Z",
])
def test_a_time_that_is_none_is_refused(gateway, time):
    response = gateway.post_tag(make_tag(time=time))
    assert response.status == 400
    assert response.problem()["field"] == "time"


def without(tag, path):
    head, _, tail = path.partition(".")
    if tail:
        without(tag[head], tail)
    else:
        del tag[head]
    return tag


FIELDS = ["time", "cookie", "country", "device", "action", "origin", "product_info",
          "product_info.product_id", "product_info.brand_id", "product_info.category_id",
          "product_info.price"]


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_refused_by_name(gateway, field):
    response = gateway.post_tag(without(make_tag(), field))
    assert response.status == 400
    assert response.problem()["field"] == field


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [None, True, [], 1.5])
def test_a_field_of_the_wrong_type_is_refused_by_name(gateway, field, value):
    tag = make_tag()
    head, _, tail = field.partition(".")
    if tail:
        tag[head][tail] = value
    else:
        tag[head] = value
    response = gateway.post_tag(tag)
    assert response.status == 400
    assert response.problem()["field"] == field


@pytest.mark.parametrize("field", [f for f in FIELDS if f != "product_info"])
def test_a_field_given_twice_is_refused_by_name(gateway, field):
    tag = json.dumps(make_tag())
    name = field.rpartition(".")[2]
    value = json.dumps(make_tag()["product_info"][name] if "." in field else make_tag()[name])
    response = gateway.post_tag(tag.replace(f'"{name}":', f'"{name}": {value}, "{name}":', 1))
    assert response.status == 400
    assert response.problem()["field"] == field


@pytest.mark.parametrize("spelled", [b"1299.0", b"1.299e3", b"129900E-2"])
def test_an_integer_may_be_spelled_in_any_way(gateway, spelled):
    tag = make_tag()
    tag["product_info"]["price"] = 1299
    response = gateway.request("POST", "/user_tags", json.dumps(tag).encode().replace(b"1299", spelled))
    assert response.status == 204, response
    profile = gateway.profile(tag["cookie"])
    assert [stored["product_info"]["price"] for stored in profile["views"] + profile["buys"]] == [1299]


@pytest.mark.parametrize("overrides, field", [
    ({"cookie": ""}, "cookie"),
    ({"cookie": "a" * 257}, "cookie"),
    ({"cookie": "ą" * 129}, "cookie"),
    ({"country": "a" * 257}, "country"),
    ({"origin": "a" * 257}, "origin"),
    ({"brand_id": "a" * 257}, "product_info.brand_id"),
    ({"category_id": "a" * 257}, "product_info.category_id"),
    ({"product_id": "a" * 257}, "product_info.product_id"),
    ({"device": "pc"}, "device"),
    ({"device": "TABLET"}, "device"),
    ({"device": "DEVICE_PC"}, "device"),
    ({"device": 1}, "device"),
    ({"action": "view"}, "action"),
    ({"action": "CLICK"}, "action"),
    ({"action": ""}, "action"),
    ({"price": "12"}, "product_info.price"),
    ({"price": 12.5}, "product_info.price"),
    ({"price": 2**31}, "product_info.price"),
    ({"price": -(2**31) - 1}, "product_info.price"),
    ({"price": 2**70}, "product_info.price"),
    ({"product_id": 2**63}, "product_info.product_id"),
    ({"product_id": 7.5}, "product_info.product_id"),
    ({"product_id": {}}, "product_info.product_id"),
    ({"product_info": []}, "product_info"),
])
def test_a_value_outside_the_rules_is_refused_by_name(gateway, overrides, field):
    response = gateway.post_tag(make_tag(**overrides))
    assert response.status == 400
    assert response.problem()["field"] == field


def test_unknown_fields_are_ignored_whatever_they_hold(gateway):
    tag = make_tag()
    sent = json.loads(json.dumps(tag))
    sent["extra"] = {"deep": [1, {"er": None}], "time": "x"}
    sent["product_info"]["colour"] = [True, 1e300]
    gateway.store(sent)
    assert gateway.profile(tag["cookie"])["views"] == [tag]


def test_what_was_refused_is_stored_nowhere(gateway):
    ms, origin, cookie = unique_minute(), unique("o"), unique()
    bad = make_tag(cookie, ms, origin=origin, price="12")
    assert gateway.post_tag(bad).status == 400
    assert count(gateway, origin, ms) == 0
    assert gateway.profile(cookie) == {"cookie": cookie, "views": [], "buys": []}


BROKEN_BODIES = [
    b"", b" ", b"{", b"}", b"[]", b"null", b"1", b'"tag"', b"\xff\xfe", b"\x00" * 100, b"{}", b"{" * 50_000,
    b"[" * 60_000, b'{"a":' * 10_000, b'{"time"}', b'{"time":}', b'{"cookie":"\xff"}', b'{"cookie":"\xed\xa0\x80"}',
    b'{"cookie":"\\ud800"}', b'{"cookie":"\\u12"}', b'{"cookie":"a\nb"}', b"\xef\xbb\xbf{}", b'{"price":01}',
    b'{"price":NaN}', b"{'cookie':'x'}", b'{"a":1,}', b'{"a":1}{"a":1}', b"<tag/>", b"cookie=1&time=2",
]


@pytest.mark.parametrize("body", BROKEN_BODIES, ids=range(len(BROKEN_BODIES)))
def test_broken_bodies_are_refused(gateway, body):
    response = gateway.post_tag(body)
    assert response.status == 400
    response.problem()


@pytest.mark.parametrize("old, new", [
    (b'"campaign"', b'"\xff"'), (b'"campaign"', b'"\xc0\x80"'), (b'"campaign"', b'"\\ud800"'),
    (b'"campaign"', b'"a\x01b"'), (b'"campaign"', b'"\\x41"'), (b"1299", b"01299"), (b"1299", b"+1"),
    (b"1299", b"1e-1"), (b"1299", b"--1"), (b"1299", b""), (b"1299", b"1299 1299"), (b"}}", b"}} x"), (b"}}", b"}"),
    (b"}}", b"},}"), (b'"time"', b"time"), (b"{", b"{,"),
])
def test_a_tag_broken_in_one_place_is_refused(gateway, old, new):
    body = json.dumps(make_tag()).encode()
    broken = body.replace(old, new, 1)
    assert broken != body
    response = gateway.post_tag(broken)
    assert response.status == 400
    response.problem()


def test_escapes_are_read_as_json_reads_them(gateway):
    tag = make_tag(origin="za\u017c\u00f3\u0142\u0107 😀 \\ \" /")
    body = json.dumps(tag, ensure_ascii=True).replace("/", "\\/")
    gateway.store(body)
    assert gateway.profile(tag["cookie"])["views"] == [tag]


def test_the_same_body_twice_is_two_tags(gateway):
    tag = make_tag(ms=unique_minute(), origin=unique("o"))
    gateway.store(tag)
    gateway.store(tag)
    assert gateway.profile(tag["cookie"])["views"] == [tag, tag]
    ms = json_time(tag)
    assert count(gateway, tag["origin"], ms) == 2


def json_time(tag):
    import datetime
    parsed = datetime.datetime.strptime(tag["time"], "%Y-%m-%dT%H:%M:%S.%f%z")
    return round(parsed.timestamp() * 1000)


def test_an_idempotency_key_makes_a_tag_count_once(gateway):
    key = unique("key")
    tag = make_tag(ms=unique_minute(), origin=unique("o"))
    for _ in range(3):
        gateway.store(tag, Idempotency_Key=key)
    assert gateway.profile(tag["cookie"])["views"] == [tag]
    assert count(gateway, tag["origin"], json_time(tag)) == 1


def test_an_idempotency_key_counts_once_also_when_the_body_changed(gateway):
    key, cookie, origin, ms = unique("key"), unique(), unique("o"), unique_minute()
    gateway.store(make_tag(cookie, ms, origin=origin, price=1), Idempotency_Key=key)
    gateway.store(make_tag(cookie, ms + 5 * MINUTE_MS, origin=origin, price=2), Idempotency_Key=key)
    # Which of the two bodies stays does not depend on their order, so that all replicas agree.
    price, = (t["product_info"]["price"] for t in gateway.profile(cookie)["views"])
    assert price in (1, 2)
    assert count(gateway, origin, ms) == (1 if price == 1 else 0)
    assert count(gateway, origin, ms + 5 * MINUTE_MS) == (1 if price == 2 else 0)


def test_an_idempotency_key_is_of_its_cookie(gateway):
    key, origin, ms = unique("key"), unique("o"), unique_minute()
    gateway.store(make_tag(ms=ms, origin=origin), Idempotency_Key=key)
    gateway.store(make_tag(ms=ms, origin=origin), Idempotency_Key=key)
    assert count(gateway, origin, ms) == 2


@pytest.mark.parametrize("key", ["", "a" * 129, "with space", "tab\tbed", "ą".encode().decode("latin-1")])
def test_a_bad_idempotency_key_is_refused(gateway, key):
    response = gateway.post_tag(make_tag(), Idempotency_Key=key)
    assert response.status == 400
    assert response.problem()["field"] == "Idempotency-Key"


def test_a_key_of_128_characters_is_fine(gateway):
    gateway.store(make_tag(), Idempotency_Key="~" * 128)


def test_a_batch_stores_the_good_lines_and_names_the_bad(gateway):
    ms, origin = unique_minute(), unique("o")
    good = [make_tag(ms=ms + i, origin=origin) for i in range(3)]
    body = "\n".join([json.dumps(good[0]), "", json.dumps(make_tag(price="x")), json.dumps(good[1]),
                      "not json", "   ", json.dumps(good[2])]) + "\n\n"
    response = gateway.post_batch(body)
    assert response.status == 200
    answer = response.json()
    assert answer["accepted"] == 3
    assert [r["line"] for r in answer["rejected"]] == [3, 5]
    assert "price" in answer["rejected"][0]["detail"]
    assert count(gateway, origin, ms) == 3
    for tag in good:
        assert gateway.profile(tag["cookie"])["views"] == [tag]


def test_a_batch_with_crlf_and_parameters_of_the_content_type(gateway):
    tags = [make_tag() for _ in range(2)]
    body = "\r\n".join(json.dumps(t) for t in tags)
    response = gateway.request("POST", "/user_tags", body,
                               {"Content-Type": "Application/X-NDJSON; charset=utf-8"})
    assert response.status == 200
    assert response.json() == {"accepted": 2, "rejected": []}


def test_an_empty_batch_is_accepted(gateway):
    assert gateway.post_batch("").json() == {"accepted": 0, "rejected": []}
    assert gateway.post_batch("\n\n").json() == {"accepted": 0, "rejected": []}


def test_a_batch_with_a_key_counts_every_line_once(gateway):
    ms, origin, key, cookie = unique_minute(), unique("o"), unique("key"), unique()
    tags = [make_tag(cookie, ms, origin=origin) for _ in range(5)]
    for _ in range(2):
        gateway.store_batch(tags, Idempotency_Key=key)
    assert count(gateway, origin, ms) == 5
    # A line of its own has the key KEY/k.
    gateway.store(tags[0], Idempotency_Key=f"{key}/1")
    assert count(gateway, origin, ms) == 5


def test_a_large_batch_is_stored_whole(gateway):
    ms, origin = unique_minute(), unique("o")
    tags = [make_tag(f"cookie-{i % 500}", ms + i, origin=origin) for i in range(20_000)]
    gateway.store_batch(tags)
    assert count(gateway, origin, ms) == 20_000


def test_a_late_tag_counts_in_the_bucket_of_its_own_time(gateway):
    ms, origin = unique_minute(), unique("o")
    gateway.store(make_tag(ms=ms + 10 * MINUTE_MS, origin=origin))
    gateway.store(make_tag(ms=ms + 59_999, origin=origin))
    assert count(gateway, origin, ms) == 1


def test_time_text_of_the_tests_is_right():
    assert time_text(1_647_951_300_000) == "2022-03-22T12:15:00.000Z"
