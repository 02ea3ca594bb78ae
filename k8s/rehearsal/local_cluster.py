# SPDX-License-Identifier: Apache-2.0
"""The cluster of ./dev kubernetes up, whose nodes can be cut off and lost, and whose control plane
can be ended."""

from __future__ import annotations

import cluster

import control
import kubernetes
import network
import nodes
import processes
import programs
from settings import CLIENT, CLIENT_ADDRESS, CONTROL, NODE_PORT, Node

OTHER_TAG = "rehearsal"
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


class LocalCluster(cluster.Cluster):
    local = True
    offers = frozenset({"nodes", "control plane", "nginx", "metrics"})

    def __init__(self):
        super().__init__(control.ADMIN, processes.inside(CONTROL), {"image.pullPolicy": "Never"}, {
            "gateway.service.type": "NodePort", "gateway.service.nodePort": NODE_PORT,
            # A node's port leads to its own gateways: so it is known who is behind which.
            "gateway.service.externalTrafficPolicy": "Local"}, control.api())
        self.nodes = kubernetes.the_nodes()
        self.client, self.client_address = processes.inside(CLIENT), CLIENT_ADDRESS

    def entries(self, chosen: list[Node]) -> list[str]:
        """host:port of the gateways on these nodes, for those outside."""
        return [f"{node.address}:{NODE_PORT}" for node in chosen]

    def erase(self, namespace: str = "") -> None:
        super().erase(namespace)
        self.kubectl("delete", "persistentvolumes", "--all", "--timeout=60s")
        for node in self.nodes:
            nodes.empty_volumes(node)
        control.apply(nodes.volumes(self.nodes))

    def other_tag(self) -> str:
        for node in self.nodes:
            nodes.tag(node, self.installed_image(), OTHER_TAG)
        return OTHER_TAG

    # --- faults ---

    def cut(self, node: Node) -> None:
        network.set_cable(node, False)

    def join(self, node: Node) -> None:
        network.set_cable(node, True)

    def lose(self, node: Node) -> None:
        """For good: whatever was on it is gone."""
        network.set_cable(node, False)
        nodes.lose(node)

    def replace(self, node: Node) -> None:
        """A new, empty one under the name of one that was lost, and whose Node was deleted."""
        network.set_cable(node, True)
        nodes.start(node, programs.build(), kubernetes.images_of_nodes())
        self.wait(f"node {node.name}", lambda: self.nodes_ready().get(node.name, False))

    def end_control_plane(self) -> None:
        processes.end(list(CONTROL_PLANE), kill=True)

    def start_control_plane(self) -> None:
        for name in CONTROL_PLANE:
            processes.restart(name)
            if name == "kube-apiserver":
                processes.wait_for("the apiserver", control.ready, 60, ("etcd", "kube-apiserver"))
