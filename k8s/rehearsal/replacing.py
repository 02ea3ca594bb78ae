# SPDX-License-Identifier: Apache-2.0
"""Pods that are replaced: one by one, all by a restart, all by an upgrade."""

from __future__ import annotations

import time

from cluster import CHART, GATEWAY, RELEASE, SELECTOR, ClusterError, Pod
from stage import Stage

# From the deletion of a node's pod to its being ready again.
BACK_MAX_S = 15
ROLLOUT_TIMEOUT_S = 300


def every_pod(stage: Stage) -> None:
    """Each one deleted, and ready before the next."""
    slowest: dict[str, float] = {}
    for pod in stage.cluster.pods():
        seconds = delete(stage, pod)
        slowest[pod.component] = max(slowest.get(pod.component, 0.0), seconds)
        stage.check(pod.component == GATEWAY or seconds <= BACK_MAX_S,
                    f"{pod.name} took {seconds:.1f} s to be ready again")
    stage.note("ready again after, at most: " +
               ", ".join(f"{name} {seconds:.1f} s" for name, seconds in slowest.items()))


def delete(stage: Stage, pod: Pod) -> float:
    """Deletes it; how long it took until all were ready, in seconds."""
    where, wanted, begun = stage.cluster, stage.cluster.wanted(), time.monotonic()

    def replaced() -> bool:
        # Another pod of that name is another pod.
        return where.ready() == wanted and all(
            other.uid != pod.uid or other.ending for other in where.pods())

    where.kubectl("delete", f"pod/{pod.name}", "--wait=false")
    where.wait(f"{pod.name} replaced", replaced)
    seconds = time.monotonic() - begun
    stage.say(f"{pod.name} deleted, and all ready {seconds:.1f} s later")
    return seconds


def restart_and_upgrade(stage: Stage) -> None:
    where, begun = stage.cluster, time.monotonic()
    workloads = [f"{item['kind'].lower()}/{item['metadata']['name']}"
                 for item in where.items("statefulsets,deployments", SELECTOR)]
    where.kubectl("rollout", "restart", *workloads)
    for workload in workloads:
        where.kubectl("rollout", "status", workload, f"--timeout={ROLLOUT_TIMEOUT_S}s")
    where.wait_ready()
    stage.note(f"rollout restart of {len(workloads)} workloads: {time.monotonic() - begun:.0f} s")
    other_tag = where.other_tag()
    if not other_tag:
        stage.note("no upgrade: a second tag of the image is not known here (--other-tag)")
        return
    before = images(stage)
    values = where.values(stage.rehearsal.values | {"image.tag": other_tag})
    helm(stage, "upgrade", RELEASE, CHART, *values)
    after = images(stage)
    stage.check(not before & after, f"the upgrade has left {before & after}")
    helm(stage, "rollback", RELEASE)
    stage.check(images(stage) == before, f"after the rollback {images(stage)} run, not {before}")


def images(stage: Stage) -> set[str]:
    return {pod.image for pod in stage.cluster.pods() if not pod.ending}


def helm(stage: Stage, *arguments) -> None:
    begun = time.monotonic()
    done, said = stage.cluster.helm(*arguments, "--wait", f"--timeout={ROLLOUT_TIMEOUT_S}s")
    if not done:
        raise ClusterError(f"helm {arguments[0]}: {said}", stage.cluster.state())
    stage.cluster.wait_ready()
    stage.note(f"helm {arguments[0]}: {time.monotonic() - begun:.0f} s")
