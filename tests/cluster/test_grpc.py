# SPDX-License-Identifier: Apache-2.0
"""The gRPC surface of every node: any node takes any call, and errors name the field at fault."""

import grpc
import pytest

import grpc_api
from api import MINUTE_MS, bucket_text, unique, unique_minute


def make_tag(cookie=None, ms=None, **overrides):
    tag_pb2 = grpc_api.messages("tag")
    tag = tag_pb2.Tag(time_ms=unique_minute() if ms is None else ms, cookie=unique() if cookie is None else cookie,
                      country="PL", device=tag_pb2.DEVICE_PC, action=tag_pb2.ACTION_VIEW, origin="o")
    tag.product_info.product_id.number = 7
    tag.product_info.brand_id = "b"
    tag.product_info.category_id = "c"
    tag.product_info.price = 5
    for name, value in overrides.items():
        setattr(tag, name, value)
    return tag


def add(address, service, tags, keys=None):
    pb2 = grpc_api.messages(service.lower())
    request = getattr(pb2, f"{service}ServiceAddTagsRequest")()
    for i, tag in enumerate(tags):
        request.tags.add(tag=tag, idempotency_key=keys[i] if keys else "")
    return grpc_api.call(address, f"allezon.v1.{service}Service/AddTags", request,
                         getattr(pb2, f"{service}ServiceAddTagsResponse"))


def profile(address, cookie, **fields):
    pb2 = grpc_api.messages("profile")
    request = pb2.GetProfileRequest(cookie=cookie, from_ms=0, to_ms=2**52, **fields)
    return grpc_api.call(address, "allezon.v1.ProfileService/GetProfile", request, pb2.GetProfileResponse)


def aggregates(address, **fields):
    pb2 = grpc_api.messages("aggregate")
    fields.setdefault("action", 1)
    return grpc_api.call(address, "allezon.v1.AggregateService/QueryAggregates",
                         pb2.QueryAggregatesRequest(**fields), pb2.QueryAggregatesResponse)


def test_every_profile_node_takes_every_call(cluster):
    for writer in cluster.profiles:
        tag = make_tag()
        assert add(writer, "Profile", [tag]).accepted == 1
        for reader in cluster.profiles:
            answer = profile(reader, tag.cookie)
            assert answer.cookie == tag.cookie
            assert list(answer.views) == [tag]
            assert not answer.buys


def test_every_aggregate_node_takes_every_call(cluster):
    for writer in cluster.aggregates:
        ms, origin = unique_minute(), unique("o")
        tags = [make_tag(ms=ms + i, origin=origin) for i in range(20)]
        assert add(writer, "Aggregate", tags).accepted == 20
        for reader in cluster.aggregates:
            rows = aggregates(reader, from_ms=ms, to_ms=ms + 2 * MINUTE_MS, origin=origin).rows
            assert [(r.minute_ms, r.count, r.sum_price) for r in rows] == [(ms, 20, 100), (ms + MINUTE_MS, 0, 0)]


def test_http_and_grpc_see_the_same_tags(cluster, gateway):
    tag = make_tag(origin=unique("o"))
    add(cluster.profiles[0], "Profile", [tag])
    add(cluster.aggregates[0], "Aggregate", [tag])
    assert gateway.profile(tag.cookie)["views"][0]["product_info"]["product_id"] == 7
    answer = gateway.aggregates(f"time_range={bucket_text(tag.time_ms)}_{bucket_text(tag.time_ms + MINUTE_MS)}"
                                f"&action=VIEW&aggregates=COUNT&origin={tag.origin}")
    assert answer["rows"][0][-1] == "1"


def test_an_idempotency_key_counts_once_over_every_node_and_over_http(cluster, gateway):
    tag, key = make_tag(), unique("key")
    for node in cluster.profiles:
        add(node, "Profile", [tag, tag], [key, key])
    assert list(profile(cluster.profiles[0], tag.cookie).views) == [tag]


@pytest.mark.parametrize("change, field", [
    ({"cookie": ""}, "tags[1].tag.cookie"),
    ({"cookie": "a" * 257}, "tags[1].tag.cookie"),
    ({"country": "a" * 257}, "tags[1].tag.country"),
    ({"device": 0}, "tags[1].tag.device"),
    ({"device": 9}, "tags[1].tag.device"),
    ({"action": 0}, "tags[1].tag.action"),
    ({"time_ms": 2**60}, "tags[1].tag.time_ms"),
])
@pytest.mark.parametrize("service", ["Profile", "Aggregate"])
def test_a_bad_tag_is_refused_by_name_and_nothing_is_stored(cluster, service, change, field):
    nodes = {"Profile": cluster.profiles, "Aggregate": cluster.aggregates}[service]
    good = make_tag()
    with pytest.raises(grpc.RpcError) as error:
        add(nodes[0], service, [good, make_tag(**change)])
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert field in [f for f, _ in grpc_api.violations(error.value)]
    assert not profile(cluster.profiles[0], good.cookie).views


@pytest.mark.parametrize("key", ["a b", "a" * 129, "\u007f", "ą"])
def test_a_bad_key_is_refused_by_name(cluster, key):
    with pytest.raises(grpc.RpcError) as error:
        add(cluster.profiles[0], "Profile", [make_tag()], [key])
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert [f for f, _ in grpc_api.violations(error.value)] == ["tags[0].idempotency_key"]


@pytest.mark.parametrize("fields, field", [
    ({"from_ms": 1, "to_ms": MINUTE_MS}, "from_ms"),
    ({"from_ms": 0, "to_ms": MINUTE_MS + 1}, "to_ms"),
    ({"from_ms": MINUTE_MS, "to_ms": 0}, "to_ms"),
    ({"from_ms": 0, "to_ms": 11 * MINUTE_MS}, "to_ms"),
    ({"from_ms": 0, "to_ms": MINUTE_MS, "action": 0}, "action"),
    ({"from_ms": 0, "to_ms": MINUTE_MS, "action": 7}, "action"),
])
def test_a_bad_aggregate_query_is_refused_by_name(cluster, fields, field):
    with pytest.raises(grpc.RpcError) as error:
        aggregates(cluster.aggregates[0], **fields)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert [f for f, _ in grpc_api.violations(error.value)] == [field]


def test_a_profile_query_without_a_cookie_is_refused_by_name(cluster):
    with pytest.raises(grpc.RpcError) as error:
        profile(cluster.profiles[0], "")
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert [f for f, _ in grpc_api.violations(error.value)] == ["cookie"]


def test_the_limit_of_a_profile_may_be_zero_or_absent(cluster):
    tag = make_tag()
    add(cluster.profiles[0], "Profile", [tag])
    assert not profile(cluster.profiles[1], tag.cookie, limit=0).views
    assert len(profile(cluster.profiles[1], tag.cookie).views) == 1
    assert len(profile(cluster.profiles[1], tag.cookie, limit=100_000).views) == 1


def test_health_is_known_per_service(cluster):
    health = grpc_api.health_messages()
    for nodes, names in [(cluster.profiles, ["", "allezon.v1.ProfileService"]),
                         (cluster.aggregates, ["", "allezon.v1.AggregateService"])]:
        for node in nodes:
            for name in names:
                answer = grpc_api.call(node, "grpc.health.v1.Health/Check", health.HealthCheckRequest(service=name),
                                       health.HealthCheckResponse)
                assert answer.status == health.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError) as error:
                grpc_api.call(node, "grpc.health.v1.Health/Check", health.HealthCheckRequest(service="nobody"),
                              health.HealthCheckResponse)
            assert error.value.code() == grpc.StatusCode.NOT_FOUND


def test_garbage_to_the_inner_services_is_refused_and_ends_nobody(cluster, gateway):
    replica = grpc_api.messages("replica")
    for node in cluster.profiles + cluster.aggregates:
        # A version that is none.
        with pytest.raises(grpc.RpcError) as error:
            grpc_api.call(node, "allezon.v1.ReplicaService/Write", replica.WriteRequest(placement_version=1),
                          replica.WriteResponse)
        assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        with grpc.insecure_channel(node) as channel:
            for method in ("ReplicaService/Write", "ReplicaService/Replicate", "ProfileService/AddTags",
                           "AggregateService/AddTags", "ProfileService/GetProfile"):
                for data in (b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", b"\x00", b"\x12\x02\x08"):
                    with pytest.raises(grpc.RpcError):
                        channel.unary_unary(f"/allezon.v1.{method}")(data, timeout=10)
    cluster.assert_all_running()
