# SPDX-License-Identifier: Apache-2.0
"""The inner calls of nodes, as one node makes them to another: each says whom it is for and by which placement."""

import collections

import grpc

import grpc_api
from placement import make_placement, parse_instances

CLUSTER_DEFAULT = "allezon"
RETENTION_DEFAULT_S = 86_400
# As the message modules of proto/ have them: which one a call is in, and the service that it is of.
SERVICES = {
    "replica": ("ReplicaService", ("Replicate", "Poll", "ReadDigests", "ReadIds", "ReadEvents", "ReadExpired", "ReadRows",
                                   "ReadNewest", "SyncNow")),
    "profile_replica": ("ProfileReplicaService", ("ReadProfile",)),
    "aggregate_replica": ("AggregateReplicaService", ("ScanMinutes",)),
}
MODULES = {method: (module, service) for module, (service, methods) in SERVICES.items() for method in methods}
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.min_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 500))


class WrongNode(Exception):
    """Somebody else answered than was asked."""


def flags_of(argv):
    """{"rf": "3"} of ["--rf=3"]; the last one of a name counts."""
    return dict(arg.removeprefix("--").split("=", 1) for arg in argv if arg.startswith("--") and "=" in arg)


class Node:
    """One node of a cluster, by its entry of cluster.json. Any thread may call; close() at the end."""

    def __init__(self, service, entry):
        self.service = service
        self.id = entry["id"]
        self.address = entry["grpc"]
        flags = flags_of(entry["argv"])
        self.cluster = flags.get("cluster", CLUSTER_DEFAULT)
        self.shards = int(flags["shards"])
        self.retention_s = int(flags.get("retention_s", RETENTION_DEFAULT_S))
        self.placement = make_placement(parse_instances(flags["instances"]), self.shards, int(flags["rf"]),
                                        int(flags.get("write_quorum", 0)))
        self._channel = grpc.insecure_channel(self.address, options=OPTIONS)

    def identity(self):
        return grpc_api.identity(self.service, self.id, self.cluster)

    def call(self, method, timeout_s, **fields):
        """The answer; grpc.RpcError, or WrongNode."""
        stub, request = self._prepare(method, fields)
        return self._checked(stub(request, timeout=timeout_s))

    def call_many(self, method, timeout_s, requests, in_flight=16):
        """For each of `requests` (fields), in order: the answer, or the error of that call."""
        waiting = collections.deque()
        for fields in requests:
            stub, request = self._prepare(method, fields)
            waiting.append(stub.future(request, timeout=timeout_s))
            if len(waiting) == in_flight:
                yield self._result(waiting.popleft())
        while waiting:
            yield self._result(waiting.popleft())

    def close(self):
        self._channel.close()

    def _prepare(self, method, fields):
        module, service = MODULES[method]
        messages = grpc_api.messages(module)
        request = getattr(messages, f"{method}Request")(to=self.identity(), placement_version=self.placement.version,
                                                        **fields)
        stub = self._channel.unary_unary(f"/allezon.v1.{service}/{method}",
                                         request_serializer=lambda message: message.SerializeToString(),
                                         response_deserializer=getattr(messages, f"{method}Response").FromString)
        return stub, request

    def _result(self, future):
        try:
            return self._checked(future.result())
        except (grpc.RpcError, WrongNode) as error:
            return error

    def _checked(self, answer):
        by = answer.by
        if by.instance and (by.cluster, by.service, by.instance) != (self.cluster, self.service, self.id):
            raise WrongNode(f"{self.address} is {by.instance}, a {by.service} node of {by.cluster}")
        return answer


def describe(error):
    """Of an error of call(), in a line."""
    if isinstance(error, grpc.RpcError):
        return f"{error.code().name}: {error.details()}"
    return f"{error}"
