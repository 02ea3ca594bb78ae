# SPDX-License-Identifier: Apache-2.0
"""Renders the chart. No cluster is asked."""

from __future__ import annotations

import pathlib
import subprocess
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "k8s/chart"
HELM = ROOT / "build/tools/helm"
NAMESPACE = "shop"
COMPONENTS = ("gateway", "profile", "aggregate")
NODES = ("profile", "aggregate")

VALUES_FILES = {"default": None, "local": CHART / "values-local.yaml",
                "production": CHART / "values-production.yaml"}

# Every branch of the templates is taken by one of them.
VARIANTS = {
    "zones": {"cluster": {"zones": ["a", "b", "c"]}, "profile": {"replicas": 5}},
    "two_zones": {"cluster": {"zones": ["eu-1", "eu-2"]}},
    "ipv6": {"listenHost": "[::]", "gateway": {"service": {"ipFamilyPolicy": "PreferDualStack"}}},
    "full_names": {"cluster": {"domain": "cluster.local", "name": "tags"}},
    "digest": {"image": {"repository": "registry.test/team/allezon", "digest": "sha256:" + "0" * 64},
               "imagePullSecrets": [{"name": "pull"}]},
    "edges": {"gateway": {
        "ingress": {"enabled": True, "className": "nginx", "annotations": {"a": "b"},
                    "hosts": ["tags.test"], "tls": [{"secretName": "t", "hosts": ["tags.test"]}]},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "edge"}], "hostnames": ["tags.test"]},
        "service": {"type": "NodePort", "nodePort": 30080, "externalTrafficPolicy": "Local",
                    "annotations": {"a": "b"}}}},
    "autoscaling": {"gateway": {"autoscaling": {"enabled": True}}},
    "monitoring": {"monitoring": {"podMonitor": {"enabled": True, "labels": {"release": "p"}},
                                  "prometheusRule": {"enabled": True, "labels": {"release": "p"}}}},
    "without": {"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False},
                "serviceAccount": {"create": False, "name": "other"},
                "monitoring": {"scrapeAnnotations": False}},
    "closed": {"networkPolicy": {
        "gatewayFrom": [{"podSelector": {"matchLabels": {"app": "nginx"}}}],
        "grpcFrom": [{"namespaceSelector": {"matchLabels": {"team": "recommendations"}}}],
        "metricsFrom": [], "extraEgress": [{"ports": [{"port": 4317}]}]}},
    "pods": {"commonLabels": {"team": "x"}, "commonAnnotations": {"owner": "x"},
             "fullnameOverride": "tags", "nameOverride": "tags",
             **{component: {
                 "extraArgs": ["--future_max_s=60"], "extraEnv": [{"name": "A", "value": "b"}],
                 "podLabels": {"l": "v"}, "podAnnotations": {"note": "v"}, "nodeSelector": {"pool": "x"},
                 "tolerations": [{"key": "k", "operator": "Exists"}], "priorityClassName": "high",
                 "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                     {"weight": 1, "preference": {"matchExpressions": [
                         {"key": "disk", "operator": "In", "values": ["nvme"]}]}}]}},
                 "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                                                "whenUnsatisfiable": "ScheduleAnyway"}]}
                for component in COMPONENTS}},
    "storage": {"profile": {"storage": {"size": "50Gi", "storageClass": "fast"}, "preStopSeconds": 0}},
}


class Objects:
    """What was rendered, by kind and name."""

    def __init__(self, documents: list[dict]):
        self.all = documents

    def of(self, kind: str) -> dict[str, dict]:
        found = {document["metadata"]["name"]: document for document in self.all
                 if document["kind"] == kind}
        assert len(found) == sum(document["kind"] == kind for document in self.all), "two of one name"
        return found

    def workloads(self) -> dict[str, dict]:
        return self.of("StatefulSet") | self.of("Deployment")

    def pods(self) -> dict[str, dict]:
        """The pod templates, and pods of hooks, by the name of their owner."""
        return {name: owner["spec"]["template"] for name, owner in self.workloads().items()} | \
            self.of("Pod")


def _template(values: dict | None, files: tuple, options: tuple) -> subprocess.CompletedProcess:
    assert HELM.exists(), "no helm: ./dev lint kubernetes installs it"
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as given:
        yaml.safe_dump(values or {}, given)
        given.flush()
        named = [f"--values={name}" for name in (*files, given.name) if name]
        return subprocess.run(
            (HELM, "template", "allezon", CHART, f"--namespace={NAMESPACE}", *named, *options),
            capture_output=True, text=True, check=False, timeout=60)


def render(values: dict | None = None, *files, options: tuple = ()) -> Objects:
    result = _template(values, files, options)
    assert result.returncode == 0, result.stderr
    return Objects([document for document in yaml.safe_load_all(result.stdout) if document])


def refused(values: dict, *files) -> str:
    """What helm says where it does not render the chart with these values."""
    result = _template(values, files, ())
    assert result.returncode != 0, f"was rendered with {values}"
    return result.stderr


def component_of(item: dict) -> str:
    return item["metadata"]["labels"].get("app.kubernetes.io/component", "")


def matches(selector: dict, labels: dict) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())
