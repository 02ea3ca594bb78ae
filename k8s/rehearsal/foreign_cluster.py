# SPDX-License-Identifier: Apache-2.0
"""Any other cluster, by a kubeconfig. What would touch more than a namespace is left out there, and
nginx, since no client of ours is beside its nodes."""

from __future__ import annotations

import pathlib

import cluster
from cluster import OURS, ClusterError


class ForeignCluster(cluster.Cluster):
    # Not where somebody may have data.
    namespace = "allezon-rehearsal"

    def __init__(self, kubeconfig: pathlib.Path, image: str, other_tag: str):
        if not kubeconfig.exists():
            raise ClusterError(f"--kubeconfig: there is no {kubeconfig}")
        repository, _, tag = image.rpartition(":")
        if image and (not repository or "/" in tag):
            raise ClusterError(f"--image: '{image}' is not NAME:TAG")
        values = {"image.repository": repository, "image.tag": tag} if image else {}
        super().__init__(kubeconfig, [], values, {})
        self._other_tag = other_tag
        for item in self.api.get("/api/v1/namespaces")["items"]:
            name, labels = item["metadata"]["name"], item["metadata"].get("labels", {})
            if name.startswith(self.namespace) and labels.get(OURS) != "true":
                raise ClusterError(f"the namespace {name} is there, and not from a rehearsal",
                                   "it would be deleted")
        groups = {group["name"] for group in self.api.get("/apis")["groups"]}
        self.offers = frozenset({"metrics"} if "metrics.k8s.io" in groups else ())

    def other_tag(self) -> str:
        return self._other_tag
