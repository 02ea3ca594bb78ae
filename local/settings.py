# SPDX-License-Identifier: Apache-2.0
"""What a cluster on this machine consists of, as it was chosen when its folder was made."""

from __future__ import annotations

import dataclasses
import json
import pathlib

SERVICES = ("gateways", "profile", "aggregate")  # keys of cluster.json that are always there
LISTS = (*SERVICES, "nginx")  # all of them; the last one only where there is an nginx
SHARDS_DEFAULT = 128
RF_DEFAULT = 3


class ClusterError(Exception):
    """What went wrong, in words for the person who started the cluster."""


@dataclasses.dataclass
class Settings:
    """What the data in a folder depends on (all but `gateways` and `nginx`), and the ports that were chosen."""

    gateways: int = 1
    profiles: int = 3
    aggregates: int = 3
    rf: int = RF_DEFAULT
    write_quorum: int = 0  # 0: the majority of rf
    shards: int = SHARDS_DEFAULT
    # "g0", "p0", "p0/metrics", "n0", "n0/profile" (its gRPC port before the profile nodes) -> port
    ports: dict = dataclasses.field(default_factory=dict)
    nginx: int = 0  # 1: one nginx before the gateways

    def ids(self, service: str) -> list[str]:
        count = {"gateways": self.gateways, "profile": self.profiles, "aggregate": self.aggregates,
                 "nginx": self.nginx}
        return [f"{service[0]}{i}" for i in range(count[service])]

    def check(self) -> None:
        for name, value in (("gateways", self.gateways), ("profiles", self.profiles),
                            ("aggregates", self.aggregates), ("rf", self.rf),
                            ("shards", self.shards)):
            if not isinstance(value, int) or value < 1:
                raise ClusterError(f"--{name} is {value}: it must be 1 or more")
        for name, value in (("profiles", self.profiles), ("aggregates", self.aggregates)):
            if self.rf > value:
                raise ClusterError(
                    f"--rf {self.rf} asks for {self.rf} replicas of every shard, but there are only "
                    f"{value} {name}: lower --rf, or raise --{name} to at least {self.rf}")
        if not isinstance(self.write_quorum, int) or not 0 <= self.write_quorum <= self.rf:
            raise ClusterError(f"--write_quorum is {self.write_quorum}: it must be 0 (the majority) "
                               f"or between 1 and --rf, {self.rf}")


def make_settings(folder: pathlib.Path, **wanted) -> Settings:
    """The settings of a folder: those it was made with, or new ones. `wanted` holds what was asked
    for (None: as it was, or the default). Numbers that the data depends on cannot change. The default
    of rf is RF_DEFAULT, or as many as the smaller service has nodes."""
    wanted = {name: value for name, value in wanted.items() if value is not None}
    try:
        settings = Settings(**json.loads((folder / "settings.json").read_text()))
    except FileNotFoundError:
        settings = Settings(**wanted)
        if "rf" not in wanted:
            settings.rf = max(1, min(RF_DEFAULT, settings.profiles, settings.aggregates))
        settings.check()
        return settings
    except (ValueError, TypeError) as error:
        raise ClusterError(f"{folder}/settings.json cannot be read ({error}): "
                           "use another --dir, or remove this one with its data") from error
    for name, value in wanted.items():
        was = getattr(settings, name)
        if name not in ("gateways", "nginx") and value != was:
            raise ClusterError(
                f"{folder} holds the data of a cluster with --{name} {was}, which --{name} {value} "
                "would not find, or not all of it: leave the option out, use another --dir, or "
                "remove this one with its data")
        setattr(settings, name, value)
    settings.check()
    return settings
