# SPDX-License-Identifier: Apache-2.0
"""One replica asked for what it holds itself, past gateways, failover and forwarding."""

import re

import grpc
import xxhash

import grpc_api
from api import MINUTE_MS


class Replica:
    """Of a RunningCluster; for one thread at a time. Each call raises grpc.RpcError where the node refuses."""

    def __init__(self, cluster, id_):
        self.address = cluster.entry(id_)["grpc"]
        self.to = grpc_api.identity({"p": "profile", "a": "aggregate"}[id_[0]], id_)
        self.shards = cluster.settings.shards
        self._version = None

    def profile(self, cookie, for_quorum=False):
        """{"views": [tag, …], "buys": […]}: allezon.v1.Tag messages, newest first."""
        replica_pb2, tag_pb2 = grpc_api.messages("profile_replica"), grpc_api.messages("tag")
        answer = self._call(
            "allezon.v1.ProfileReplicaService/ReadProfile", replica_pb2.ReadProfileResponse,
            lambda version: replica_pb2.ReadProfileRequest(
                to=self.to, placement_version=version, cookie=cookie, shard=xxhash.xxh3_64_intdigest(cookie) % self.shards,
                from_ms=0, to_ms=2**52, limit=200, for_quorum=for_quorum))
        return {name: [tag_pb2.Tag.FromString(tag) for tag in tags_of(getattr(answer, name))] for name in ("views", "buys")}

    def scan(self, start_ms, minutes, action=1, for_quorum=False, **filters):
        """[(count, sum of prices)] of the minutes, over all shards: for clusters where each node holds each shard."""
        replica_pb2 = grpc_api.messages("aggregate_replica")
        answer = self._call(
            "allezon.v1.AggregateReplicaService/ScanMinutes", replica_pb2.ScanMinutesResponse,
            lambda version: replica_pb2.ScanMinutesRequest(
                to=self.to, placement_version=version, shards=range(self.shards), from_minute=start_ms // MINUTE_MS,
                to_minute=start_ms // MINUTE_MS + minutes, action=action, for_quorum=for_quorum, **filters))
        return [(total.count, total.sum_price) for total in answer.minutes]

    def _call(self, method, response_type, make_request):
        if self._version is None:
            # A call of another placement is refused with both versions.
            try:
                grpc_api.call(self.address, method, make_request(0), response_type)
            except grpc.RpcError as error:
                found = re.search(r"caller's placement is 0, that of \S+ is (\d+)", error.details() or "")
                if not found:
                    raise
                self._version = int(found.group(1))
        return grpc_api.call(self.address, method, make_request(self._version), response_type)


def tags_of(columns):
    """The tags of an allezon.v1.StoredTags, serialised."""
    tags, begin = [], 0
    for size in columns.tag_bytes:
        tags.append(columns.tags[begin:begin + size])
        begin += size
    return tags
