# SPDX-License-Identifier: Apache-2.0
"""Nodes of Kubernetes that are drained, cut off, and lost."""

from __future__ import annotations

import subprocess
import time

from cluster import COMPONENTS, GATEWAY, POLL_S, SERVICES, Cluster, ClusterError
from stage import Stage

DRAIN_TIMEOUT_S = 180
CUT_S = 60
# The cluster's DNS may lead to an old address for so long (docs/kubernetes.md, "Drain").
BETWEEN_DRAINS_S = 10
# By when the control plane has missed a node.
MISSED_TIMEOUT_S = 120


# --- drained ---


def drain_each(stage: Stage) -> None:
    names = sorted(stage.cluster.nodes_ready())
    stage.cleanup(lambda: stage.cluster.kubectl("uncordon", *names))  # whatever comes of it
    for name in names:
        drain_one(stage, name)
        time.sleep(BETWEEN_DRAINS_S)


def drain_one(stage: Stage, node: str) -> None:
    where = stage.cluster
    there, wanted = [pod for pod in where.pods() if pod.node == node], where.wanted()
    seconds, fewest = drain(stage, node)
    for component in COMPONENTS:
        stage.check(fewest[component] >= wanted[component] - 1,
                    f"{fewest[component]} of {wanted[component]} {component} pods were ready "
                    f"while {node} was drained")
    waiting = {pod.name for pod in where.pods(*SERVICES) if not pod.node}
    stage.check(waiting == {pod.name for pod in there if pod.component != GATEWAY},
                f"after the drain of {node}, {sorted(waiting) or 'no pods'} wait for it")
    where.kubectl("uncordon", node)
    back_s = where.wait_ready()
    stage.note(f"{node}: {len(there)} pods evicted within {seconds:.0f} s, {len(waiting)} waited "
               f"for uncordon and were ready {back_s:.0f} s after it")


def drain(stage: Stage, node: str) -> tuple[float, dict[str, int]]:
    """How long it took, in seconds, and the fewest pods of each component ready meanwhile."""
    where, begun, fewest = stage.cluster, time.monotonic(), stage.cluster.ready()
    command = where.command("kubectl", "drain", node, "--ignore-daemonsets",
                            "--delete-emptydir-data", f"--timeout={DRAIN_TIMEOUT_S}s")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as process:
        while process.poll() is None:
            now = where.ready()
            fewest = {component: min(fewest[component], now[component]) for component in COMPONENTS}
            time.sleep(POLL_S)
        said = process.stdout.read()
    if process.returncode != 0:
        raise ClusterError(f"kubectl drain {node}: {said}", where.state())
    return time.monotonic() - begun, fewest


# --- cut off, and lost ---


def victim(where: Cluster):
    """The node that goes: not the first, over which the client reaches Services, and one beside
    which there are gateways."""
    gateways = {pod.node for pod in where.pods(GATEWAY)}
    for node in reversed(where.nodes[1:]):
        if gateways - {node.name}:
            return node
    raise ClusterError("all gateways are on one node")


def gateways_that_live(where: Cluster) -> list[str]:
    living = {pod.node for pod in where.pods(GATEWAY)} - {victim(where).name}
    return where.entries([node for node in where.nodes if node.name in living])


def cut_off(stage: Stage) -> None:
    where, node = stage.cluster, victim(stage.cluster)
    there = [pod.name for pod in where.pods() if pod.node == node.name]
    stage.say(f"cutting off {node.name} with {', '.join(there)}")
    where.cut(node)
    try:
        time.sleep(CUT_S)
    finally:
        where.join(node)
    wanted = where.wanted()
    seconds = where.wait("all ready", lambda: all(where.nodes_ready().values()) and
                         where.ready() == wanted)
    stage.note(f"{node.name} with {len(there)} pods was cut off for {CUT_S} s; all were ready "
               f"{seconds:.0f} s after it was back")


def lost_for_good(stage: Stage) -> None:
    where, node = stage.cluster, victim(stage.cluster)
    there = [pod for pod in where.pods() if pod.node == node.name]
    stage.say(f"losing {node.name} with {', '.join(pod.name for pod in there)} and their volumes")
    stage.cleanup(lambda: renew(where, node))
    where.lose(node)
    where.wait(f"{node.name} is missed", lambda: not where.nodes_ready()[node.name],
               MISSED_TIMEOUT_S)
    begun = time.monotonic()
    # As docs/kubernetes.md says, "A node that is lost".
    where.kubectl("delete", "node", node.name)
    for pod in there:
        if pod.component in SERVICES:
            where.kubectl("delete", "pvc", f"data-{pod.name}", "--wait=false")
    for pod in there:
        where.kubectl("delete", "pod", pod.name, "--force", "--grace-period=0",
                      "--ignore-not-found")
    where.wait_ready()
    stage.note(f"{len(there)} pods of the lost {node.name} were ready elsewhere "
               f"{time.monotonic() - begun:.0f} s after its Node was deleted")
    stage.check(all(pod.node != node.name for pod in where.pods()), f"pods are on {node.name}")


def renew(where: Cluster, node) -> None:
    """For the rehearsals that follow: as many nodes as before, and nothing installed."""
    where.kubectl("delete", "node", node.name, "--ignore-not-found")
    where.replace(node)
    where.erase()
