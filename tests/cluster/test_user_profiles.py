# SPDX-License-Identifier: Apache-2.0
"""/user_profiles/{cookie}: newest first, cut by time and then by limit."""

import json
import urllib.parse

import pytest

from api import make_tag, time_text, unique, unique_minute
from running import BEHIND_NGINX, sum_of

ALL = "time_range=1970-01-01T00:00:00_2100-01-01T00:00:00"


def query_time(ms):
    return time_text(ms, "")


@pytest.fixture
def history(gateway):
    """A cookie with 10 views and 5 buys, a second apart, stored out of order."""
    cookie, start = unique(), unique_minute()
    views = [make_tag(cookie, start + i * 1000, product_id=i) for i in range(10)]
    buys = [make_tag(cookie, start + i * 1000, product_id=str(i), action="BUY") for i in range(5)]
    for tag in views[5:] + buys[::-1] + views[:5]:
        gateway.store(tag)
    return cookie, start, views[::-1], buys[::-1]


def test_newest_first_in_both_lists(gateway, history):
    cookie, _, views, buys = history
    assert gateway.profile(cookie) == {"cookie": cookie, "views": views, "buys": buys}


def test_from_is_in_and_to_is_out(gateway, history):
    cookie, start, views, buys = history
    profile = gateway.profile(cookie, f"{query_time(start + 2000)}_{query_time(start + 4000)}")
    assert profile["views"] == views[6:8]
    assert profile["buys"] == buys[1:3]
    profile = gateway.profile(cookie, f"{query_time(start + 2001)}_{query_time(start + 4001)}")
    assert profile["views"] == views[5:7]


def test_an_empty_range_is_empty(gateway, history):
    cookie, start, _, _ = history
    profile = gateway.profile(cookie, f"{query_time(start)}_{query_time(start)}")
    assert profile == {"cookie": cookie, "views": [], "buys": []}


@pytest.mark.parametrize("limit", [0, 1, 3, 5, 200, 201, 10**6, 10**30])
def test_the_limit_is_of_each_list(gateway, history, limit):
    cookie, _, views, buys = history
    profile = gateway.profile(cookie, limit=limit)
    assert profile["views"] == views[:limit]
    assert profile["buys"] == buys[:limit]


def test_the_limit_comes_after_the_time_filter(gateway, history):
    cookie, start, views, _ = history
    profile = gateway.profile(cookie, f"{query_time(start)}_{query_time(start + 3000)}", limit=2)
    assert profile["views"] == views[7:9]


def test_at_most_200_are_given_and_they_are_the_newest(gateway):
    cookie, start = unique(), unique_minute()
    tags = [make_tag(cookie, start + i) for i in range(230)]
    gateway.store_batch(tags)
    for params in ({}, {"limit": 200}, {"limit": 250}):
        assert gateway.profile(cookie, **params)["views"] == tags[:29:-1]
    # The older ones are still there for who asks for their time.
    older = gateway.profile(cookie, f"{query_time(start)}_{query_time(start + 30)}")
    assert older["views"] == tags[29::-1]


def test_an_unknown_cookie_has_two_empty_lists(gateway):
    cookie = unique()
    assert gateway.profile(cookie) == {"cookie": cookie, "views": [], "buys": []}


def test_tags_of_the_same_time_are_all_kept_in_an_order_that_stays(gateway):
    cookie, ms = unique(), unique_minute()
    for i in range(20):
        gateway.store(make_tag(cookie, ms, product_id=i))
    first = gateway.profile(cookie)["views"]
    assert sorted(t["product_info"]["product_id"] for t in first) == list(range(20))
    for limit in (20, 7, 1):
        assert gateway.profile(cookie, limit=limit)["views"] == first[:limit]


@pytest.mark.parametrize("cookie", [
    "a/b", "a b", "a+b", "a%b", "a?b=c&d", "zażółć", "😀", "..", ".", "a#b", "\"'", "a" * 256, "a;b,c", "%2F",
    pytest.param("\u0000", marks=pytest.mark.skipif(BEHIND_NGINX, reason="nginx takes no %00")),
])
def test_any_cookie_is_reached_by_percent_encoding(gateway, cookie):
    cookie = cookie if len(cookie) > 200 else unique() + cookie
    tag = make_tag(cookie)
    gateway.store(tag)
    assert gateway.profile(cookie) == {"cookie": cookie, "views": [tag], "buys": []}


def test_a_plus_in_the_path_is_a_plus(gateway):
    cookie = unique() + "+x"
    tag = make_tag(cookie)
    gateway.store(tag)
    response = gateway.request("POST", f"/user_profiles/{cookie}?{ALL}")
    assert response.json()["views"] == [tag]


def test_cookies_that_begin_alike_are_apart(gateway):
    cookie = unique()
    names = (cookie, cookie + "a", cookie + ("\u0001" if BEHIND_NGINX else "\u0000"))
    for name in names:
        gateway.store(make_tag(name, origin=urllib.parse.quote(name)))
    for name in names:
        assert [t["cookie"] for t in gateway.profile(name)["views"]] == [name]


@pytest.mark.parametrize("query", [
    "time_range=2022-03-01T00%3A00%3A00_2022-03-02T00%3A00%3A00.000&limit=5",
    "time_range=2022-03-01T00:00:00.0_2022-03-02T00:00:00.00",
    "limit=5&time_range=2022-03-01T00:00:00_2022-03-02T00:00:00",
    "time_range=2022-03-01T00:00:00_2022-03-02T00:00:00?limit=5",
    "time_range=2022-03-01T00:00:00_2022-03-02T00:00:00&unknown=x&",
    "&&time_range=2022-03-01T00:00:00_2022-03-02T00:00:00",
])
def test_every_habit_of_writing_the_query_is_understood(gateway, query):
    cookie = unique()
    tag = make_tag(cookie, 1_646_100_000_000)
    gateway.store(tag)
    response = gateway.request("POST", f"/user_profiles/{cookie}?{query}")
    assert response.status == 200
    assert response.json()["views"] == [tag]


def test_the_question_mark_habit_limits(gateway, history):
    cookie, _, views, _ = history
    response = gateway.request("POST", f"/user_profiles/{cookie}?{ALL}?limit=2")
    assert response.json()["views"] == views[:2]


@pytest.mark.parametrize("query, field", [
    ("", "time_range"),
    ("limit=5", "time_range"),
    ("time_range=", "time_range"),
    ("time_range=2022-03-01T00:00:00", "time_range"),
    ("time_range=2022-03-01T00:00:00_", "time_range"),
    ("time_range=_2022-03-01T00:00:00", "time_range"),
    ("time_range=2022-03-01T00:00:00-2022-03-02T00:00:00", "time_range"),
    ("time_range=2022-03-01T00:00:00Z_2022-03-02T00:00:00Z", "time_range"),
    ("time_range=2022-03-02T00:00:00_2022-03-01T00:00:00", "time_range"),
    ("time_range=2022-02-30T00:00:00_2022-03-02T00:00:00", "time_range"),
    ("time_range=2022-03-01T00:00:00_2022-03-02T00:00:00_2022-03-03T00:00:00", "time_range"),
    ("time_range=2022-03-01T00:00:00.0000_2022-03-02T00:00:00", "time_range"),
    (ALL + "&limit=-1", "limit"),
    (ALL + "&limit=", "limit"),
    (ALL + "&limit=abc", "limit"),
    (ALL + "&limit=1.5", "limit"),
    (ALL + "&limit=1e3", "limit"),
    (ALL + "&limit=0x10", "limit"),
    (ALL + "&limit=+5", "limit"),
    (ALL + "&limit=5%205", "limit"),
    (ALL + "&limit=1&limit=2", "limit"),
    (ALL + "&" + ALL, "time_range"),
])
def test_a_bad_query_is_refused_by_name(gateway, query, field):
    response = gateway.request("POST", f"/user_profiles/{unique()}?{query}")
    assert response.status == 400, response
    assert response.problem()["field"] == field


@pytest.mark.parametrize("target", [
    f"/user_profiles/a%?{ALL}", f"/user_profiles/a%4?{ALL}", f"/user_profiles/a%zz?{ALL}", f"/user_profiles/%ff?{ALL}",
    f"/user_profiles/{'a' * 257}?{ALL}", "/user_profiles/a?time_range=%", f"/user_profiles/a?{ALL}&limit=%ff",
])
def test_broken_encoding_is_refused(gateway, target):
    response = gateway.request("POST", target)
    assert response.status == 400, response
    response.problem()


def test_get_asks_the_same(gateway, history):
    cookie, _, views, buys = history
    response = gateway.request("GET", f"/user_profiles/{cookie}?{ALL}")
    assert response.status == 200
    assert response.json() == {"cookie": cookie, "views": views, "buys": buys}


def metric(cluster, name):
    """Over all gateways."""
    return sum(sum_of(cluster.metrics(id_), name) for id_ in cluster.ids("gateways"))


def test_the_body_is_compared_and_never_changes_the_answer(cluster, gateway, history):
    cookie, _, views, buys = history
    right = {"cookie": cookie, "views": views, "buys": buys}
    for body, name in [(json.dumps(right), "allezon_debug_matches_total"),
                       (json.dumps(right, indent=3), "allezon_debug_matches_total"),
                       (json.dumps({**right, "views": views[1:]}), "allezon_debug_mismatches_total"),
                       ("no json", "allezon_debug_mismatches_total")]:
        before = metric(cluster, name)
        response = gateway.request("POST", f"/user_profiles/{cookie}?{ALL}", body)
        assert response.json() == right
        assert metric(cluster, name) == before + 1, body
    assert "\ncookie" not in gateway.request("GET", "/metrics").body.decode()
    assert cookie not in gateway.request("GET", "/metrics").body.decode()
