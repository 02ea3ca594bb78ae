# SPDX-License-Identifier: Apache-2.0
"""Memory at the limit: batches as fast as they are taken, then the largest queries."""

from __future__ import annotations

import time

from cluster import Cluster, ClusterError
from stage import Stage

SHARE_MAX = 0.9  # of the limit
# From the second third to the last, caches being warm, the peak may grow by so much of the limit.
GROWTH_MAX = 0.05
SAMPLE_S = 5
MIB = 2**20
UNITS = {"Mi": MIB, "Gi": 2**30}
LOAD = {
    "rate": 0, "batch": 500, "connections": 4, "cookies": 500_000, "speedup": 1,
    "idempotency_keys": True, "retry": True, "retry_for_s": 60,
    "timeout_ms": 10_000, "aggregate_timeout_ms": 60_000,
    "profile_every": 1000, "aggregate_every": 100_000,
}
# The limits of values-production.yaml; the CPU that it asks for, this machine need not have.
PRODUCTION = {f"{component}.resources.limits.memory": size for component, size in
              (("gateway", "1Gi"), ("profile", "8Gi"), ("aggregate", "8Gi"))}
# (anonymous memory, working set) of each pod, in bytes, sample by sample
Samples = dict[str, list[tuple[int, int]]]


def at_the_limit(stage: Stage) -> None:
    where, samples = stage.cluster, {}
    load, end = stage.load(**LOAD), time.monotonic() + stage.options.minutes * 60
    while time.monotonic() < end:
        load.check_running()
        sample(where, samples)
        time.sleep(SAMPLE_S)
    stage.say("the batches end; now whole profiles and all minutes, ten at a time, are asked for")
    report = stage.end_load(load)
    sample(where, samples)
    stage.note(f"{report['tags_sent']:,} tags in batches of {LOAD['batch']}, "
               f"{report['tags_per_s']:,.0f}/s for {stage.options.minutes:g} minutes; then "
               f"{report['profiles']['answered']:,} profiles and "
               f"{report['aggregates']['answered']:,} aggregates")
    for pod, limit in sorted(limits_of(where).items()):
        tell(stage, pod, samples.get(pod, []), limit)
    for pod in where.pods():
        for container in pod.containers:
            reason = container.get("lastState", {}).get("terminated", {}).get("reason", "")
            stage.check(container["restartCount"] == 0, f"{pod.name} was restarted: {reason}")


def tell(stage: Stage, pod: str, found: list[tuple[int, int]], limit: int) -> None:
    if not found:
        raise ClusterError(f"the kubelet has told nothing of the memory of {pod}")
    anonymous, working = max(size for size, _ in found), max(size for _, size in found)
    for problem in judge(pod, [size for size, _ in found], limit):
        stage.check(False, problem)
    stage.note(f"{pod}: at most {anonymous / MIB:.0f} MiB of its own, {anonymous / limit:.0%} of "
               f"its limit; {working / MIB:.0f} MiB with files in use")


def judge(pod: str, sizes: list[float], limit: float) -> list[str]:
    found, third = [], max(1, len(sizes) // 3)
    if max(sizes) >= SHARE_MAX * limit:
        found.append(f"{pod} took {max(sizes) / limit:.0%} of its limit")
    growth = (max(sizes[-third:]) - max(sizes[third:2 * third] or sizes[:third])) / limit
    if growth > GROWTH_MAX:
        found.append(f"{pod} still grew, by {growth:.0%} of its limit, in the last third")
    return found


def sample(where: Cluster, samples: Samples) -> None:
    pods = {pod.name: pod.node for pod in where.pods()}
    for node in sorted(set(pods.values()) - {""}):
        for pod in where.api.get(f"/api/v1/nodes/{node}/proxy/stats/summary")["pods"]:
            name, memory = pod["podRef"]["name"], pod["containers"][0].get("memory", {})
            ours = name in pods and pod["podRef"]["namespace"] == where.namespace
            if ours and "rssBytes" in memory:
                samples.setdefault(name, []).append((memory["rssBytes"], memory["workingSetBytes"]))


def limits_of(where: Cluster) -> dict[str, int]:
    names, found = {pod.name for pod in where.pods()}, {}
    for item in where.items("pods"):
        if item["metadata"]["name"] in names:
            limit = item["spec"]["containers"][0]["resources"]["limits"]["memory"]
            found[item["metadata"]["name"]] = int(limit[:-2]) * UNITS[limit[-2:]]
    return found
