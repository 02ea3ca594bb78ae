# SPDX-License-Identifier: Apache-2.0
"""Who holds what, worked out as the nodes do: a second version of router/placement.cc and router/shard.cc, so that a tool that
looks at replicas does not take a node's word for what it should hold."""

import dataclasses
import math

import xxhash

LOAD_SLACK = 1.1


@dataclasses.dataclass(frozen=True)
class Instance:
    id: str
    address: str
    zone: str = ""


@dataclasses.dataclass(frozen=True)
class Placement:
    """`replicas`: by shard, the ids of its instances, the one that is read first at the front."""

    version: int
    rf: int
    instances: tuple
    replicas: tuple

    def shards_of(self, id_):
        return [shard for shard, ids in enumerate(self.replicas) if id_ in ids]


def parse_instances(text):
    """"p0=127.0.0.1:7001,p1=127.0.0.1:7002/zone-b"; ValueError where it is none."""
    instances = []
    for part in text.split(","):
        id_, equals, place = part.partition("=")
        address, _, zone = place.partition("/")
        if not equals or not id_ or ":" not in address:
            raise ValueError(f"'{part}' is not id=host:port[/zone]")
        instances.append(Instance(id_, address, zone))
    return instances


def make_placement(instances, shards, rf, write_quorum=0):
    instances = tuple(sorted(instances, key=lambda instance: instance.id))
    bound = math.ceil(shards * rf / len(instances) * LOAD_SLACK)
    loads = [0] * len(instances)
    replicas = tuple(tuple(instances[i].id for i in _pick(shard, instances, rf, bound, loads)) for shard in range(shards))
    text = "|".join([f"2|{shards}|{rf}|{write_quorum or rf // 2 + 1}",
                     *(f"{instance.id}={instance.address}/{instance.zone}" for instance in instances)])
    return Placement(xxhash.xxh3_64_intdigest(text), rf, instances, replicas)


def shard_of(cookie, shards):
    return xxhash.xxh3_64_intdigest(cookie) % shards


def keyed_event_id(key, cookie):
    """The 16 bytes that name the event of an Idempotency-Key and a cookie."""
    key, cookie = key.encode(), cookie.encode()
    id_ = bytearray(xxhash.xxh3_128_digest(len(key).to_bytes(4, "little") + key + cookie))
    id_[0] |= 0x80
    return bytes(id_)


def _pick(shard, instances, rf, bound, loads):
    """Indexes: the heaviest instances that are under the bound, zones apart; where that leaves too few, first the bound
    gives way, then the zones."""
    ranked = sorted(((xxhash.xxh3_64_intdigest(f"{shard}/{instance.id}"), i) for i, instance in enumerate(instances)),
                    reverse=True)
    picked, zones = [], set()
    for heed_zones, heed_bound in ((True, True), (True, False), (False, True), (False, False)):
        for _, i in ranked:
            if len(picked) == rf:
                return picked
            if i in picked or (heed_bound and loads[i] >= bound) or (heed_zones and instances[i].zone in zones):
                continue
            picked.append(i)
            if instances[i].zone:
                zones.add(instances[i].zone)
            loads[i] += 1
    return picked
